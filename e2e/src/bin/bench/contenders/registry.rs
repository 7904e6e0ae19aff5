//! docker-registry 2.8 and distribution v3: one configuration format, two programs.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Server;
use crate::lab::{Lab, free_port, which};
use crate::process::Process;
use crate::upstream::Upstream;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flavour {
    Docker,
    Distribution,
}

impl Flavour {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker-registry",
            Self::Distribution => "distribution v3",
        }
    }

    fn program(self, lab: &Lab) -> Result<PathBuf> {
        match self {
            Self::Docker => which("docker-registry").context("docker-registry is not installed"),
            Self::Distribution => Ok(lab.distribution.clone()),
        }
    }
}

/// Serves what is laid out below `root`; see `Library::lay_out_registry`.
pub(crate) fn stored(lab: &Lab, flavour: Flavour, root: &Path) -> Result<Server> {
    let mut server = launch(lab, flavour, root, "")?;
    server.wait(server.addr, "/v2/")?;
    Ok(server)
}

/// A pull-through cache of `upstream`, empty.
pub(crate) fn proxy(lab: &Lab, flavour: Flavour, upstream: &Upstream) -> Result<Server> {
    let root = lab.folder("registry-data")?;
    let mut server = launch(lab, flavour, &root, &format!("proxy: {{remoteurl: 'http://{}'}}\n", upstream.addr))?;
    server.wait(server.addr, "/v2/")?;
    Ok(server.owning(&root))
}

/// Starts one and does not wait.
pub(crate) fn launch(lab: &Lab, flavour: Flavour, root: &Path, more: &str) -> Result<Server> {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    let folder = lab.folder("registry")?;
    let file = folder.join("config.yml");
    let config = format!(
        "version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: '{root}'}}
  cache: {{blobdescriptor: inmemory}}
  delete: {{enabled: true}}
http: {{addr: '{addr}', secret: bench}}
{more}",
        root = root.display()
    );
    fs::write(&file, config)?;
    let arguments = ["serve".to_owned(), file.display().to_string()];
    let environment = [("OTEL_TRACES_EXPORTER", "none")];
    let process = Process::start(&flavour.program(lab)?, &arguments, &environment, &folder.join("log"))?;
    Ok(Server { name: flavour.name(), addr, prefix: String::new(), process, data: None })
}
