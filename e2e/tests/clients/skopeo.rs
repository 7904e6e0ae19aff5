//! skopeo, which tries TLS before it speaks plain HTTP.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kuik_e2e::images::{self, Image};
use kuik_e2e::process::{client, run, run_text};
use kuik_e2e::tools;
use serde_json::Value;

use crate::setup::Setup;

/// An agent that leaves the TLS hello unanswered costs skopeo ten seconds.
const TLS_FALLBACK_LIMIT: Duration = Duration::from_secs(5);

#[test]
fn skopeo_inspects_with_the_registry_s_digest_without_waiting_for_tls() -> Result<()> {
    let setup = Setup::start()?;
    let image = images::multi_arch("skopeo inspects")?;
    setup.push("team/app", "v1", &image)?;
    let start = Instant::now();
    let text = run_text(skopeo("inspect")?.args(["--tls-verify=false", &docker(&setup, ":v1")]))?;
    let took = start.elapsed();
    ensure!(took < TLS_FALLBACK_LIMIT, "skopeo took {took:?}");
    let said: Value = serde_json::from_str(&text).context("skopeo's output")?;
    ensure!(said["Digest"] == image.root().digest, "skopeo said {text}");
    Ok(())
}

#[test]
fn skopeo_copies_the_same_bytes_with_the_registry_up_and_down() -> Result<()> {
    let mut setup = Setup::start()?;
    let image = images::multi_arch("skopeo copies")?;
    setup.push("team/app", "v1", &image)?;
    check_copy(&setup, &image)?;
    setup.registry.down()?;
    check_copy(&setup, &image)
}

fn check_copy(setup: &Setup, image: &Image) -> Result<()> {
    let dir = tempfile::tempdir().context("make a directory for the copy")?;
    let target = format!("dir:{}", dir.path().display());
    let mut copy = skopeo("copy")?;
    run(copy.args(["--all", "--preserve-digests", "--src-tls-verify=false", &docker(setup, ":v1"), &target]))?;
    ensure!(fs::read(dir.path().join("manifest.json"))? == image.root().bytes, "another index");
    for content in image.blobs.iter().chain(&image.manifests[..image.manifests.len() - 1]) {
        ensure!(copied(dir.path(), &content.digest)? == content.bytes, "other bytes of {}", content.digest);
    }
    Ok(())
}

/// skopeo names blobs by their hex digest, manifests too, with an ending.
fn copied(dir: &Path, digest: &str) -> Result<Vec<u8>> {
    let hex = digest.trim_start_matches("sha256:");
    fs::read(dir.join(hex))
        .or_else(|_| fs::read(dir.join(format!("{hex}.manifest.json"))))
        .with_context(|| format!("skopeo did not copy {digest}"))
}

fn docker(setup: &Setup, suffix: &str) -> String {
    format!("docker://{}", setup.image("team/app", suffix))
}

fn skopeo(verb: &str) -> Result<Command> {
    let mut command = client(&tools::debian("skopeo")?);
    // The policy of the machine is not what is tested; Debian's may be absent.
    command.args(["--insecure-policy", verb]);
    Ok(command)
}
