//! A containerd of one's own, old or new, and its client `ctr`.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::process::{Server, client, run, run_text};
use crate::tools;

const START_LIMIT: Duration = Duration::from_secs(30);
const NAMESPACES: [&str; 5] = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
/// Shims keep their sockets below /run/containerd whatever the configuration says, and containerd
/// finds its own shim by the PATH.
const START: &str = r#"
    mkdir -p /run/containerd && mount -t tmpfs none /run/containerd || exit
    PATH=${1%/*}:$PATH exec "$1" --config "$2"
"#;

/// Which containerd: two different pull clients.
#[derive(Clone, Copy, Debug)]
pub enum Release {
    /// Debian's: fetches a layer in one request.
    V1_6,
    /// Built from source: its transfer service can fetch parts of a layer in parallel.
    V2_2,
}

/// A running containerd.
///
/// It lives in process and mount namespaces of its own: when it is killed, its shims, containers
/// and mounts go with it. Networking is the machine's.
#[derive(Debug)]
pub struct Containerd {
    ctr: PathBuf,
    server: Server,
    dir: TempDir,
}

impl Containerd {
    /// Starts a containerd that fetches each layer whole.
    pub fn start(release: Release) -> Result<Self> {
        Self::start_with(release, "")
    }

    /// Starts a containerd 2.2 that fetches layers in parts of `part_bytes`, four at a time.
    pub fn start_parallel(part_bytes: usize) -> Result<Self> {
        let transfer = format!(
            "[plugins.'io.containerd.transfer.v1.local']\n\
             max_concurrent_downloads = 4\nconcurrent_layer_fetch_buffer = {part_bytes}\n"
        );
        Self::start_with(Release::V2_2, &transfer)
    }

    fn start_with(release: Release, config: &str) -> Result<Self> {
        tools::require_root("containerd")?;
        let (containerd, ctr) = find(release)?;
        let dir = TempDir::with_prefix("kuik-ctrd-").context("make containerd's directory")?;
        let config = write_config(dir.path(), release, config)?;
        let mut args: Vec<&OsStr> = NAMESPACES.map(OsStr::new).to_vec();
        args.extend(["sh", "-c", START, "containerd"].map(OsStr::new));
        args.extend([containerd.as_os_str(), config.as_os_str()]);
        let server = Server::spawn("containerd", &tools::debian("unshare")?, &args, &dir.path().join("log"))?;
        let mut this = Self { ctr, server, dir };
        let mut probe = this.ctr(&["version"]);
        this.server.wait_ready(START_LIMIT, || run(&mut probe).is_ok())?;
        Ok(this)
    }

    /// Pulls an image over plain HTTP, as a node's agent is reached.
    pub fn pull(&self, image: &str) -> Result<()> {
        let hosts = self.dir.path().join("hosts");
        run(self.ctr(&["images", "pull", "--plain-http", "--hosts-dir"]).arg(hosts).arg(image))?;
        Ok(())
    }

    /// Makes pulls of images of `registry` go to `mirror` first, both `address:port`.
    pub fn use_mirror(&self, registry: &str, mirror: &str) -> Result<()> {
        let dir = self.dir.path().join("hosts").join(registry);
        fs::create_dir_all(&dir).context("make the mirror's directory")?;
        let text = format!("server = \"http://{registry}\"\n[host.\"http://{mirror}\"]\ncapabilities = [\"pull\", \"resolve\"]\n");
        fs::write(dir.join("hosts.toml"), text).context("write hosts.toml")
    }

    /// Runs an image's own command to its end and returns its output.
    pub fn run(&self, image: &str, id: &str) -> Result<String> {
        let fifos = self.dir.path().join("fifo");
        let mut command = self.ctr(&["run", "--rm", "--fifo-dir"]);
        run_text(command.arg(fifos).args([image, id]))
    }

    /// Removes an image with its content, so that the next pull fetches all of it.
    pub fn remove(&self, image: &str) -> Result<()> {
        run(self.ctr(&["images", "remove", "--sync"]).arg(image))?;
        let left = run_text(&mut self.ctr(&["content", "ls", "-q"]))?;
        ensure!(left.trim().is_empty(), "containerd still holds {left}");
        Ok(())
    }

    /// Unpacks of other platforms' layers are not wanted, their bytes are: fetches everything.
    pub fn fetch_all_platforms(&self, image: &str) -> Result<()> {
        run(self.ctr(&["content", "fetch", "--plain-http", "--all-platforms"]).arg(image))?;
        Ok(())
    }

    /// The digests of all content that containerd holds.
    pub fn content(&self) -> Result<Vec<String>> {
        let text = run_text(&mut self.ctr(&["content", "ls", "-q"]))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    fn ctr(&self, args: &[&str]) -> Command {
        let mut command = client(&self.ctr);
        command.arg("--address").arg(self.dir.path().join("s")).arg("--namespace").arg(self.namespace()).args(args);
        command
    }

    /// Also the name of the cgroup of its containers.
    fn namespace(&self) -> &OsStr {
        self.dir.path().file_name().expect("a temporary directory must have a name")
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // Killing the first process of the namespace ends all others in it, and lets `unshare`
        // outlive and reap it. Errors here are of no use to a test that is over.
        drop(self.server.kill_child());
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            drop(fs::remove_dir(hierarchy.path().join(self.namespace())));
        }
        drop(fs::remove_dir(Path::new("/sys/fs/cgroup").join(self.namespace())));
    }
}

fn find(release: Release) -> Result<(PathBuf, PathBuf)> {
    let (containerd, ctr, version) = match release {
        Release::V1_6 => (tools::debian("containerd")?, tools::debian("ctr")?, " 1.6."),
        Release::V2_2 => (tools::built("containerd")?, tools::built("ctr")?, " 2.2."),
    };
    tools::debian("runc")?;
    let said = run_text(Command::new(&containerd).arg("--version"))?;
    ensure!(format!(" {said}").contains(version), "{} is not{version}x but: {said}", containerd.display());
    Ok((containerd, ctr))
}

fn write_config(dir: &Path, release: Release, more: &str) -> Result<PathBuf> {
    let version = match release {
        Release::V1_6 => 2,
        Release::V2_2 => 3,
    };
    let text = format!(
        "version = {version}\nroot = '{dir}/root'\nstate = '{dir}/state'\n\
         disabled_plugins = ['io.containerd.grpc.v1.cri', 'io.containerd.cri.v1.images', \
         'io.containerd.cri.v1.runtime', 'io.containerd.nri.v1.nri', \
         'io.containerd.internal.v1.opt', 'io.containerd.snapshotter.v1.btrfs', \
         'io.containerd.snapshotter.v1.devmapper', 'io.containerd.snapshotter.v1.zfs', \
         'io.containerd.snapshotter.v1.erofs', 'io.containerd.snapshotter.v1.blockfile']\n\
         [grpc]\naddress = '{dir}/s'\n[ttrpc]\naddress = '{dir}/s.ttrpc'\n{more}",
        dir = dir.display(),
    );
    let path = dir.join("config.toml");
    fs::write(&path, text).context("write containerd's configuration")?;
    Ok(path)
}
