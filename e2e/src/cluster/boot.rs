//! Makes a node: a mount namespace in which the usual paths are the node's own, a cgroup, and containerd, kubelet, kube-proxy.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::layout::{self, Layout, Place, zone};
use super::node::Node;
use super::service::Service;
use super::{cgroup, config};
use crate::containerd::Release;
use crate::disk::FileSystem;
use crate::images;
use crate::process::run;
use crate::tools;

const CONTAINERD_LIMIT: Duration = Duration::from_secs(60);
const SYSTEM_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// What each node has for itself. Everything else is the machine's.
const OWN: [&str; 9] = [
    "/etc/cni/net.d",
    "/etc/containerd",
    "/run/containerd",
    "/run/netns",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/kubelet",
    "/var/lib/kuik",
    "/var/log",
];

/// What is on a node's own disk, if it has one.
const ON_DISK: [&str; 3] = ["/var/lib/containerd", "/var/lib/kubelet", "/var/lib/kuik"];

/// Binds each own folder over the usual one. They are shared within the node: a container may mount into one with
/// bidirectional propagation. Nothing of it is seen outside, for the namespace only receives.
const PREPARE: &str = r#"
    set -e
    root=$1
    shift
    for path; do
        mount --bind "$root$path" "$path"
        mount --make-rshared "$path"
    done
"#;

/// Makes the node's files, namespace and cgroup, and starts its containerd. Needs the network, not the API server.
pub(super) fn start_containerd(layout: &Layout, node: Place, sandbox: &Path) -> Result<()> {
    let Place::Node(number) = node else { return Ok(()) };
    write_files(layout, node, number)?;
    make_mount_ns(layout, node)?;
    cgroup::create(&layout.name(node))?;
    let release = layout::release(node);
    let (program, path) = match release {
        Release::V1_6 => (tools::debian("containerd")?, SYSTEM_PATH.to_owned()),
        // containerd finds its own shim by the PATH.
        Release::V2_2 => (tools::built("containerd")?, format!("{}:{SYSTEM_PATH}", tools::bin_dir()?.display())),
    };
    let argv = [program.display().to_string(), "--config=/etc/containerd/config.toml".to_owned()];
    let service = Service::new(layout, node, "containerd");
    service.define(&path, &argv)?;
    service.start()?;
    let node = Node::new(layout, number);
    service.wait_ready(CONTAINERD_LIMIT, || Ok(node.ctr(&["version"]).is_ok()))?;
    node.import(sandbox)
}

/// Starts the kubelet, which registers the node, and kube-proxy. Needs the API server.
pub(super) fn start_kubelet(layout: &Layout, node: Place) -> Result<()> {
    let Place::Node(number) = node else { return Ok(()) };
    let kubeconfig = layout.kubeconfig().display().to_string();
    let kubelet = Service::new(layout, node, "kubelet");
    let argv = [
        tools::built("kubelet")?.display().to_string(),
        "--config=/etc/containerd/kubelet.yaml".to_owned(),
        format!("--kubeconfig={kubeconfig}"),
        format!("--hostname-override={node}"),
        format!("--node-ip={}", node.address()),
        format!("--node-labels=topology.kubernetes.io/zone={}", zone(number)),
        "--v=2".to_owned(),
    ];
    kubelet.define(SYSTEM_PATH, &argv)?;
    kubelet.start()?;
    let proxy = Service::new(layout, node, "kube-proxy");
    proxy.define(SYSTEM_PATH, &[tools::built("kube-proxy")?.display().to_string(), "--config=/etc/containerd/proxy.yaml".to_owned()])?;
    proxy.start()
}

/// Packs the sandbox image: a process that does nothing until it is killed.
pub(super) fn pack_sandbox(layout: &Layout) -> Result<std::path::PathBuf> {
    let path = layout.path("sandbox.tar");
    let image = images::running(&["sleep", "infinity"])?;
    images::archive(&image, config::SANDBOX_IMAGE, &path)?;
    Ok(path)
}

fn write_files(layout: &Layout, node: Place, number: u8) -> Result<()> {
    let root = layout.at(node, "root");
    for path in OWN {
        fs::create_dir_all(root.join(path.trim_start_matches('/'))).with_context(|| format!("make {node}'s {path}"))?;
        // The machine needs the folder too, as a place to mount on.
        fs::create_dir_all(path).with_context(|| format!("make {path}"))?;
    }
    let write = |path: &str, text: String| fs::write(root.join(path), text).with_context(|| format!("write {node}'s /{path}"));
    fs::create_dir_all(root.join("etc/containerd/certs.d"))?;
    write("etc/containerd/config.toml", config::containerd(layout::release(node)))?;
    write("etc/containerd/kubelet.yaml", config::kubelet(layout, node))?;
    write("etc/containerd/proxy.yaml", config::proxy(&layout.kubeconfig().display().to_string(), node))?;
    write("etc/cni/net.d/10-pods.conflist", config::cni(number))
}

/// A mount namespace stays when a file holds it, on a file system that is not shared with the namespace itself.
fn make_mount_ns(layout: &Layout, node: Place) -> Result<()> {
    let (dir, root) = (layout.at(node, ""), layout.at(node, "root"));
    let holder = layout.mount_ns(node).context("a node must have a mount namespace")?;
    run(Command::new("mount").arg("--bind").arg(&dir).arg(&dir))?;
    run(Command::new("mount").arg("--make-private").arg(&dir))?;
    fs::write(&holder, "")?;
    if let Some(size_bytes) = layout::disk_bytes(node) {
        mount_disk(&dir, &root, size_bytes).with_context(|| format!("make {node}'s disk"))?;
    }
    let mut unshare = Command::new("unshare");
    unshare.arg(format!("--mount={}", holder.display())).args(["--propagation", "slave", "sh", "-c", PREPARE, "sh"]);
    run(unshare.arg(root).args(OWN)).with_context(|| format!("make {node}'s mount namespace"))?;
    Ok(())
}

/// Makes a file system in a file, and puts what the node keeps on it. Unmounted with all that is below the cluster's folder.
fn mount_disk(dir: &Path, root: &Path, size_bytes: u64) -> Result<()> {
    let (image, disk) = (dir.join("disk.img"), dir.join("disk"));
    FileSystem::Ext4.make(&image, size_bytes)?;
    fs::create_dir_all(&disk)?;
    run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&disk))?;
    for path in ON_DISK.map(|path| path.trim_start_matches('/')) {
        fs::create_dir_all(disk.join(path))?;
        run(Command::new("mount").arg("--bind").arg(disk.join(path)).arg(root.join(path)))?;
    }
    Ok(())
}
