//! The agent as a process.

mod log;
mod metrics;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::RecvTimeoutError;

use kuik_crd::Digest;
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::{self, Got};
use super::registry::FakeRegistry;
use super::wait::{DEADLINE, soon, until, until_some};
use log::Log;
pub(crate) use metrics::Metrics;

/// The `upstream` settings of an agent that gives up soon: sooner than a person would wait, later than a busy machine needs.
pub(crate) fn impatient() -> Value {
    json!({ "stallTimeout": "400ms", "connectTimeout": "600ms", "maxAttempts": 3 })
}

/// The program under test with nothing set but its arguments.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kuik-agent"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy().to_lowercase();
        if text.starts_with("kuik_") || text.ends_with("_proxy") || text == "rust_log" {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// What a program says that ends by itself. One that does not is killed at the deadline: it then has no exit code.
pub(crate) fn ended(command: &mut Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the agent must be built");
    let pid = rustix::process::Pid::from_child(&child);
    let (done, waiting) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if waiting.recv_timeout(DEADLINE) == Err(RecvTimeoutError::Timeout) {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(done);
    watchdog.join().unwrap();
    output
}

/// How an agent is started.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    args: Vec<String>,
    env: Vec<(&'static str, String)>,
    config: Option<Value>,
    data_dir: Option<PathBuf>,
    by_variables: bool,
}

impl Builder {
    /// Talks HTTP to this upstream.
    pub(crate) fn plain_http(self, upstream: &FakeRegistry) -> Self {
        self.args(["--plain-http", &upstream.host()])
    }

    pub(crate) fn args<'a>(mut self, args: impl IntoIterator<Item = &'a str>) -> Self {
        self.args.extend(args.into_iter().map(str::to_owned));
        self
    }

    pub(crate) fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    /// The configuration file's content. (JSON is YAML.)
    pub(crate) fn config(mut self, config: Value) -> Self {
        self.config = Some(config);
        self
    }

    /// Keeps data here and not in a directory of its own.
    pub(crate) fn data_dir(mut self, dir: &Path) -> Self {
        self.data_dir = Some(dir.to_owned());
        self
    }

    /// Tells it by variables of the environment what every agent here is told by flags.
    pub(crate) fn by_variables(mut self) -> Self {
        self.by_variables = true;
        self
    }

    /// Starts it and waits until it is ready.
    pub(crate) async fn start(mut self) -> TestAgent {
        let home = tempfile::tempdir().unwrap();
        let data_dir = self.data_dir.unwrap_or_else(|| home.path().join("data"));
        let text = str::to_owned;
        let mut settings = vec![
            ("--listen", "KUIK_LISTEN", text("127.0.0.1:0")),
            ("--admin-listen", "KUIK_ADMIN_LISTEN", text("127.0.0.1:0")),
            ("--log-format", "KUIK_LOG_FORMAT", text("json")),
            ("--data-dir", "KUIK_DATA_DIR", data_dir.display().to_string()),
        ];
        if let Some(config) = self.config {
            let path = home.path().join("config.yaml");
            std::fs::write(&path, config.to_string()).unwrap();
            settings.push(("--config", "KUIK_CONFIG", path.display().to_string()));
        }
        // How full the machine's disk is must not decide what is cached. What a test says itself stands after it, and counts.
        self.env.insert(0, ("KUIK_CACHE_MIN_FREE", text("16Mi")));
        let mut args = vec![text("serve")];
        if self.by_variables {
            self.env.extend(settings.into_iter().map(|(_, name, value)| (name, value)));
        } else {
            args.extend(settings.into_iter().flat_map(|(flag, _, value)| [text(flag), value]));
        }
        args.extend(self.args);
        let mut agent = TestAgent {
            _home: home,
            data_dir,
            args,
            env: self.env,
            client: client::new(),
            log: Log::default(),
            child: None,
            registry: ([127, 0, 0, 1], 1).into(),
            admin: ([127, 0, 0, 1], 1).into(),
        };
        agent.start_again().await;
        agent
    }
}

/// A running agent. Dropping it kills it, and prints its log if the test failed.
#[derive(Debug)]
pub(crate) struct TestAgent {
    /// Holds the configuration, and the data unless that is elsewhere.
    _home: TempDir,
    data_dir: PathBuf,
    args: Vec<String>,
    env: Vec<(&'static str, String)>,
    client: Client,
    log: Log,
    child: Option<Child>,
    registry: SocketAddr,
    admin: SocketAddr,
}

impl TestAgent {
    pub(crate) fn builder() -> Builder {
        Builder::default()
    }

    /// An agent with default settings that talks HTTP to this upstream.
    pub(crate) async fn start(upstream: &FakeRegistry) -> Self {
        Self::builder().plain_http(upstream).start().await
    }

    // Its life.

    /// Starts it once more on the same data, after it ended. Its ports are new ones.
    pub(crate) async fn start_again(&mut self) {
        assert!(self.child.is_none(), "the agent still runs");
        self.log.begin();
        let mut command = program();
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (*name, value)));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the agent must be built");
        self.log.follow(child.stdout.take().unwrap());
        self.log.follow(child.stderr.take().unwrap());
        self.child = Some(child);
        let (registry, admin) = until_some("the agent listens", async || {
            if let Some(status) = self.try_wait() {
                panic!("the agent ended with {status} before it listened");
            }
            self.log.listening()
        })
        .await;
        (self.registry, self.admin) = (registry, admin);
        until_some("the agent is ready", async || {
            let answer = self.client.get(self.admin_url("/readyz")).send().await.ok()?;
            (answer.status() == 200).then_some(())
        })
        .await;
    }

    /// Ends it as a power cut ends a process.
    pub(crate) fn kill9(&mut self) {
        let mut child = self.child.take().expect("the agent must run");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// `kill9` and `start_again`.
    pub(crate) async fn crash(&mut self) {
        self.kill9();
        self.start_again().await;
    }

    /// Sends SIGTERM; [`Self::exit`] tells how it went.
    pub(crate) fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(self.child.as_ref().expect("the agent must run"));
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Waits until it has ended.
    pub(crate) async fn exit(&mut self) -> ExitStatus {
        let status = until_some("the agent ends", async || self.try_wait()).await;
        self.child = None;
        status
    }

    fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().unwrap())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("the agent must run").id()
    }

    // Its log.

    /// All lines of all its lives.
    pub(crate) fn log(&self) -> String {
        self.log.text()
    }

    // Its directory.

    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    pub(crate) fn blob_file(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.data_dir.join("blobs").join(digest.algorithm().as_str()).join(&hex[..2]).join(&hex)
    }

    /// Waits until a blob is committed: clients have its last byte before the disk has.
    pub(crate) async fn committed(&self, digest: &Digest) {
        let file = self.blob_file(digest);
        until("a blob is committed", || file.exists()).await;
    }

    /// All files below a part of the data directory, such as `tmp`.
    pub(crate) fn files(&self, part: &str) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut dirs = vec![self.data_dir.join(part)];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(&dir).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() { dirs.push(path) } else { files.push(path) }
            }
        }
        files
    }

    // Asking it.

    pub(crate) fn registry_address(&self) -> SocketAddr {
        self.registry
    }

    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.registry)
    }

    pub(crate) fn admin_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.admin)
    }

    pub(crate) async fn get(&self, path: &str) -> Got {
        self.get_with(path, &[]).await
    }

    pub(crate) async fn get_with(&self, path: &str, headers: &[(&'static str, &str)]) -> Got {
        client::send(client::request(&self.client, Method::GET, &self.url(path), headers)).await
    }

    pub(crate) async fn get_range(&self, path: &str, range: &str) -> Got {
        self.get_with(path, &[("range", range)]).await
    }

    /// A GET that may break off.
    pub(crate) async fn try_get(&self, path: &str) -> Result<Got, reqwest::Error> {
        client::try_send(self.client.get(self.url(path))).await
    }

    pub(crate) async fn head(&self, path: &str) -> Got {
        client::send(self.client.head(self.url(path))).await
    }

    pub(crate) async fn send(&self, method: Method, path: &str) -> Got {
        client::send(self.client.request(method, self.url(path))).await
    }

    /// An answer whose body is still to be read.
    pub(crate) async fn open(&self, path: &str) -> Response {
        soon("an answer's head", self.client.get(self.url(path)).send()).await.unwrap()
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        let answer = client::send(self.client.get(self.admin_url("/metrics"))).await.expect(200);
        Metrics::new(String::from_utf8(answer.body.to_vec()).unwrap())
    }

    /// One metric's sum over the series with these labels.
    pub(crate) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.metrics().await.value(name, labels)
    }
}

impl Drop for TestAgent {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
        if std::thread::panicking() {
            self.log.print();
        }
    }
}
