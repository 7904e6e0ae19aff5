//! Takes a cluster down, whole or half-built: from what the kernel shows, not from what somebody remembered to write down.
//!
//! Processes of the cluster carry its mark in their environment, which containerd hands to its shims. Containers are found in
//! the nodes' cgroups. All mounts of a node are in its mount namespace, and go with it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use super::cgroup;
use super::layout::{Layout, MARK, NODES_MAX, Place};
use crate::process::run;
use crate::{tools, wait};

const END_LIMIT: Duration = Duration::from_secs(30);
const CGROUP_LIMIT: Duration = Duration::from_secs(10);

/// Ends every process, and removes every namespace, mount, cgroup and file of this cluster. No error if there are none.
pub(super) fn down(layout: &Layout) -> Result<()> {
    tools::require_root("a cluster")?;
    end_processes(layout)?;
    unmount_below(layout.dir())?;
    for place in every_place().filter(|place| layout.netns(*place).exists()) {
        run(Command::new("ip").args(["netns", "delete", &layout.name(place)]))?;
    }
    wait::until("the cgroups to be removed", CGROUP_LIMIT, || {
        every_place().try_for_each(|place| cgroup::remove(&layout.name(place))).map(Some)
    })?;
    match fs::remove_dir_all(layout.dir()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context("delete the cluster's folder"),
        _ => Ok(()),
    }
}

/// The folder of another cluster that runs under the same prefix.
pub(super) fn rival(layout: &Layout) -> Option<String> {
    let ours = format!("{MARK}={}:", layout.prefix());
    let marks = processes().filter_map(environment).flatten();
    marks.filter_map(|entry| entry.strip_prefix(&ours).map(str::to_owned)).find(|dir| Path::new(dir) != layout.dir())
}

/// Whether this process lives and has this mark. A process that is just being replaced by another program shows no
/// environment at all, nor does one that has ended and waits to be reaped.
pub(super) fn still_is(pid: Pid, mark: &str) -> bool {
    match environment(pid) {
        Some(entries) if entries.iter().any(|entry| !entry.is_empty()) => has_mark(&entries, mark),
        Some(_) => !is_zombie(pid),
        None => false,
    }
}

fn end_processes(layout: &Layout) -> Result<()> {
    let mark = layout.mark();
    let mut quiet = 0;
    wait::until("the cluster's processes to end", END_LIMIT, || {
        let marked = processes().filter(|pid| environment(*pid).is_some_and(|entries| has_mark(&entries, &mark)));
        let contained = every_place().flat_map(|place| cgroup::processes(&layout.name(place))).filter(|pid| !is_zombie(*pid));
        let mut ended = 0;
        for pid in marked.chain(contained) {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::KILL);
            ended += 1;
        }
        // A process is invisible while it becomes another program: one look is not enough.
        quiet = if ended == 0 { quiet + 1 } else { 0 };
        Ok((quiet == 3).then_some(()))
    })
}

fn unmount_below(dir: &Path) -> Result<()> {
    for mount in mounts_below(dir)?.iter().rev() {
        unmount(mount.as_path(), UnmountFlags::DETACH).with_context(|| format!("unmount {}", mount.display()))?;
    }
    let left = mounts_below(dir)?;
    ensure!(left.is_empty(), "still mounted: {left:?}");
    Ok(())
}

fn mounts_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read the mounts")?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    Ok(points.filter(|point| point.starts_with(dir)).collect())
}

fn every_place() -> impl Iterator<Item = Place> {
    (1..=NODES_MAX).map(Place::Node).chain([Place::Hub])
}

fn processes() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(Pid::from_raw).filter(|pid| *pid != rustix::process::getpid())
}

fn environment(pid: Pid) -> Option<Vec<String>> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).ok()?;
    Some(bytes.split(|byte| *byte == 0).map(|entry| String::from_utf8_lossy(entry).into_owned()).collect())
}

fn has_mark(entries: &[String], mark: &str) -> bool {
    entries.iter().any(|entry| entry.strip_prefix(MARK).and_then(|rest| rest.strip_prefix('=')) == Some(mark))
}

fn is_zombie(pid: Pid) -> bool {
    // The name in brackets may hold anything; the state follows the last bracket.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}
