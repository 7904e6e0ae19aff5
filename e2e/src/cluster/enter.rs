//! Doing something at a place: programs through `nsenter`, this program's own requests by moving a thread.
//!
//! `ip netns exec` would not do for programs: it mounts /sys anew, and the cgroups below it are gone.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::panic::resume_unwind;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::layout::{Layout, Place};

/// A command that runs `program` at `place`. On a node it starts in the node's root folder.
pub(super) fn command(layout: &Layout, place: Place, program: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command.args(arguments(layout, place)).arg(program).env("KUBECONFIG", layout.kubeconfig());
    command
}

/// The arguments of `nsenter` before the program.
pub(super) fn arguments(layout: &Layout, place: Place) -> Vec<String> {
    let mut arguments = vec![format!("--net={}", layout.netns(place).display())];
    arguments.extend(layout.mount_ns(place).map(|path| format!("--mount={}", path.display())));
    arguments.push("--".to_owned());
    arguments
}

/// Runs `work` on a thread whose sockets are in this network namespace.
pub fn in_netns<T: Send>(netns: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let netns_file = File::open(netns).with_context(|| format!("open {}", netns.display()))?;
    thread::scope(|scope| {
        let moved = scope.spawn(|| {
            move_into_link_name_space(netns_file.as_fd(), Some(LinkNameSpaceType::Network)).context("enter the network namespace")?;
            work()
        });
        moved.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}
