//! Who is measured: each a child process on a free loopback port, speaking the registry protocol.

mod agent;
mod nginx;
mod registry;
pub(crate) mod webhook;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

pub(crate) use self::agent::Agent;
pub(crate) use self::nginx::{Sendfile, static_files};
pub(crate) use self::registry::{Flavour, launch, stored};
use crate::client::Connection;
use crate::lab::Lab;
use crate::library::Image;
use crate::process::Process;
use crate::upstream::Upstream;

/// How long a contender may take to answer its first request.
const START_MAX: Duration = Duration::from_secs(60);

/// A running contender.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) addr: SocketAddr,
    /// What comes between `/v2/` and the repository: the agent's registry segment, or nothing.
    pub(crate) prefix: String,
    pub(crate) process: Process,
    /// Goes after the process, which is dropped before it.
    data: Option<Scratch>,
}

/// A folder that is removed when dropped.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // The lab's folder goes at the end anyway; this only keeps disk use low.
        let _left = fs::remove_dir_all(&self.0);
    }
}

impl Server {
    fn owning(mut self, folder: &Path) -> Self {
        self.data = Some(Scratch(folder.to_owned()));
        self
    }

    pub(crate) fn path(&self, rest: &str) -> String {
        format!("/v2/{}{rest}", self.prefix)
    }

    pub(crate) fn url(&self, rest: &str) -> String {
        format!("http://{}{}", self.addr, self.path(rest))
    }

    pub(crate) fn connect(&self) -> Result<Connection> {
        Connection::open(self.addr)
    }

    /// Waits until `path` on `addr` answers 200.
    fn wait(&mut self, addr: SocketAddr, path: &str) -> Result<()> {
        let deadline = Instant::now() + START_MAX;
        while !answers(addr, path) {
            self.process.check()?;
            ensure!(Instant::now() < deadline, "{} does not answer {path}", self.process.command);
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// See [`pull`].
    pub(crate) fn pull(&self, image: &Image) -> Result<Pull> {
        pull(self.addr, &self.prefix, image).with_context(|| format!("pull of {} from {}", image.by_tag(), self.name))
    }

    /// Proves that it serves the right bytes of an image, with the digest in the header.
    pub(crate) fn prove(&self, image: &Image) -> Result<()> {
        let mut connection = self.connect()?;
        let manifests = [image.by_tag(), image.by_digest()].map(|path| (path, &image.manifest));
        let layers = image.layers.iter().map(|layer| (image.blob(layer), layer));
        for (path, blob) in manifests.into_iter().chain(layers) {
            let head = connection.request("GET", &self.path(&path))?;
            let mut hasher = Sha256::new();
            connection.body(head.length_bytes, |piece| hasher.update(piece))?;
            let seen = crate::library::hex(&hasher.finalize());
            ensure!(seen == blob.hex, "{}: {path}: status {}, wrong bytes", self.name, head.status);
            let named = head.header("Docker-Content-Digest").unwrap_or_default();
            ensure!(named.ends_with(&blob.hex), "{}: {path}: Docker-Content-Digest {named:?}", self.name);
        }
        Ok(())
    }
}

/// When what of a pull had come, from its beginning.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pull {
    pub(crate) first_byte: Duration,
    pub(crate) all: Duration,
}

/// Pulls an image as a client does that has nothing yet: connects, asks for the manifest by tag, then for the layers.
pub(crate) fn pull(from: SocketAddr, prefix: &str, image: &Image) -> Result<Pull> {
    let started = Instant::now();
    let mut connection = Connection::open(from)?;
    pull_manifest(&mut connection, prefix, image)?;
    let mut first_byte = None;
    for layer in &image.layers {
        let before = started.elapsed();
        let path = format!("/v2/{prefix}{}", image.blob(layer));
        let waited = connection.drop_body(&path, layer.size_bytes)?;
        first_byte.get_or_insert(before + waited);
    }
    let all = started.elapsed();
    Ok(Pull { first_byte: first_byte.unwrap_or(all), all })
}

/// Gets the manifest by tag.
pub(crate) fn pull_manifest(connection: &mut Connection, prefix: &str, image: &Image) -> Result<()> {
    let (head, _) = connection.get(&format!("/v2/{prefix}{}", image.by_tag()))?;
    ensure!(head.status == 200, "{}: status {}", image.by_tag(), head.status);
    Ok(())
}

/// Whether it answers with 200 now.
pub(crate) fn answers(addr: SocketAddr, path: &str) -> bool {
    let answer = Connection::open(addr).and_then(|mut connection| connection.request("GET", path));
    answer.is_ok_and(|head| head.status == 200)
}

/// A contender that fills itself on pull, with nothing stored yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cold {
    Agent,
    NginxProxyCache,
    DockerRegistry,
    Distribution,
}

impl Cold {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Agent => Agent::NAME,
            Self::NginxProxyCache => nginx::PROXY_CACHE,
            Self::DockerRegistry => Flavour::Docker.name(),
            Self::Distribution => Flavour::Distribution.name(),
        }
    }

    /// Starts it; `None` when it is not to be measured.
    pub(crate) fn start(self, lab: &Lab, upstream: &Upstream) -> Result<Option<Server>> {
        if !lab.options.wants(self.name()) {
            return Ok(None);
        }
        Ok(match self {
            Self::Agent => {
                let data = lab.folder("agent")?;
                Agent::start(lab, &data, upstream)?.map(|agent| agent.server.owning(&data))
            }
            Self::NginxProxyCache => Some(nginx::proxy_cache(lab, upstream)?),
            Self::DockerRegistry => Some(registry::proxy(lab, Flavour::Docker, upstream)?),
            Self::Distribution => Some(registry::proxy(lab, Flavour::Distribution, upstream)?),
        })
    }
}
