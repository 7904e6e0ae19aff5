//! Finds the programs that `scripts/install-test-tools` installs.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

/// A program that the install script built itself, such as containerd 2.2 or crane.
pub fn built(name: &str) -> Result<PathBuf> {
    let path = bin_dir()?.join(name);
    ensure!(path.exists(), "{} is missing: run `make test-tools`", path.display());
    Ok(path)
}

/// A program from a Debian package. The cache of built tools is not looked at: it has a newer
/// `containerd` and `ctr` than Debian's.
pub fn debian(name: &str) -> Result<PathBuf> {
    ["/usr/bin", "/usr/sbin", "/bin", "/sbin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.exists())
        .with_context(|| format!("{name} is missing: run `make test-tools`"))
}

/// Where the built tools are: `$KUIK_TOOLS/bin`, or the same below `~/.cache/kuik/tools`.
pub fn bin_dir() -> Result<PathBuf> {
    let tools = match env::var_os("KUIK_TOOLS") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env::var_os("HOME").context("neither KUIK_TOOLS nor HOME is set")?).join(".cache/kuik/tools"),
    };
    Ok(tools.join("bin"))
}

/// Containers, mounts and root-only storage need root. Says so instead of failing somewhere deep.
pub fn require_root(what: &str) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    bail!("{what} needs root: run `make test` as root");
}
