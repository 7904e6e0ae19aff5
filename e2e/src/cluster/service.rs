//! The long-running processes of a cluster. They outlive the program that starts them, unless it takes the cluster down.
//!
//! Each is a script in the cluster's folder, so that any program can start it again just as it was. It writes its process id,
//! and carries the cluster's mark in its environment: the one tells which process, the other that it still is the same.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::layout::{Layout, MARK, Place};
use super::{enter, sweep};
use crate::process::run;
use crate::wait;

const START_LIMIT: Duration = Duration::from_secs(5);
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// One process at one place.
#[derive(Clone, Debug)]
pub struct Service {
    layout: Layout,
    place: Place,
    name: String,
}

impl Service {
    pub(super) fn new(layout: &Layout, place: Place, name: &str) -> Self {
        Self { layout: layout.clone(), place, name: name.to_owned() }
    }

    /// Writes its script: `argv`, none of which may hold quotes, with `path` as its PATH.
    pub(super) fn define(&self, path: &str, argv: &[String]) -> Result<()> {
        let quoted: Vec<String> =
            enter::arguments(&self.layout, self.place).iter().chain(argv).map(|argument| format!("'{argument}'")).collect();
        let script = format!(
            "#!/bin/sh\necho $$ >'{pid}'\nexec >>'{log}' 2>&1\nexport PATH='{path}' {MARK}='{mark}'\nexec nsenter {command}\n",
            pid = self.file("pid").display(),
            log = self.log().display(),
            mark = self.layout.mark(),
            command = quoted.join(" "),
        );
        fs::write(self.file("sh"), script).with_context(|| format!("write the script of {self}"))
    }

    pub(super) fn is_defined(&self) -> bool {
        self.file("sh").exists()
    }

    /// Starts it. That it is ready is another matter: that takes a question to what it serves.
    pub fn start(&self) -> Result<()> {
        ensure!(self.running().is_none(), "{self} runs already");
        // Marked from the start: a cluster that is taken down half-way must find it. Nothing else of this program's environment
        // is for it, a proxy least of all.
        let mut setsid = Command::new("setsid");
        setsid.args(["--fork", "sh"]).arg(self.file("sh")).current_dir("/").stdin(std::process::Stdio::null());
        setsid.env_clear().envs([("PATH", "/usr/bin:/bin"), ("HOME", "/root")]).env(MARK, self.layout.mark());
        let pid = self.file("pid");
        if pid.exists() {
            fs::remove_file(&pid).context("forget the last process id")?;
        }
        run(&mut setsid)?;
        wait::until(&format!("{self} to start"), START_LIMIT, || Ok(fs::read(&pid)?.ends_with(b"\n").then_some(())))
    }

    /// Its process, if it runs.
    pub fn running(&self) -> Option<Pid> {
        let pid = fs::read_to_string(self.file("pid")).ok()?.trim().parse().ok().and_then(Pid::from_raw)?;
        sweep::still_is(pid, &self.layout.mark()).then_some(pid)
    }

    /// Waits until `ready` says so; fails at once, with the end of the log, if it ends.
    pub(super) fn wait_ready(&self, limit: Duration, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
        let ended = wait::until(&format!("{self} to be ready"), limit, || match ready() {
            Ok(true) => Ok(Some(false)),
            Ok(false) | Err(_) if self.running().is_none() => Ok(Some(true)),
            not_yet => not_yet.map(|_| None),
        })
        .with_context(|| self.log_tail())?;
        ensure!(!ended, "{self} ended early\n{}", self.log_tail());
        Ok(())
    }

    /// Stops it with SIGTERM and waits for its end.
    pub fn stop(&self) -> Result<()> {
        self.end(Signal::TERM)
    }

    /// Kills it, and waits for its end.
    pub fn kill(&self) -> Result<()> {
        self.end(Signal::KILL)
    }

    fn end(&self, signal: Signal) -> Result<()> {
        let Some(pid) = self.running() else { bail!("{self} does not run") };
        kill_process(pid, signal).with_context(|| format!("signal {self}"))?;
        wait::until(&format!("{self} to end"), STOP_LIMIT, || Ok(self.running().is_none().then_some(())))
    }

    /// Where it writes.
    pub fn log(&self) -> PathBuf {
        self.layout.path(&format!("log/{self}.log"))
    }

    /// The last lines of what it wrote.
    pub fn log_tail(&self) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        format!("the end of {}:\n{}", self.log().display(), lines[lines.len().saturating_sub(30)..].join("\n"))
    }

    fn file(&self, extension: &str) -> PathBuf {
        self.layout.path(&format!("run/{self}.{extension}"))
    }
}

impl std::fmt::Display for Service {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{}-{}", self.place, self.name)
    }
}
