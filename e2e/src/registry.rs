//! Real registries on loopback, which can be stopped and started again.

use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::http;
use crate::process::{Server, free_port};
use crate::tools;

const START_LIMIT: Duration = Duration::from_secs(15);

/// Which registry program.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Debian's docker-registry 2.8: the one most people run, without the referrers API.
    Docker,
    /// A registry in memory with the referrers API.
    Referrers,
}

/// A blob, or a part of it, that a registry has sent.
#[derive(Clone, Debug)]
pub struct Sent {
    pub digest: String,
    /// What went out of it, whether or not anybody took it all.
    pub bytes: u64,
}

/// A registry and its content. Its port stays the same when it is stopped and started again.
#[derive(Debug)]
pub struct Registry {
    kind: Kind,
    port: u16,
    dir: TempDir,
    server: Option<Server>,
}

impl Registry {
    /// Starts a docker-registry.
    pub fn start() -> Result<Self> {
        Self::start_kind(Kind::Docker)
    }

    /// Starts a registry of this kind.
    pub fn start_kind(kind: Kind) -> Result<Self> {
        let dir = TempDir::with_prefix("kuik-registry-").context("make the registry's directory")?;
        let mut registry = Self { kind, port: free_port()?, dir, server: None };
        registry.up()?;
        Ok(registry)
    }

    /// `127.0.0.1:PORT`, the registry's name in image references.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The URL of `path` below a repository, such as `manifests/latest`.
    pub fn url(&self, repository: &str, path: &str) -> String {
        format!("http://{}/v2/{repository}/{path}", self.host())
    }

    /// Starts it, again or for the first time, and waits until it answers.
    pub fn up(&mut self) -> Result<()> {
        let log = self.dir.path().join("log");
        let (program, args) = match self.kind {
            Kind::Docker => (tools::debian("docker-registry")?, vec!["serve".into(), self.write_config()?.into_os_string()]),
            Kind::Referrers => (tools::built("referrers-registry")?, vec![self.host().into()]),
        };
        let mut server = Server::spawn("the registry", &program, &args, &log)?;
        let ping = format!("http://{}/v2/", self.host());
        server.wait_ready(START_LIMIT, || http::get(&ping).is_ok_and(|reply| reply.status == 200))?;
        self.server = Some(server);
        Ok(())
    }

    /// Stops it, so that connections to it are refused.
    pub fn down(&mut self) -> Result<()> {
        self.server.take().context("the registry must be running")?.stop()?;
        ensure!(TcpStream::connect(("127.0.0.1", self.port)).is_err(), "the registry's port still answers");
        Ok(())
    }

    /// The blobs that it has sent so far, by its own log. Of a docker-registry only.
    pub fn sent(&self) -> Result<Vec<Sent>> {
        let log = fs::read_to_string(self.dir.path().join("log")).context("read the registry's log")?;
        Ok(log.lines().filter_map(sent).collect())
    }

    fn write_config(&self) -> Result<PathBuf> {
        let path = self.dir.path().join("config.yml");
        let data = self.dir.path().join("data");
        let config = format!(
            "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: false}}}}\n\
             storage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\n\
             http: {{addr: '{}'}}\n",
            data.display(),
            self.host(),
        );
        fs::write(&path, config).context("write the registry's configuration")?;
        Ok(path)
    }
}

/// Of a line such as `… "GET /v2/team/app/blobs/sha256:… HTTP/1.1" 200 1234 "" "agent"`.
fn sent(line: &str) -> Option<Sent> {
    let mut parts = line.split('"').skip(1);
    let (request, answer) = (parts.next()?.strip_prefix("GET ")?, parts.next()?);
    let digest = request.split_once("/blobs/")?.1.split(' ').next()?.to_owned();
    Some(Sent { digest, bytes: answer.split_whitespace().nth(1)?.parse().ok()? })
}
