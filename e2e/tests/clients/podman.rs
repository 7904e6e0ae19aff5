//! podman, with storage of its own.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kuik_e2e::images;
use kuik_e2e::process::{client, run, run_text};
use kuik_e2e::tools;
use tempfile::TempDir;

use crate::setup::Setup;

/// An agent that leaves the TLS hello unanswered costs podman ten seconds for each image.
const TLS_FALLBACK_LIMIT: Duration = Duration::from_secs(5);

#[test]
fn podman_pulls_with_the_registry_up_and_down_without_waiting_for_tls() -> Result<()> {
    tools::require_root("podman")?;
    let mut setup = Setup::start()?;
    let image = images::multi_arch("podman")?;
    setup.push("team/app", "v1", &image)?;
    check_pull(&setup, &image.root().digest)?;
    setup.registry.down()?;
    check_pull(&setup, &image.root().digest)
}

fn check_pull(setup: &Setup, digest: &str) -> Result<()> {
    let storage = TempDir::with_prefix("kuik-podman-").context("make a directory for podman")?;
    let image = setup.image("team/app", ":v1");
    let start = Instant::now();
    run(podman(&storage, "pull")?.args(["--tls-verify=false", &image]))?;
    let took = start.elapsed();
    ensure!(took < TLS_FALLBACK_LIMIT, "podman took {took:?}");
    let digests = run_text(podman(&storage, "image")?.args(["inspect", "--format", "{{.RepoDigests}}", &image]))?;
    ensure!(digests.contains(digest), "podman knows {digests} instead of {digest}");
    Ok(())
}

fn podman(storage: &TempDir, verb: &str) -> Result<Command> {
    let mut command = client(&tools::debian("podman")?);
    let dir = |name: &str| storage.path().join(name);
    command.arg("--root").arg(dir("root")).arg("--runroot").arg(dir("run")).arg("--tmpdir").arg(dir("tmp"));
    command.args(["--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=none", verb]);
    Ok(command)
}
