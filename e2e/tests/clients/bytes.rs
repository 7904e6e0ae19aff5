//! Whatever is in the registry comes through byte for byte, and stays when the registry is gone.

use anyhow::{Context as _, Result, ensure};
use kuik_e2e::images::{self, Compression, Image};

use crate::setup::Setup;

#[test]
fn an_index_of_platforms_is_byte_exact() -> Result<()> {
    check(&images::multi_arch("bytes-multi-arch")?)
}

#[test]
fn a_nested_index_is_byte_exact() -> Result<()> {
    check(&images::nested("bytes-nested")?)
}

#[test]
fn docker_schema_2_is_byte_exact() -> Result<()> {
    check(&images::docker("bytes-docker")?)
}

#[test]
fn a_zstd_layer_is_byte_exact() -> Result<()> {
    check(&images::with_layer("bytes-zstd", Compression::Zstd)?)
}

#[test]
fn an_artifact_is_byte_exact() -> Result<()> {
    check(&images::artifact("bytes-artifact"))
}

fn check(image: &Image) -> Result<()> {
    let mut setup = Setup::start()?;
    setup.push("team/app", "v1", image)?;
    check_all(&setup, image).context("with the registry up")?;
    setup.registry.down()?;
    check_all(&setup, image).context("with the registry down")?;
    setup.agent.restart()?;
    check_all(&setup, image).context("with the registry down and the agent restarted")
}

fn check_all(setup: &Setup, image: &Image) -> Result<()> {
    check_manifest(setup, "v1", image.root())?;
    for manifest in &image.manifests {
        check_manifest(setup, &manifest.digest, manifest)?;
    }
    for blob in &image.blobs {
        let path = format!("blobs/{}", blob.digest);
        let reply = setup.get("team/app", &path)?;
        ensure!(reply.status == 200, "{path}: {}", reply.status);
        ensure!(reply.body == blob.bytes, "{path}: other bytes");
    }
    Ok(())
}

fn check_manifest(setup: &Setup, reference: &str, expected: &images::Content) -> Result<()> {
    let path = format!("manifests/{reference}");
    let reply = setup.get("team/app", &path)?;
    ensure!(reply.status == 200, "{path}: {} {}", reply.status, String::from_utf8_lossy(&reply.body));
    ensure!(reply.body == expected.bytes, "{path}: other bytes");
    ensure!(reply.header("content-type") == Some(&expected.media_type), "{path}: another media type");
    ensure!(reply.header("docker-content-digest") == Some(&expected.digest), "{path}: another digest");
    Ok(())
}
