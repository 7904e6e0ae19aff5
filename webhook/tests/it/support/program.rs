//! The program itself.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};

/// The program, without anything of the tester's environment that it would look at.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kuik-webhook"));
    command.env_clear().env("HOME", "/nonexistent");
    command
}

/// Runs it to its end.
pub(crate) fn ended(command: &mut Command) -> Output {
    command.output().expect("the program must start")
}

/// The one line of a failure.
#[track_caller]
pub(crate) fn failure(output: &Output, code: i32) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert_eq!(said.trim_end_matches('\n').lines().count(), 1, "{said}");
    said.strip_prefix("kuik-webhook: ").expect("the line must begin with the program's name").trim_end().to_owned()
}

/// `serve` with what it cannot do without, on ports of the system's choice.
pub(crate) fn serve() -> Command {
    let mut command = program();
    command.args(["serve", "--namespace=kuik-system", "--pod-name=webhook-1", "--pod-ip=127.0.0.1", "--log-format=json"]);
    command.args(["--admission-listen=127.0.0.1:0", "--control-listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0"]);
    command
}

/// Writes a kubeconfig of a cluster whose API server does not run.
pub(crate) fn dead_cluster(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("kubeconfig");
    let text = "{apiVersion: v1, kind: Config, current-context: c, clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}], \
        users: [{name: u, user: {}}], contexts: [{name: c, context: {cluster: c, user: u}}]}";
    std::fs::write(&path, text).unwrap();
    path
}

/// A webhook that runs. It is killed when a test ends before it does.
pub(crate) struct Running {
    child: Child,
    log: BufReader<ChildStdout>,
    pub(crate) admission: String,
    pub(crate) control: String,
    pub(crate) metrics: String,
}

impl Running {
    /// Starts it, and reads its ports off the log.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program must start");
        let log = BufReader::new(child.stdout.take().unwrap());
        let mut running = Self { child, log, admission: String::new(), control: String::new(), metrics: String::new() };
        let line = running.logged("listening");
        let port = |name: &str| line[name].as_str().expect("the line must have every address").to_owned();
        (running.admission, running.control, running.metrics) = (port("admission"), port("control"), port("metrics"));
        running
    }

    /// The next line of the log with this message.
    pub(crate) fn logged(&mut self, message: &str) -> serde_json::Value {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.log.read_line(&mut line).unwrap() > 0, "the log ended without {message:?}");
            let read: serde_json::Value = serde_json::from_str(&line).unwrap();
            if read["message"].as_str().is_some_and(|said| said.starts_with(message)) {
                return read;
            }
        }
    }

    /// The whole answer of the port for probes and metrics.
    pub(crate) fn ask(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.metrics).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    pub(crate) fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
