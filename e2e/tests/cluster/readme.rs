//! Commands of the README, run as they stand there.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result};
use kuik_e2e::kube::Kube;
use kuik_e2e::process::{client, run_text};
use kuik_e2e::tools::debian;

use crate::kuik::repository_root;

/// Runs the block of shell commands that contains `part`, and returns what it prints.
pub(crate) fn run(kube: &Kube, part: &str) -> Result<String> {
    let readme = fs::read_to_string(repository_root().join("README.md")).context("read the README")?;
    let mut blocks = readme.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let commands = blocks.find(|block| block.contains(part)).with_context(|| format!("no commands in the README contain {part}"))?;
    // kubectl as the commands call it, however it reaches this cluster.
    let kubectl = kube.command("kubectl")?;
    let words = std::iter::once(kubectl.get_program()).chain(kubectl.get_args());
    let words: Vec<String> = words.map(|word| format!("'{}'", word.to_string_lossy())).collect();
    let dir = tempfile::tempdir().context("make a folder")?;
    let program = dir.path().join("kubectl");
    fs::write(&program, format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" "))).context("write kubectl")?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).context("write kubectl")?;
    let mut shell = client(&debian("sh")?);
    shell.args(["-c", commands]).env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", dir.path().display()));
    shell.envs(kubectl.get_envs().filter_map(|(name, value)| Some((name, value?))));
    run_text(&mut shell).with_context(|| format!("the README's commands:\n{commands}"))
}
