//! The steps of writing a file, each made here and nowhere else: unit tests see them in their order, and have one fail as a disk would.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

/// What is done to a file or a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    MakeDir,
    Create,
    Write,
    Sync,
    Rename,
    SyncDir,
}

/// Makes a file that is not there.
pub(super) fn create(path: &Path) -> io::Result<File> {
    take(Step::Create, path, || File::options().read(true).write(true).create_new(true).open(path))
}

/// Writes into the file at `path`, from `offset` on.
pub(super) fn write(file: &File, path: &Path, bytes: &[u8], offset: u64) -> io::Result<()> {
    take(Step::Write, path, || file.write_all_at(bytes, offset))
}

/// Has the disk take what was written into the file at `path`.
pub(super) fn sync(file: &File, path: &Path) -> io::Result<()> {
    take(Step::Sync, path, || file.sync_data())
}

/// Of two who write the same file at one time, one is told that it is new: files are counted by that.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<bool> {
    take(Step::Rename, to, || match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        // It is there; or the file system cannot tell, and whoever asks before is mostly right.
        Err(Errno::EXIST) => fs::rename(from, to).map(|()| false),
        Err(Errno::INVAL | Errno::NOSYS) => {
            let is_new = !to.exists();
            fs::rename(from, to).map(|()| is_new)
        }
        Err(error) => Err(error.into()),
    })
}

/// Makes a directory in one that is there.
pub(super) fn make_dir(path: &Path) -> io::Result<()> {
    take(Step::MakeDir, path, || fs::create_dir(path))
}

/// Has the disk take the names in a directory.
pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    take(Step::SyncDir, path, || File::open(path).and_then(|dir| dir.sync_all()))
}

#[cfg(not(test))]
fn take<T>(_step: Step, _path: &Path, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    work()
}

#[cfg(test)]
fn take<T>(step: Step, path: &Path, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    watch::before(step, path)?;
    let done = work()?;
    watch::after(step, path);
    Ok(done)
}

/// A look at the steps that are taken in a data directory. Tests run at the same time, so each watches its own.
#[cfg(test)]
pub(crate) mod watch {
    use std::path::PathBuf;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::*;

    /// Held for a look or a change.
    static WATCHED: Mutex<Vec<Watched>> = Mutex::new(Vec::new());

    #[derive(Debug)]
    struct Watched {
        root: PathBuf,
        taken: Vec<(Step, PathBuf)>,
        fault: Option<Fault>,
    }

    #[derive(Debug)]
    struct Fault {
        step: Step,
        error: Errno,
        /// So many of these steps are taken before.
        spared: usize,
    }

    /// The watch over one data directory. It ends when this is dropped.
    #[derive(Debug)]
    pub(crate) struct Watch {
        root: PathBuf,
    }

    impl Watch {
        pub(crate) fn over(root: &Path) -> Self {
            all().push(Watched { root: root.to_owned(), taken: Vec::new(), fault: None });
            Self { root: root.to_owned() }
        }

        /// The steps since this was asked last, with paths from the root on. What failed is not among them.
        pub(crate) fn taken(&self) -> Vec<(Step, PathBuf)> {
            self.with(|watched| std::mem::take(&mut watched.taken))
        }

        /// From now on this step fails so, after it was taken `spared` more times.
        pub(crate) fn fail(&self, step: Step, error: Errno, spared: usize) {
            self.with(|watched| watched.fault = Some(Fault { step, error, spared }));
        }

        pub(crate) fn heal(&self) {
            self.with(|watched| watched.fault = None);
        }

        fn with<T>(&self, look: impl FnOnce(&mut Watched) -> T) -> T {
            look(all().iter_mut().find(|watched| watched.root == self.root).expect("it must be watched as long as this lives"))
        }
    }

    impl Drop for Watch {
        fn drop(&mut self) {
            all().retain(|watched| watched.root != self.root);
        }
    }

    fn all() -> MutexGuard<'static, Vec<Watched>> {
        WATCHED.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn before(step: Step, path: &Path) -> io::Result<()> {
        let mut all = all();
        let fault = all.iter_mut().find(|watched| path.starts_with(&watched.root)).and_then(|watched| watched.fault.as_mut());
        let Some(fault) = fault.filter(|fault| fault.step == step) else {
            return Ok(());
        };
        if fault.spared == 0 {
            return Err(fault.error.into());
        }
        fault.spared -= 1;
        Ok(())
    }

    pub(super) fn after(step: Step, path: &Path) {
        if let Some(watched) = all().iter_mut().find(|watched| path.starts_with(&watched.root))
            && let Ok(within) = path.strip_prefix(&watched.root)
        {
            watched.taken.push((step, within.to_owned()));
        }
    }
}
