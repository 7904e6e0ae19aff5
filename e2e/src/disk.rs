//! Small file systems of a test's own, real ones, which it can fill up.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;
use tempfile::TempDir;

use crate::process::{Server, run};
use crate::tools;

const MOUNT_LIMIT: Duration = Duration::from_secs(10);
/// Mounts, in a namespace that is held as long as this process lives.
const HOLD: &str = r#"mount "$@" && exec sleep infinity"#;
const FILLER_STEP_BYTES: u64 = 64 << 20;
const FILLER_STEP_BYTES_MIN: u64 = 4096;

/// Which file system.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FileSystem {
    Ext4,
    /// Of 300 MiB at least, or `mkfs.xfs` refuses.
    Xfs,
    /// In memory.
    Tmpfs,
}

impl FileSystem {
    /// Its name for `mount`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Tmpfs => "tmpfs",
        }
    }

    /// Makes an empty one in the file `image`, which takes disk only for what is written to it.
    pub fn make(self, image: &Path, size_bytes: u64) -> Result<()> {
        let file = File::create(image).with_context(|| format!("make {}", image.display()))?;
        file.set_len(size_bytes).context("size a file system")?;
        let (program, arguments): (&str, &[&str]) = match self {
            // Blocks as on a node's disk; by itself it takes smaller ones for a small file system. Nothing is reserved for root,
            // whom nobody here could tell from the others.
            Self::Ext4 => ("mkfs.ext4", &["-q", "-F", "-b", "4096", "-m", "0"]),
            Self::Xfs => ("mkfs.xfs", &["-q", "-f"]),
            Self::Tmpfs => return Ok(()),
        };
        run(Command::new(tools::debian(program)?).args(arguments).arg(image)).map(drop)
    }
}

/// The room of a file system, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub capacity: u64,
    /// What an ordinary user may still write.
    pub free: u64,
}

impl Room {
    /// That of the file system that `path` is on.
    pub fn at(path: &Path) -> Result<Self> {
        let stat = statvfs(path).with_context(|| format!("ask for the room at {}", path.display()))?;
        Ok(Self { capacity: stat.f_blocks * stat.f_frsize, free: stat.f_bavail * stat.f_frsize })
    }

    /// What is free, in percent of all.
    #[expect(clippy::cast_precision_loss, reason = "a percentage")]
    pub fn free_percent(&self) -> f64 {
        self.free as f64 * 100.0 / self.capacity as f64
    }
}

/// A mounted file system.
///
/// It is mounted in a namespace that a process holds, and reached through that process's `/proc/PID/root`: when a test is killed,
/// the process goes with it, and the mount and the loop device with the process.
#[derive(Debug)]
pub struct Disk {
    /// Ended before the folder is deleted.
    holder: Server,
    dir: TempDir,
}

impl Disk {
    /// Makes a file system of this size and mounts it.
    pub fn mount(kind: FileSystem, size_bytes: u64) -> Result<Self> {
        tools::require_root("a file system")?;
        let dir = TempDir::with_prefix("kuik-disk-").context("make a directory for a disk")?;
        let (image, point) = (dir.path().join("image"), dir.path().join("mount"));
        fs::create_dir(&point).context("make a mount point")?;
        let (options, source) = match kind {
            FileSystem::Tmpfs => (format!("size={size_bytes}"), Path::new("none")),
            FileSystem::Ext4 | FileSystem::Xfs => ("loop".to_owned(), image.as_path()),
        };
        kind.make(&image, size_bytes)?;
        let mut arguments: Vec<PathBuf> =
            ["--mount", "sh", "-c", HOLD, "hold", "-t", kind.name(), "-o", &options].map(PathBuf::from).to_vec();
        arguments.extend([source.to_owned(), point.clone()]);
        let holder = Server::spawn("the holder of a disk", &tools::debian("unshare")?, &arguments, &dir.path().join("log"))?;
        let mut disk = Self { holder, dir };
        let mounts = format!("/proc/{}/mounts", disk.holder.pid());
        let point = format!(" {} ", point.display());
        disk.holder.wait_ready(MOUNT_LIMIT, || fs::read_to_string(&mounts).is_ok_and(|mounts| mounts.contains(&point)))?;
        Ok(disk)
    }

    /// Where its files are, for every process of the machine.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}", self.holder.pid(), self.dir.path().join("mount").display()))
    }

    /// Takes all that is free; done again, what has become free since.
    pub fn fill_up(&self) -> Result<()> {
        let path = self.filler();
        let file = File::options().create(true).append(true).open(&path).context("make the filler")?;
        let mut step_bytes = FILLER_STEP_BYTES;
        while step_bytes >= FILLER_STEP_BYTES_MIN {
            let size_bytes = file.metadata().context("look at the filler")?.len();
            match fallocate(&file, FallocateFlags::empty(), size_bytes, step_bytes) {
                Ok(()) => {}
                Err(Errno::NOSPC) => step_bytes /= 2,
                Err(error) => return Err(error).context("fill a disk up"),
            }
        }
        Ok(())
    }

    /// Gives back what [`Disk::fill_up`] took. No error if that was nothing.
    pub fn free_up(&self) -> Result<()> {
        let path = self.filler();
        if path.exists() {
            fs::remove_file(&path).context("delete the filler")?;
        }
        Ok(())
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }
}
