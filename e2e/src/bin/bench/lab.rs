//! Where a run happens: its folder, its tools, what it leaves out.

use std::env;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use kuik_e2e::tools::built;

use crate::args::Options;

/// Distribution's version that `scripts/install-test-tools` builds.
const DISTRIBUTION: &str = "distribution-3.1.2/registry";

/// One run's surroundings. Dropping it removes its folder.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) options: Options,
    /// All data of all contenders is below.
    pub(crate) work: PathBuf,
    /// Figures of finished rows, kept from run to run.
    pub(crate) results: PathBuf,
    /// The repository's root.
    pub(crate) repository: PathBuf,
    pub(crate) distribution: PathBuf,
    /// `None` where none has been built.
    pub(crate) agent: Option<PathBuf>,
    /// `None` where none has been built.
    pub(crate) webhook: Option<PathBuf>,
    folders: AtomicU32,
}

impl Lab {
    pub(crate) fn open(options: Options) -> Result<Self> {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("e2e must be in the workspace")?.to_owned();
        let target = repository.join("target");
        let results = target.join("bench");
        remove_stale(&results.join("work"));
        let base = options.work_dir.clone().unwrap_or_else(|| results.join("work"));
        let work = base.join(std::process::id().to_string());
        fs::create_dir_all(&results)?;
        fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
        let program_of = |variable: &str, name: &str| {
            let program = env::var_os(variable).map_or_else(|| target.join("release").join(name), PathBuf::from);
            program.is_file().then_some(program)
        };
        let agent = program_of("KUIK_AGENT_BIN", "kuik-agent").filter(|_| options.wants("agent"));
        let webhook = program_of("KUIK_WEBHOOK_BIN", "kuik-webhook");
        let distribution = tools()?.join(DISTRIBUTION);
        Ok(Self { options, work, results, repository, distribution, agent, webhook, folders: AtomicU32::new(0) })
    }

    /// The programs without which the agent's rows cannot be measured.
    pub(crate) fn check_tools(&self) -> Result<()> {
        for tool in ["nginx", "wrk", "hey", "docker-registry", "setpriv"] {
            if which(tool).is_none() {
                bail!("{tool} is not installed; run scripts/install-test-tools bench");
            }
        }
        if !self.distribution.is_file() {
            bail!("no {}; run scripts/install-test-tools bench", self.distribution.display());
        }
        Ok(())
    }

    /// The programs without which the rows on a real API server cannot be measured.
    pub(crate) fn check_cluster_tools(&self) -> Result<()> {
        for tool in ["hey", "curl", "etcd", "setpriv"] {
            if which(tool).is_none() {
                bail!("{tool} is not installed; run scripts/install-test-tools cluster bench");
            }
        }
        for program in ["kube-apiserver", "kubectl"] {
            built(program).context("run scripts/install-test-tools cluster bench")?;
        }
        Ok(())
    }

    /// A new, empty folder.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf> {
        let number = self.folders.fetch_add(1, Ordering::Relaxed) + 1;
        let folder = self.work.join(format!("{number:03}-{name}"));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(folder)
    }

    pub(crate) fn rounds(&self, usual: usize) -> usize {
        self.options.rounds.unwrap_or(if self.options.quick { 1 } else { usual })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Left behind it is only disk use below target/.
        let _left = fs::remove_dir_all(&self.work);
    }
}

/// Removes the folders of runs that were killed.
fn remove_stale(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        if !Path::new("/proc").join(entry.file_name()).exists() {
            // What cannot be removed now is tried again by the next run.
            let _left = fs::remove_dir_all(entry.path());
        }
    }
}

fn tools() -> Result<PathBuf> {
    match (env::var_os("KUIK_TOOLS"), env::var_os("HOME")) {
        (Some(tools), _) => Ok(PathBuf::from(tools)),
        (None, Some(home)) => Ok(Path::new(&home).join(".cache/kuik/tools")),
        (None, None) => bail!("neither KUIK_TOOLS nor HOME is set"),
    }
}

/// Looks a program up in PATH, and in sbin, where Debian puts nginx.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(sbin).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// A port that nobody has now.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// First line of what a command prints, on either output.
pub(crate) fn first_line(program: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).lines().next().map(str::to_owned)
}
