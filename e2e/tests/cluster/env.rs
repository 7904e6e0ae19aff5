//! What the tests run against: a cluster of their own, one that is kept up, or somebody else's.

use std::cell::OnceCell;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, ensure};
use kuik_e2e::cluster::{Cluster, Layout, default_dir};
use kuik_e2e::kube::Kube;

use crate::runner::{Skipped, say};

/// The prefix and folder of a cluster of one's own; different from those of `make cluster-up`.
const PREFIX: &str = "kuik-test";
const NODES: u8 = 3;

/// Names the kubeconfig of somebody else's cluster.
const KUBECONFIG: &str = "KUIK_E2E_KUBECONFIG";
/// `host:port` of the registry that tests push to where only the API is reached: over plain HTTP, by the same name from here and from nodes.
const REGISTRY: &str = "KUIK_E2E_REGISTRY";
/// Names the folder of a cluster that is kept, such as that of `make cluster-up`.
const KEPT: &str = "KUIK_E2E_CLUSTER";

/// The surroundings of all tests. The cluster is started by the first that wants it.
pub(crate) struct Env {
    ready: OnceCell<Result<Ready, String>>,
}

struct Ready {
    kube: Kube,
    cluster: Option<Cluster>,
    watchdog: Option<Child>,
}

impl Env {
    pub(crate) fn new() -> Self {
        Self { ready: OnceCell::new() }
    }

    /// Starts the cluster if it is not there yet.
    pub(crate) fn prepare(&self) -> Result<()> {
        self.ready().map(drop)
    }

    /// The view from the API.
    pub(crate) fn kube(&self) -> Result<&Kube> {
        Ok(&self.ready()?.kube)
    }

    /// The machines, for tests that pull plugs. Somebody else's cluster does not let them: such a test is skipped.
    pub(crate) fn cluster(&self) -> Result<&Cluster> {
        let skipped = || Skipped(format!("it needs the machines of the cluster, and {KUBECONFIG} gives its API only"));
        Ok(self.ready()?.cluster.as_ref().ok_or_else(skipped)?)
    }

    /// Whether there are machines to handle, and not only an API.
    pub(crate) fn has_machines(&self) -> Result<bool> {
        Ok(self.ready()?.cluster.is_some())
    }

    /// `host:port` of the registry that tests push to. Without one such a test is skipped.
    pub(crate) fn registry(&self) -> Result<String> {
        if let Some(cluster) = &self.ready()?.cluster {
            return Ok(cluster.upstream().host());
        }
        Ok(std::env::var(REGISTRY).map_err(|_| Skipped(format!("it pushes images, and {REGISTRY} names no registry for them")))?)
    }

    /// Takes down what was started here.
    pub(crate) fn finish(self) -> Result<()> {
        match self.ready.into_inner() {
            Some(Ok(Ready { watchdog: Some(watchdog), .. })) => dismiss(watchdog),
            _ => Ok(()),
        }
    }

    fn ready(&self) -> Result<&Ready> {
        self.ready.get_or_init(|| start().map_err(|error| format!("{error:#}"))).as_ref().map_err(|error| anyhow!("{error}"))
    }
}

fn start() -> Result<Ready> {
    if let Some(path) = std::env::var_os(KUBECONFIG) {
        say(&format!("against the cluster of {}", path.display()));
        return Ok(Ready { kube: Kube::external(Path::new(&path)), cluster: None, watchdog: None });
    }
    if let Some(dir) = std::env::var_os(KEPT) {
        let cluster = Cluster::attach(&PathBuf::from(dir)).context(KEPT)?;
        say(&format!("in the cluster that is kept in {}", cluster.layout().dir().display()));
        return Ok(Ready { kube: cluster.kube(), cluster: Some(cluster), watchdog: None });
    }
    let start = Instant::now();
    let dir = default_dir(PREFIX);
    let mut watchdog = watch(&dir)?;
    let cluster = Layout::new(&dir, PREFIX, NODES).and_then(Cluster::up).and_then(|cluster| {
        cluster.trust_upstream()?;
        Ok(cluster)
    });
    match cluster {
        Ok(cluster) => {
            say(&format!("a cluster of {NODES} nodes is up ({:.1} s)", start.elapsed().as_secs_f64()));
            Ok(Ready { kube: cluster.kube(), cluster: Some(cluster), watchdog: Some(watchdog) })
        }
        Err(error) => {
            drop(watchdog.stdin.take());
            Err(error.context(match watchdog.wait() {
                Ok(_) => "start a cluster",
                Err(_) => "start a cluster, and take down what there is of it",
            }))
        }
    }
}

/// Starts a process that takes the cluster down once this one has ended, even by SIGKILL. It is out of reach of the terminal.
fn watch(dir: &Path) -> Result<Child> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cluster"));
    command.arg("--dir").arg(dir).args(["--prefix", PREFIX, "watch"]);
    let mut child = command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start the watchdog")?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("the watchdog's output must be piped")?).read_line(&mut line)?;
    ensure!(line == "mine\n", "the watchdog did not start");
    Ok(child)
}

fn dismiss(mut watchdog: Child) -> Result<()> {
    drop(watchdog.stdin.take());
    let status = watchdog.wait().context("wait for the watchdog")?;
    ensure!(status.success(), "the watchdog ended with {status}");
    Ok(())
}
