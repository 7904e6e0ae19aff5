//! crane, which shows manifests as they are.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use kuik_e2e::images;
use kuik_e2e::process::{client, run, run_text};
use kuik_e2e::tools;

use crate::setup::Setup;

#[test]
fn crane_sees_what_it_sees_in_the_registry() -> Result<()> {
    let mut setup = Setup::start()?;
    let image = images::multi_arch("crane")?;
    setup.push("team/app", "v1", &image)?;
    let direct = format!("{}/team/app:v1", setup.registry.host());
    let expected_manifest = run(crane("manifest")?.arg(&direct))?.stdout;
    let expected_layout = layout(&direct)?;

    let through = setup.image("team/app", ":v1");
    for registry_up in [true, false] {
        if !registry_up {
            setup.registry.down()?;
        }
        ensure!(run(crane("manifest")?.arg(&through))?.stdout == expected_manifest, "another manifest");
        ensure!(run_text(crane("digest")?.arg(&through))?.trim() == image.root().digest, "another digest");
        ensure!(layout(&through)? == expected_layout, "other blobs");
    }
    Ok(())
}

/// Pulls into an OCI layout and returns its blobs: name and content.
fn layout(image: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let dir = tempfile::tempdir().context("make a directory for the layout")?;
    run(crane("pull")?.args(["--format=oci", image]).arg(dir.path()))?;
    blobs(&dir.path().join("blobs/sha256"))
}

fn blobs(dir: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let entry = entry?;
        found.push((entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?));
    }
    found.sort();
    Ok(found)
}

fn crane(verb: &str) -> Result<Command> {
    let mut command = client(&tools::built("crane")?);
    command.args([verb, "--insecure"]);
    Ok(command)
}
