//! Child processes: long-running ones that die with their owner, and clients that run to the end.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Seek as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

const STOP_LIMIT: Duration = Duration::from_secs(40);
/// A client that takes longer hangs; nothing here needs more than a few seconds.
const CLIENT_LIMIT_SECONDS: &str = "180";

const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 12_000;

/// A server that a test started. Killed when dropped.
#[derive(Debug)]
pub struct Server {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts `program` with its output in `log`.
    ///
    /// The kernel kills it when the thread that called this ends in whatever way, so that a test
    /// that is itself killed leaves nothing behind.
    pub fn spawn<S: AsRef<OsStr>>(name: &str, program: &Path, args: &[S], log: &Path) -> Result<Self> {
        let output = File::options().create(true).append(true).open(log).with_context(|| format!("open {}", log.display()))?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(args)
            .stdin(std::process::Stdio::null())
            .stdout(output.try_clone().context("share the log")?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// The process id, for tests that look into `/proc`.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `ready` says so; fails at once, with the end of the log, if the server ends.
    pub fn wait_ready(&mut self, limit: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let what = format!("{} to be ready", self.name);
        let ended = wait::until(&what, limit, || {
            if ready() {
                return Ok(Some(None));
            }
            Ok(self.child.try_wait()?.map(Some))
        })
        .with_context(|| self.log_tail())?;
        match ended {
            None => Ok(()),
            Some(status) => bail!("{} ended early: {status}\n{}", self.name, self.log_tail()),
        }
    }

    /// Sends SIGTERM and waits for the end.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        let what = format!("{} to end after SIGTERM", self.name);
        wait::until(&what, STOP_LIMIT, || Ok(self.child.try_wait()?))
    }

    /// Kills it at once, as the kernel does when memory is short.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("kill {}", self.name))?;
        self.child.wait().map(drop).with_context(|| format!("wait for the end of {}", self.name))
    }

    /// Sends `signal`.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal).with_context(|| format!("signal {}", self.name))
    }

    /// Kills the only child of this process, and waits for this process to end of that.
    pub fn kill_child(&mut self) -> Result<ExitStatus> {
        let pid = self.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).context("find the child")?;
        let child = children.trim().parse().ok().and_then(Pid::from_raw).context("it must have one child")?;
        kill_process(child, Signal::KILL).context("kill the child")?;
        wait::until("the parent to end", STOP_LIMIT, || Ok(self.child.try_wait()?))
    }

    /// The last lines of what it wrote.
    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(30)..].join("\n");
        format!("the end of {}'s log:\n{tail}", self.name)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when it has ended already, which is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A command for a client, which is killed when it hangs.
pub fn client(program: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", CLIENT_LIMIT_SECONDS]).arg(program);
    command
}

/// Runs `command` to its end; an error holds everything it said.
pub fn run(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    Ok(output)
}

/// Runs `command` and returns its standard output as text.
pub fn run_text(command: &mut Command) -> Result<String> {
    String::from_utf8(run(command)?.stdout).with_context(|| format!("the output of {command:?}"))
}

/// As [`run_text`], with something to read on standard input.
pub fn run_with_input(command: &mut Command, input: &str) -> Result<String> {
    let mut file = tempfile::tempfile().context("make a temporary file")?;
    file.write_all(input.as_bytes()).and_then(|()| file.rewind()).context("write the input")?;
    run_text(command.stdin(file)).with_context(|| format!("its input was {input}"))
}

/// A port of loopback that nobody uses now, and that no outgoing connection is given: those come
/// from 32768 on.
pub fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes that run at once start looking in different places.
    let offset = (std::process::id() % u32::from(PORTS)).try_into().unwrap_or(0);
    for _ in 0..PORTS {
        let port = FIRST_PORT + NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(offset) % PORTS;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port of loopback is free")
}
