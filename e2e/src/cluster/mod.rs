//! A real Kubernetes of several nodes on this one machine, to test against and to look at.
//!
//! ```text
//!   hub 192.0.2.254          etcd, kube-apiserver, controllers, scheduler; the upstream registry on port 5000
//!    └─ bridge ─┬─ node1 192.0.2.1   zone a   containerd 1.6   kubelet, kube-proxy   pods 10.244.1.0/24
//!               ├─ node2 192.0.2.2   zone b   containerd 2.2   …
//!               └─ node3 192.0.2.3   zone c   containerd 1.6   …
//! ```
//!
//! A node is a network namespace, a mount namespace with its own `/etc/containerd`, `/var/lib/containerd`, `/var/lib/kubelet`,
//! `/var/lib/kuik`, `/var/log` and the like, and a cgroup. All of a cluster is in one folder, and its names begin with one prefix:
//! two clusters do not meet if both differ. There is no cluster DNS, and nothing reaches the machine's own network. Images, pods and
//! cache of node3 are on a small file system of their own, and its kubelet acts when that fills up; the others share the machine's disk.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use kuik_e2e::cluster::{Cluster, Layout, default_dir};
//! use kuik_e2e::images;
//!
//! let cluster = Cluster::up(Layout::new(&default_dir("demo"), "demo", 3)?)?; // some 15 s
//! let upstream = cluster.upstream();                                        // runs already
//! upstream.push("team/app", "v1", &images::multi_arch("first")?)?;
//! cluster.trust_upstream()?;                                                // nodes pull from it by plain HTTP
//! println!("{}", cluster.kube().kubectl(&["get", "nodes"])?);
//!
//! upstream.stop()?;                                                         // an outage: refused…
//! upstream.start()?;
//! upstream.cut()?;                                                          // …or silence
//! upstream.restore()?;
//! cluster.stop_api_server()?;                                               // nobody to ask
//! cluster.start_api_server()?;
//!
//! let node = cluster.node(2)?;
//! node.remove_image(&upstream.image("team/app", ":v1"))?;                   // the next pod there pulls again
//! println!("{}", node.sh("ls /var/lib/kuik")?);
//! let metrics = node.inside(|| kuik_e2e::http::get("http://127.0.0.1:7441/metrics"))?;
//! # drop(metrics);
//! cluster.down()
//! # }
//! ```
//!
//! The cluster lives on when the program that started it ends; [`Cluster::attach`] finds it again, and the program `cluster` does
//! all of this from a shell. [`Cluster::down`] needs nothing but the folder's name and the prefix: it also clears away what a
//! killed `up` left. [`crate::kube`] is the view from the API: namespaces, manifests, Helm, waiting.

mod boot;
mod cgroup;
mod config;
mod control_plane;
mod enter;
mod layout;
mod network;
mod node;
mod pki;
mod service;
mod sweep;
mod upstream;

pub use enter::in_netns;
pub use layout::{HUB, Layout, NODES_MAX, Place, default_dir};
pub use node::Node;
pub use service::Service;
pub use upstream::{PASSWORD, USER, Upstream};

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::kube::Kube;
use crate::token_server::TokenServer;
use crate::tools;

const READY_LIMIT: Duration = Duration::from_secs(90);

/// A running cluster. Dropping it leaves it running.
#[derive(Clone, Debug)]
pub struct Cluster {
    layout: Layout,
}

impl Cluster {
    /// Starts a cluster, after clearing away whatever is left of an earlier one in the same folder. Returns when all nodes are
    /// ready and pods can be made.
    pub fn up(layout: Layout) -> Result<Self> {
        tools::require_root("a cluster")?;
        let _busy = lock(&layout)?;
        if let Some(dir) = sweep::rival(&layout) {
            bail!("a cluster in {dir} has the prefix {:?} too: take it down, or choose another", layout.prefix());
        }
        sweep::down(&layout).context("clear away an earlier cluster")?;
        layout.write()?;
        network::create(&layout)?;
        pki::create(&layout)?;
        control_plane::start_api(&layout)?;
        let cluster = Self { layout };
        cluster.start_nodes()?;
        cluster.upstream().start()?;
        cluster.wait_ready()?;
        fs::write(cluster.layout.complete(), "").context("mark the cluster as complete")?;
        Ok(cluster)
    }

    /// The complete cluster in this folder.
    pub fn attach(dir: &Path) -> Result<Self> {
        let layout = Layout::read(dir)?;
        ensure!(layout.complete().exists(), "the cluster in {} was never completed: start it anew", dir.display());
        let running = control_plane::service(&layout, "etcd").running().is_some();
        ensure!(running, "the cluster in {} does not run any more: start it anew", dir.display());
        Ok(Self { layout })
    }

    /// Ends every process of this cluster, whole or half-built, and removes everything it made. No error if there is none.
    pub fn remove(layout: &Layout) -> Result<()> {
        sweep::down(layout)
    }

    /// Takes this cluster down.
    pub fn down(self) -> Result<()> {
        Self::remove(&self.layout)
    }

    /// Its folder, prefix and size.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The view from its API, as administrator.
    pub fn kube(&self) -> Kube {
        Kube::inside(&self.layout.kubeconfig(), &self.layout.netns(Place::Hub))
    }

    /// The node with this number, from 1 on.
    pub fn node(&self, number: u8) -> Result<Node> {
        ensure!(self.layout.has(Place::Node(number)), "there is no node{number}");
        Ok(Node::new(&self.layout, number))
    }

    /// The node with this name, as in a pod's `spec.nodeName`.
    pub fn node_named(&self, name: &str) -> Result<Node> {
        match name.parse()? {
            Place::Node(number) => self.node(number),
            Place::Hub => bail!("the hub is no node"),
        }
    }

