//! kuik-agent, as it comes: no tuning flags.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::Result;

use super::Server;
use crate::lab::{Lab, free_port};
use crate::process::Process;
use crate::upstream::Upstream;

/// A running agent.
pub(crate) struct Agent {
    pub(crate) server: Server,
    /// `/readyz` and `/metrics` are here.
    pub(crate) admin: SocketAddr,
}

impl Agent {
    pub(crate) const NAME: &'static str = "agent";

    /// Starts one and waits until it is ready. `None` when there is none to measure.
    pub(crate) fn start(lab: &Lab, data: &Path, upstream: &Upstream) -> Result<Option<Self>> {
        let Some(mut agent) = Self::launch(lab, data, upstream)? else { return Ok(None) };
        agent.server.wait(agent.admin, "/readyz")?;
        Ok(Some(agent))
    }

    /// Starts one and does not wait.
    pub(crate) fn launch(lab: &Lab, data: &Path, upstream: &Upstream) -> Result<Option<Self>> {
        let Some(program) = &lab.agent else { return Ok(None) };
        fs::create_dir_all(data)?;
        let [addr, admin] = [free_port()?, free_port()?].map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let arguments = [
            "serve".to_owned(),
            format!("--listen={addr}"),
            format!("--admin-listen={admin}"),
            format!("--data-dir={}", data.display()),
            format!("--plain-http={}", upstream.addr),
        ];
        let log = data.with_extension("log");
        let process = Process::start(program, &arguments, &[], &log)?;
        let prefix = format!("{}__{}/", upstream.addr.ip(), upstream.addr.port());
        Ok(Some(Self { server: Server { name: Self::NAME, addr, prefix, process, data: None }, admin }))
    }
}
