//! The agent, as the program that users run.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::http;
use crate::metrics::Metrics;
use crate::process::{Server, client, free_port, run_text};

const START_LIMIT: Duration = Duration::from_secs(15);

/// A running agent with an empty cache of its own.
#[derive(Debug)]
pub struct Agent {
    port: u16,
    admin_port: u16,
    args: Vec<String>,
    server: Server,
    /// Deleted after the server is gone.
    dir: TempDir,
}

impl Agent {
    /// Starts an agent that reaches these registries without TLS.
    pub fn start(plain_http: &[String]) -> Result<Self> {
        Self::start_with(plain_http, &[])
    }

    /// As [`Agent::start`], with more arguments to `serve`.
    pub fn start_with(plain_http: &[String], more: &[&str]) -> Result<Self> {
        Self::start_on(None, plain_http, more)
    }

    /// As [`Agent::start_with`], with its data in this directory, which may hold some.
    pub fn start_in(data_dir: &Path, plain_http: &[String], more: &[&str]) -> Result<Self> {
        Self::start_on(Some(data_dir), plain_http, more)
    }

    fn start_on(data_dir: Option<&Path>, plain_http: &[String], more: &[&str]) -> Result<Self> {
        let dir = TempDir::with_prefix("kuik-agent-").context("make the agent's directory")?;
        let data_dir = data_dir.map_or_else(|| dir.path().join("data"), Path::to_owned);
        let (port, admin_port) = (free_port()?, free_port()?);
        let mut args = vec!["serve".to_owned()];
        let mut option = |name: &str, value: String| args.extend([name.to_owned(), value]);
        option("--listen", format!("127.0.0.1:{port}"));
        option("--admin-listen", format!("127.0.0.1:{admin_port}"));
        option("--data-dir", data_dir.display().to_string());
        // How full the machine's disk is must not decide what is cached.
        option("--cache-min-free", "16Mi".to_owned());
        for host in plain_http {
            option("--plain-http", host.clone());
        }
        args.extend(more.iter().map(|&arg| arg.to_owned()));
        let server = spawn(&args, &dir)?;
        let mut agent = Self { port, admin_port, args, server, dir };
        agent.wait_ready()?;
        Ok(agent)
    }

    /// Stops it with SIGTERM, on which it must end well, and starts it again on the same data.
    pub fn restart(&mut self) -> Result<()> {
        let status = self.server.stop()?;
        ensure!(status.success(), "the agent ended with {status} on SIGTERM\n{}", self.server.log_tail());
        self.start_again()
    }

    /// Kills it at whatever it does.
    pub fn kill(&mut self) -> Result<()> {
        self.server.kill()
    }

    /// Starts it again on the same data, after its end.
    pub fn start_again(&mut self) -> Result<()> {
        self.server = spawn(&self.args, &self.dir)?;
        self.wait_ready()
    }

    /// Runs another command of the same program, such as `ls`, against this agent, and returns what it prints.
    pub fn command(&self, arguments: &[&str]) -> Result<String> {
        let mut command = client(&program()?);
        run_text(command.args(arguments).env("KUIK_ADMIN", format!("127.0.0.1:{}", self.admin_port)))
    }

    /// Its metrics as they are now.
    pub fn metrics(&self) -> Result<Metrics> {
        Metrics::get(&self.admin_url("metrics"))
    }

    fn wait_ready(&mut self) -> Result<()> {
        let ready = self.admin_url("readyz");
        self.server.wait_ready(START_LIMIT, || http::get(&ready).is_ok_and(|reply| reply.status == 200))
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The path of a repository of `registry` (`host:port`) in the agent's API: the port is
    /// written with two underscores.
    pub fn path(registry: &str, repository: &str) -> String {
        format!("{}/{repository}", registry.replace(':', "__"))
    }

    /// The reference by which a node pulls an image: `suffix` is `:tag` or `@digest`.
    pub fn image(&self, registry: &str, repository: &str, suffix: &str) -> String {
        format!("localhost:{}/{}{suffix}", self.port, Self::path(registry, repository))
    }

    /// The URL of `path` below a repository of `registry`, such as `manifests/latest`.
    pub fn url(&self, registry: &str, repository: &str, path: &str) -> String {
        format!("http://{}/v2/{}/{path}", self.host(), Self::path(registry, repository))
    }

    /// The URL of a page of the admin port.
    pub fn admin_url(&self, page: &str) -> String {
        format!("http://127.0.0.1:{}/{page}", self.admin_port)
    }

    /// The agent's process, for signals and for its log.
    pub fn server(&self) -> &Server {
        &self.server
    }
}

fn spawn(args: &[String], dir: &TempDir) -> Result<Server> {
    Server::spawn("the agent", &program()?, args, &dir.path().join("log"))
}

/// `$KUIK_AGENT_BIN`, or the program that cargo built beside this test.
fn program() -> Result<PathBuf> {
    if let Some(path) = env::var_os("KUIK_AGENT_BIN") {
        return Ok(path.into());
    }
    let test = env::current_exe().context("find the running test")?;
    let profile = test.parent().and_then(|deps| deps.parent()).context("the test must be below target/")?;
    let path = profile.join("kuik-agent");
    ensure!(path.exists(), "{} is missing: run `make test`, or set KUIK_AGENT_BIN", path.display());
    Ok(path)
}
