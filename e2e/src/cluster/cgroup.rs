//! A cgroup for each node, in which its kubelet keeps the pods: all nodes share the machine's cgroup file system.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::process::Pid;

const ROOT: &str = "/sys/fs/cgroup";
/// The controllers that the kubelet wants, for version 2.
const CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "hugetlb", "io", "memory", "pids"];

/// Makes the cgroup in every hierarchy.
pub(super) fn create(name: &str) -> Result<()> {
    if unified() {
        for controller in CONTROLLERS {
            // The kubelet says what it misses; not every kernel has every controller.
            drop(fs::write(Path::new(ROOT).join("cgroup.subtree_control"), format!("+{controller}")));
        }
    }
    for hierarchy in hierarchies().iter().filter(|hierarchy| !hierarchy.ends_with("unified")) {
        let dir = hierarchy.join(name);
        fs::create_dir_all(&dir).with_context(|| format!("make the cgroup {}", dir.display()))?;
        // In version 1 a new cpuset has no processors and no memory, and takes no process.
        for setting in ["cpuset.cpus", "cpuset.mems"] {
            if hierarchy.join(setting).exists() && !unified() {
                let value = fs::read(hierarchy.join(setting)).context("read the machine's cpuset")?;
                fs::write(dir.join(setting), value).context("write the node's cpuset")?;
            }
        }
    }
    Ok(())
}

/// Removes the cgroup and all below it, in every hierarchy. It must be without processes.
pub(super) fn remove(name: &str) -> Result<()> {
    hierarchies().iter().map(|hierarchy| hierarchy.join(name)).filter(|dir| dir.exists()).try_for_each(|dir| remove_tree(&dir))
}

/// The processes in the cgroup and below it.
pub(super) fn processes(name: &str) -> Vec<Pid> {
    let mut found = Vec::new();
    for hierarchy in hierarchies() {
        collect(&hierarchy.join(name), &mut found);
    }
    found
}

fn collect(dir: &Path, found: &mut Vec<Pid>) {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    found.extend(text.lines().filter_map(|line| line.parse().ok().and_then(Pid::from_raw)));
    children(dir).iter().for_each(|child| collect(child, found));
}

fn remove_tree(dir: &Path) -> Result<()> {
    children(dir).iter().try_for_each(|child| remove_tree(child))?;
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).with_context(|| format!("remove {}", dir.display())),
        _ => Ok(()),
    }
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// Version 2: one hierarchy for all controllers.
fn unified() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// Version 1 has one hierarchy for each controller; second names are links, and left out. Beside them there may be `unified`,
/// of version 2, without controllers: runc makes folders there, but the kubelet does not.
fn hierarchies() -> Vec<PathBuf> {
    if unified() {
        return vec![PathBuf::from(ROOT)];
    }
    children(Path::new(ROOT))
}
