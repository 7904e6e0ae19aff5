//! Where a cluster keeps everything: one folder, and names of its own for what the kernel knows by name.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Error, Result, ensure};
use serde_json::{Value, json};

use crate::containerd::Release;

/// The hub's address: the API server is on port 6443, the upstream registry on 5000.
pub const HUB: &str = "192.0.2.254";

/// No more than this, so that addresses and zones can be made of the node's number.
pub const NODES_MAX: u8 = 9;

/// The variable by which processes of a cluster are found: `PREFIX:DIR`.
pub(super) const MARK: &str = "KUIK_CLUSTER";

/// One of the machines that the cluster believes to be on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// The control plane and the upstream registry; the bridge that connects the nodes.
    Hub,
    /// A node, from 1 on.
    Node(u8),
}

impl fmt::Display for Place {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hub => to.write_str("hub"),
            Self::Node(number) => write!(to, "node{number}"),
        }
    }
}

impl FromStr for Place {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "hub" {
            return Ok(Self::Hub);
        }
        let number = text.strip_prefix("node").unwrap_or(text);
        let number = number.parse().with_context(|| format!("{text:?} is neither \"hub\" nor a node such as \"node1\""))?;
        Ok(Self::Node(number))
    }
}

impl Place {
    /// Its address on the network between the nodes.
    pub(super) fn address(self) -> String {
        match self {
            Self::Hub => HUB.to_owned(),
            Self::Node(number) => format!("192.0.2.{number}"),
        }
    }
}

/// The folder of a cluster, the prefix of its names, and how many nodes it has.
#[derive(Clone, Debug)]
pub struct Layout {
    dir: PathBuf,
    prefix: String,
    nodes: u8,
}

impl Layout {
    /// A cluster in `dir`, which must be an absolute path without white space or quotes: it goes into configurations.
    pub fn new(dir: &Path, prefix: &str, nodes: u8) -> Result<Self> {
        let text = dir.to_str().context("the folder's name must be UTF-8")?;
        ensure!(dir.is_absolute() && dir.parent().is_some(), "{text}: not an absolute path of a folder");
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
        ensure!(text.chars().all(plain), "{text}: only letters, digits and /._- can be in the name of a cluster's folder");
        let named = !prefix.is_empty() && prefix.len() <= 16 && prefix.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        ensure!(named, "{prefix:?}: a prefix has 1 to 16 letters, digits and dashes");
        ensure!((1..=NODES_MAX).contains(&nodes), "a cluster has 1 to {NODES_MAX} nodes, not {nodes}");
        Ok(Self { dir: dir.to_owned(), prefix: prefix.to_owned(), nodes })
    }

    /// The layout of the cluster that is, or was, in `dir`.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("cluster.json");
        let text = std::fs::read_to_string(&path).with_context(|| format!("no cluster in {}", dir.display()))?;
        let value: Value = serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))?;
        let nodes = value["nodes"].as_u64().and_then(|nodes| u8::try_from(nodes).ok());
        Self::new(dir, value["prefix"].as_str().unwrap_or_default(), nodes.unwrap_or_default())
    }

    /// Remembers the layout in its folder, which is made.
    pub(super) fn write(&self) -> Result<()> {
        for dir in ["log", "run", "pki"] {
            std::fs::create_dir_all(self.path(dir)).context("make the cluster's folder")?;
        }
        let value = json!({ "prefix": self.prefix, "nodes": self.nodes });
        std::fs::write(self.path("cluster.json"), value.to_string()).context("write cluster.json")
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What its names begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = Place> + use<> {
        (1..=self.nodes).map(Place::Node)
    }

    /// Whether there is such a place.
    pub fn has(&self, place: Place) -> bool {
        place == Place::Hub || self.nodes().any(|node| node == place)
    }

    /// A file or folder of the cluster.
    pub(super) fn path(&self, below: &str) -> PathBuf {
        self.dir.join(below)
    }

    /// A file or folder of one place.
    pub(super) fn at(&self, place: Place, below: &str) -> PathBuf {
        self.dir.join(place.to_string()).join(below)
    }

    /// The administrator's credentials.
    pub fn kubeconfig(&self) -> PathBuf {
        self.path("kubeconfig")
    }

    /// Set once everything is up.
    pub(super) fn complete(&self) -> PathBuf {
        self.path("complete")
    }

    /// The name of a place's network namespace, and of the folder of its cgroups.
    pub(super) fn name(&self, place: Place) -> String {
        format!("{}-{place}", self.prefix)
    }

    /// The file that holds a place's network namespace.
    pub(super) fn netns(&self, place: Place) -> PathBuf {
        Path::new("/run/netns").join(self.name(place))
    }

    /// The file that holds a node's mount namespace; the hub shares the machine's.
    pub(super) fn mount_ns(&self, place: Place) -> Option<PathBuf> {
        (place != Place::Hub).then(|| self.at(place, "mount-ns"))
    }

    /// The value of [`MARK`] of its processes.
    pub(super) fn mark(&self) -> String {
        format!("{}:{}", self.prefix, self.dir.display())
    }
}

/// Where a cluster is unless somebody says otherwise.
pub fn default_dir(prefix: &str) -> PathBuf {
    env::temp_dir().join(format!("{prefix}-cluster"))
}

/// The containerd of a node: the second has the new one, all others Debian's.
pub(super) fn release(node: Place) -> Release {
    match node {
        Place::Node(2) => Release::V2_2,
        Place::Node(_) | Place::Hub => Release::V1_6,
    }
}

/// The size of the one file system that a node's images, pods and cache are on, if it has one of its own: the third does, and it is
/// small. The others share the machine's.
pub(super) fn disk_bytes(node: Place) -> Option<u64> {
    (node == Place::Node(3)).then_some(1 << 30)
}

/// The zone of a node: `a` for the first, `b` for the second.
pub(super) fn zone(number: u8) -> char {
    char::from(b'a' + number - 1)
}

/// The addresses of a node's pods.
pub(super) fn pod_subnet(number: u8) -> String {
    format!("10.244.{number}.0/24")
}
