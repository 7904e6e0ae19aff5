//! A real API server with its etcd, and nobody else who writes: no scheduler, no controllers, no kubelet.
//!
//! It is a cluster of the end-to-end tests, of which everything else is ended as soon as it is up.

use anyhow::{Context, Result};
use kuik_e2e::cluster::{Cluster, Layout, default_dir};
use kuik_e2e::kube::Kube;

/// What its names begin with. One at a time: a start clears away what a killed run left.
const PREFIX: &str = "kuik-bench";
/// The fewest that a cluster can have.
const NODES: u8 = 1;
const OF_A_NODE: [&str; 3] = ["kubelet", "kube-proxy", "containerd"];

/// A running API server. Dropping it takes it down.
pub(crate) struct ControlPlane {
    cluster: Cluster,
}

impl ControlPlane {
    pub(crate) fn start() -> Result<Self> {
        let layout = Layout::new(&default_dir(PREFIX), PREFIX, NODES)?;
        let cluster = match Cluster::up(layout.clone()) {
            Ok(cluster) => cluster,
            Err(error) => {
                // The first error is the one to tell; the next start clears away what stays.
                let _left = Cluster::remove(&layout);
                return Err(error).context("cannot start the API server");
            }
        };
        let plane = Self { cluster };
        plane.end_all_others()?;
        Ok(plane)
    }

    /// Runs `work` on a thread that is where the API server is: what it starts is there too, and so are its connections.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.cluster.in_hub(work)
    }

    /// As administrator.
    pub(crate) fn kube(&self) -> Kube {
        self.cluster.kube()
    }

    /// The administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> std::path::PathBuf {
        self.cluster.layout().kubeconfig()
    }

    fn end_all_others(&self) -> Result<()> {
        for node in self.cluster.layout().nodes() {
            for name in OF_A_NODE {
                self.cluster.service(&format!("{node}/{name}"))?.kill()?;
            }
        }
        for name in ["kube-scheduler", "kube-controller-manager"] {
            self.cluster.service(name)?.kill()?;
        }
        self.cluster.upstream().stop()?;
        self.kube().kubectl(&["delete", "nodes", "--all", "--wait=false"]).map(drop)
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        if let Err(error) = Cluster::remove(self.cluster.layout()) {
            eprintln!("bench: {error:#}");
        }
    }
}
