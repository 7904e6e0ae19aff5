//! Children: started, looked at through /proc, and ended by their process id.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long a child may take to end when asked to.
const GRACE: Duration = Duration::from_secs(10);

/// A running child with all its descendants. Dropping it ends them.
pub(crate) struct Process {
    child: Child,
    /// The command line, for the report.
    pub(crate) command: String,
    /// When it was executed.
    pub(crate) started: Instant,
}

/// Memory of a process and its descendants, summed, in KiB.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    pub(crate) rss_kib: u64,
    pub(crate) high_water_kib: u64,
    pub(crate) anonymous_kib: u64,
}

impl Process {
    /// Starts `program`; it dies with us whatever happens (`setpriv --pdeathsig`), its output goes to `log`.
    pub(crate) fn start(program: &Path, arguments: &[String], environment: &[(&str, &str)], log: &Path) -> Result<Self> {
        let command = format!("{} {}", program.display(), arguments.join(" "));
        let out = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let started = Instant::now();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--"])
            .arg(program)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stderr(out.try_clone()?)
            .stdout(out)
            .spawn()
            .with_context(|| format!("cannot start {command}"))?;
        Ok(Self { child, command, started })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// An error if it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended: {status}", self.command),
            None => Ok(()),
        }
    }

    /// Ends it at once, as the kernel does when memory is short.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// CPU time, user and system, of the whole tree since its start.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let mut ticks = 0;
        for id in tree(self.id()) {
            let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
            let (_, after_name) = stat.rsplit_once(')').context("a stat line must hold a name")?;
            let fields: Vec<&str> = after_name.split_whitespace().collect();
            // proc(5): utime and stime are fields 14 and 15; the first here is field 3.
            for field in [11, 12] {
                ticks += fields.get(field).context("short stat line")?.parse::<u64>()?;
            }
        }
        // USER_HZ is 100 on every Linux this runs on; the kernel scales both to the exact run time.
        Ok(Duration::from_millis(ticks * 10))
    }

    /// Memory of the whole tree. Pages shared between its processes are counted once for each.
    pub(crate) fn memory(&self) -> Result<Memory> {
        let mut sum = Memory::default();
        for id in tree(self.id()) {
            let status = fs::read_to_string(format!("/proc/{id}/status"))?;
            let kib = |key: &str| -> u64 {
                let line = status.lines().find_map(|line| line.strip_prefix(key));
                line.and_then(|rest| rest.trim_matches([':', '\t', ' ', 'k', 'B']).parse().ok()).unwrap_or(0)
            };
            sum.rss_kib += kib("VmRSS");
            sum.high_water_kib += kib("VmHWM");
            sum.anonymous_kib += kib("RssAnon");
        }
        Ok(sum)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let family = tree(self.child.id());
        // Already gone is as good as ended.
        let _gone = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let deadline = Instant::now() + GRACE;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                for pid in family.iter().filter_map(|&id| Pid::from_raw(i32::try_from(id).ok()?)) {
                    let _gone = kill_process(pid, Signal::KILL);
                }
                let _status = self.child.wait();
                return;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// A process and all its descendants.
fn tree(root: u32) -> Vec<u32> {
    let mut all = vec![root];
    let mut next = 0;
    while let Some(&id) = all.get(next) {
        next += 1;
        let Ok(tasks) = fs::read_dir(format!("/proc/{id}/task")) else { continue };
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    all
}