    /// All nodes.
    pub fn nodes(&self) -> Vec<Node> {
        let numbers = self.layout.nodes().filter_map(|place| if let Place::Node(number) = place { Some(number) } else { None });
        numbers.map(|number| Node::new(&self.layout, number)).collect()
    }

    /// The upstream registry at `192.0.2.254:5000`. It runs from the start, with nothing in it.
    pub fn upstream(&self) -> Upstream {
        Upstream::open(&self.layout)
    }

    /// The upstream registry at `192.0.2.254:5001`, which wants [`USER`] and [`PASSWORD`]. To be started first.
    pub fn private_upstream(&self) -> Upstream {
        Upstream::private(&self.layout)
    }

    /// The registry at `192.0.2.254:5002`, which wants tokens of this server. To be started first.
    pub fn guarded_upstream(&self, tokens: &Arc<TokenServer>) -> Upstream {
        Upstream::guarded(&self.layout, tokens)
    }

    /// Starts a token server at `192.0.2.254:5003`, for as long as this process lives.
    pub fn start_token_server(&self) -> Result<TokenServer> {
        upstream::start_token_server(&self.layout)
    }

    /// `address:port` of all upstream registries, started or not.
    pub fn registries(&self) -> [String; 3] {
        upstream::hosts()
    }

    /// Makes all nodes pull from the upstream registries by plain HTTP, which containerd does not do by itself.
    pub fn trust_upstream(&self) -> Result<()> {
        for host in self.registries() {
            let hosts = format!("server = \"http://{host}\"\n\n[host.\"http://{host}\"]\n  capabilities = [\"pull\", \"resolve\"]\n");
            self.nodes().iter().try_for_each(|node| node.set_hosts(&host, &hosts))?;
        }
        Ok(())
    }

    /// Imports an OCI archive into every node, under the name that it carries.
    pub fn import(&self, archive: &Path) -> Result<()> {
        self.nodes().iter().try_for_each(|node| node.import(archive))
    }

    /// Ends the API server at once, as a power failure does: asked politely, it first waits a minute for those who watch.
    pub fn stop_api_server(&self) -> Result<()> {
        control_plane::service(&self.layout, "kube-apiserver").kill()
    }

    /// Starts the API server again and waits until it answers.
    ///
    /// The controllers begin anew with it. Their watches come back up to half a minute late, and until then they take nodes for lost whose
    /// leases they do not see: for some seconds of the minutes that follow, no Service would have an endpoint.
    pub fn start_api_server(&self) -> Result<()> {
        let controllers = control_plane::service(&self.layout, "kube-controller-manager");
        controllers.kill()?;
        control_plane::service(&self.layout, "kube-apiserver").start()?;
        control_plane::wait_api(&self.layout)?;
        controllers.start()
    }

    /// A process by its name, such as `kube-scheduler` in the hub or `node1/kubelet`.
    pub fn service(&self, name: &str) -> Result<Service> {
        let (place, name) = name.split_once('/').unwrap_or(("hub", name));
        let place = place.parse()?;
        ensure!(self.layout.has(place), "there is no {place}");
        let service = Service::new(&self.layout, place, name);
        ensure!(service.is_defined(), "there is no {service}");
        Ok(service)
    }

    /// A command that runs `program` at a place.
    pub fn command(&self, place: Place, program: &str) -> Result<Command> {
        ensure!(self.layout.has(place), "there is no {place}");
        Ok(enter::command(&self.layout, place, Path::new(program)))
    }

    /// Runs `work` on a thread whose connections start in the hub: it reaches the API server, the upstream registry, nodes and
    /// pods by their addresses, but no Services.
    pub fn in_hub<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        enter::in_netns(&self.layout.netns(Place::Hub), work)
    }

    /// The containerds come up while the API server does.
    fn start_nodes(&self) -> Result<()> {
        let layout = &self.layout;
        let sandbox = boot::pack_sandbox(layout)?;
        thread::scope(|scope| {
            let start = |node| {
                scope.spawn({
                    let sandbox = &sandbox;
                    move || boot::start_containerd(layout, node, sandbox)
                })
            };
            let nodes: Vec<_> = layout.nodes().map(start).collect();
            let rest = control_plane::start_rest(layout);
            for node in nodes {
                node.join().map_err(|_| anyhow!("the start of a node panicked"))??;
            }
            rest
        })?;
        layout.nodes().try_for_each(|node| boot::start_kubelet(layout, node))
    }

    fn wait_ready(&self) -> Result<()> {
        let version = control_plane::version()?;
        self.kube().wait_json("all nodes to be ready", READY_LIMIT, &["get", "nodes"], |nodes| {
            let nodes = nodes["items"].as_array().context("a list of nodes")?;
            let ready = nodes.iter().filter(|node| is_ready(node)).count();
            let versions = nodes.iter().all(|node| node["status"]["nodeInfo"]["kubeletVersion"] == version.as_str());
            ensure!(ready == self.nodes().len(), "{ready} of {} nodes are ready", self.nodes().len());
            ensure!(versions, "a kubelet is not {version}");
            Ok(())
        })?;
        self.kube().wait_json("service accounts to be made", READY_LIMIT, &["get", "serviceaccount", "default"], |_| Ok(()))
    }
}

fn is_ready(node: &serde_json::Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Two programs that start the same cluster at once would take down each other's.
fn lock(layout: &Layout) -> Result<File> {
    let path = layout.dir().with_extension("lock");
    fs::create_dir_all(layout.dir().parent().context("the folder must have a parent")?)?;
    let file = File::create(&path).with_context(|| format!("make {}", path.display()))?;
    file.try_lock().with_context(|| format!("another program is starting a cluster in {}", layout.dir().display()))?;
    Ok(file)
}
