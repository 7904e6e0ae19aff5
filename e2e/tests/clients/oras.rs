//! oras: artifacts, and what refers to an image.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use kuik_e2e::images::{self, Image};
use kuik_e2e::process::{client, run, run_text};
use kuik_e2e::registry::{Kind, Registry};
use kuik_e2e::tools;

use crate::setup::Setup;

const SIGNATURE: &str = "application/vnd.kuik.test.signature";

#[test]
fn oras_pulls_an_artifact_with_the_registry_up_and_down() -> Result<()> {
    let mut setup = Setup::start()?;
    let artifact = images::artifact("oras pulls");
    setup.push("team/doc", "v1", &artifact)?;
    check_pull(&setup, &artifact)?;
    setup.registry.down()?;
    check_pull(&setup, &artifact)
}

#[test]
fn oras_discovers_referrers_by_the_api_with_the_registry_up_and_down() -> Result<()> {
    let mut setup = Setup::around(Registry::start_kind(Kind::Referrers)?)?;
    let (subject, signature) = push_signed(&setup)?;
    check_discover(&setup, &subject, &signature)?;
    setup.registry.down()?;
    check_discover(&setup, &subject, &signature)
}

#[test]
fn oras_discovers_referrers_by_the_tag_of_registries_without_the_api() -> Result<()> {
    let setup = Setup::start()?;
    let (subject, signature) = push_signed(&setup)?;
    let list = images::referrers_index(SIGNATURE, &signature);
    let tag = subject.root().digest.replace(':', "-");
    images::push_manifest(&setup.registry, "team/app", &tag, &list)?;
    check_discover(&setup, &subject, &signature)
}

fn push_signed(setup: &Setup) -> Result<(Image, Image)> {
    let subject = images::oci("signed")?;
    setup.push("team/app", "v1", &subject)?;
    let signature = images::referrer(SIGNATURE, "the signature", subject.root());
    setup.push("team/app", "signature", &signature)?;
    Ok((subject, signature))
}

fn check_pull(setup: &Setup, artifact: &Image) -> Result<()> {
    let dir = tempfile::tempdir().context("make a directory for the artifact")?;
    let image = setup.image("team/doc", ":v1");
    run(oras("pull")?.args(["--plain-http", &image, "--output"]).arg(dir.path()))?;
    ensure!(fs::read(dir.path().join("document"))? == artifact.blobs[1].bytes, "another document");
    Ok(())
}

fn check_discover(setup: &Setup, subject: &Image, signature: &Image) -> Result<()> {
    let image = setup.image("team/app", &format!("@{}", subject.root().digest));
    let said = run_text(oras("discover")?.args(["--plain-http", "--format=json", &image]))?;
    ensure!(said.contains(&signature.root().digest), "the signature is missing: {said}");
    Ok(())
}

fn oras(verb: &str) -> Result<Command> {
    let mut command = client(&tools::built("oras")?);
    command.arg(verb);
    Ok(command)
}
