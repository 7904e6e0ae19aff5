//! One node, as a test handles it: its containerd, its files, its processes, its cable.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::layout::{self, Layout, Place};
use super::service::Service;
use super::{enter, network};
use crate::containerd::Release;
use crate::process::run_text;
use crate::tools;

/// A node of a running cluster.
#[derive(Clone, Debug)]
pub struct Node {
    layout: Layout,
    number: u8,
}

impl Node {
    pub(super) fn new(layout: &Layout, number: u8) -> Self {
        Self { layout: layout.clone(), number }
    }

    fn place(&self) -> Place {
        Place::Node(self.number)
    }

    /// Its name in Kubernetes, such as `node1`.
    pub fn name(&self) -> String {
        self.place().to_string()
    }

    /// Its address on the network between the nodes.
    pub fn address(&self) -> String {
        self.place().address()
    }

    /// Which containerd it has.
    pub fn release(&self) -> Release {
        layout::release(self.place())
    }

    /// A command that runs `program` on the node.
    pub fn command(&self, program: &str) -> Command {
        enter::command(&self.layout, self.place(), Path::new(program))
    }

    /// Runs a shell command on the node and returns what it prints.
    pub fn sh(&self, script: &str) -> Result<String> {
        run_text(self.command("sh").args(["-c", script]))
    }

    /// Runs `ctr` in the namespace of Kubernetes and returns what it prints.
    pub fn ctr(&self, arguments: &[&str]) -> Result<String> {
        let ctr = match self.release() {
            Release::V1_6 => tools::debian("ctr")?,
            Release::V2_2 => tools::built("ctr")?,
        };
        let mut command = enter::command(&self.layout, self.place(), &ctr);
        run_text(command.args(["--namespace", "k8s.io", "--timeout", "120s"]).args(arguments))
    }

    /// The names of the images that it holds: tags, digests and ids.
    pub fn images(&self) -> Result<Vec<String>> {
        Ok(self.ctr(&["images", "list", "--quiet"])?.lines().map(str::to_owned).collect())
    }

    /// Removes every name of this image and its content, so that the next pull fetches all of it. No error if it is not there.
    pub fn remove_image(&self, name: &str) -> Result<()> {
        let list = self.ctr(&["images", "list"])?;
        let entries: Vec<(&str, &str)> = list.lines().skip(1).filter_map(name_and_digest).collect();
        let Some((_, digest)) = entries.iter().find(|(entry, _)| *entry == name) else { return Ok(()) };
        let names = entries.iter().filter(|(_, of)| of == digest).map(|(entry, _)| *entry);
        let arguments: Vec<&str> = ["images", "remove", "--sync"].into_iter().chain(names).collect();
        self.ctr(&arguments).map(drop)
    }

    /// Imports an OCI archive under the name that it carries.
    pub fn import(&self, archive: &Path) -> Result<()> {
        let archive = fs::canonicalize(archive).with_context(|| format!("find {}", archive.display()))?;
        let archive = archive.to_str().context("the archive's path must be UTF-8")?;
        self.ctr(&["images", "import", archive]).map(drop)
    }

    /// Makes containerd reach `registry` by these lines of a `hosts.toml`, from its next pull on.
    pub fn set_hosts(&self, registry: &str, hosts_toml: &str) -> Result<()> {
        let dir = self.path("/etc/containerd/certs.d").join(registry);
        fs::create_dir_all(&dir)?;
        // Replaced whole: containerd reads it whenever it likes.
        fs::write(dir.join("hosts.toml.new"), hosts_toml)?;
        fs::rename(dir.join("hosts.toml.new"), dir.join("hosts.toml")).context("write hosts.toml")
    }

    /// Forgets what [`Node::set_hosts`] said about `registry`.
    pub fn unset_hosts(&self, registry: &str) -> Result<()> {
        fs::remove_dir_all(self.path("/etc/containerd/certs.d").join(registry)).context("remove hosts.toml")
    }

    /// Where one of the node's own files is to be found from outside: those below `/etc/containerd`, `/run/containerd`,
    /// `/var/lib/containerd`, `/var/lib/kubelet`, `/var/lib/kuik` and `/var/log`.
    pub fn path(&self, path: &str) -> PathBuf {
        self.layout.at(self.place(), "root").join(path.trim_start_matches('/'))
    }

    /// Its `containerd`, to stop and start.
    pub fn containerd(&self) -> Service {
        Service::new(&self.layout, self.place(), "containerd")
    }

    /// Its kubelet, to stop and start.
    pub fn kubelet(&self) -> Service {
        Service::new(&self.layout, self.place(), "kubelet")
    }

    /// Takes it off the network: its pods run on, and nobody reaches them.
    pub fn unplug(&self) -> Result<()> {
        network::plug(&self.layout, self.place(), false)
    }

    /// Puts it back on the network.
    pub fn plug(&self) -> Result<()> {
        network::plug(&self.layout, self.place(), true)
    }

    /// As [`crate::cluster::Cluster::in_hub`], on this node: sees its loopback, its host ports and the addresses of Services.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        enter::in_netns(&self.layout.netns(self.place()), work)
    }
}

/// Of a line such as `NAME TYPE sha256:… SIZE …`.
fn name_and_digest(line: &str) -> Option<(&str, &str)> {
    let mut fields = line.split_whitespace();
    Some((fields.next()?, fields.nth(1)?))
}
