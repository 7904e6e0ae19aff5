//! kuik-agent, as it comes: no tuning flags, but where a row is about one.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use kuik_e2e::metrics::Metrics;
use kuik_e2e::process::run_text;
use serde_json::Value;

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
        Self::start_with(lab, data, upstream, &[])
    }

    /// As [`Agent::start`], with more arguments to `serve`.
    pub(crate) fn start_with(lab: &Lab, data: &Path, upstream: &Upstream, more: &[String]) -> Result<Option<Self>> {
        let Some(mut agent) = Self::launch_with(lab, data, upstream, more)? else { return Ok(None) };
        agent.server.wait(agent.admin, "/readyz")?;
        Ok(Some(agent))
    }

    /// Starts one and does not wait.
    pub(crate) fn launch(lab: &Lab, data: &Path, upstream: &Upstream) -> Result<Option<Self>> {
        Self::launch_with(lab, data, upstream, &[])
    }

    /// As [`Agent::launch`], with more arguments to `serve`.
    pub(crate) fn launch_with(lab: &Lab, data: &Path, upstream: &Upstream, more: &[String]) -> Result<Option<Self>> {
        let Some(program) = &lab.agent else { return Ok(None) };
        fs::create_dir_all(data)?;
        let [addr, admin] = [free_port()?, free_port()?].map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let mut arguments = vec![
            "serve".to_owned(),
            format!("--listen={addr}"),
            format!("--admin-listen={admin}"),
            format!("--data-dir={}", data.display()),
            format!("--plain-http={}", upstream.addr),
        ];
        arguments.extend_from_slice(more);
        let log = data.with_extension("log");
        let process = Process::start(program, &arguments, &[], &log)?;
        let prefix = format!("{}__{}/", upstream.addr.ip(), upstream.addr.port());
        Ok(Some(Self { server: Server { name: Self::NAME, addr, prefix, process, data: None }, admin }))
    }

    /// Its metrics as they are now.
    pub(crate) fn metrics(&self) -> Result<Metrics> {
        Metrics::get(&format!("http://{}/metrics", self.admin))
    }

    /// What its command `gc --dry-run` says that it would do.
    pub(crate) fn plan(&self, lab: &Lab) -> Result<Value> {
        let program = lab.agent.as_ref().context("the agent must be there")?;
        let admin = self.admin.to_string();
        let text = run_text(Command::new(program).args(["gc", "--dry-run", "--output", "json", "--admin", &admin]))?;
        serde_json::from_str(&text).with_context(|| format!("no plan: {text}"))
    }
}
