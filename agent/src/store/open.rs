//! Start-up of a data directory: who may use it, and what state it is in.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::Path;

use super::error::StoreError;
use super::files;
use super::index::{Closed, Index, Refusal};
use super::layout::Layout;
use super::record::decode;

/// The format that this agent writes.
const VERSION: u32 = 1;

/// What start-up found.
#[derive(Debug)]
pub(super) struct Opened {
    /// Held as long as the store lives; `None` where the disk lets nothing be locked.
    pub(super) lock: Option<File>,
    pub(super) index: Index,
    /// What the last orderly shutdown said of the index; `None` if the index may lack entries that the directory has.
    pub(super) closed: Option<Closed>,
}

/// Opens a data directory, or makes one.
///
/// A full, read-only or failing disk is no reason not to serve what it holds: then nothing is written and the index lives in memory.
pub(super) fn open(layout: &Layout) -> Result<Opened, StoreError> {
    tolerate(make_dirs(layout))?;
    check_version(layout)?;
    let lock = tolerate(lock(layout))?;
    // Before anything is written: on a full disk this is what makes room.
    let stray = files::clear_dir(&layout.temporary());
    if stray > 0 {
        tracing::info!(files = stray, "deleted what an interrupted download left");
    }
    tolerate(prepare(layout))?;
    let existed = layout.index().is_dir();
    let closed = fs::read(layout.clean()).ok().and_then(|bytes| decode(&bytes));
    // Removed before the first write: from here on only an orderly shutdown makes it true again.
    let removed = fs::remove_file(layout.clean()).is_ok() && files::sync_dir(layout.root()).is_ok();
    let (index, whole) = open_index(layout);
    Ok(Opened { lock, index, closed: closed.filter(|_| existed && whole && removed) })
}

/// `None` where the disk is the reason.
fn tolerate<T>(result: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_degradation() => {
            let error: &dyn std::error::Error = &error;
            tracing::error!(error = %crate::telemetry::chain(error), "the data directory cannot be written: serving without storing");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn make_dirs(layout: &Layout) -> Result<(), StoreError> {
    fs::create_dir_all(layout.root()).map_err(StoreError::io("create the data directory", layout.root()))?;
    for dir in [layout.blobs(), layout.refs(), layout.temporary(), layout.quarantine()] {
        files::make_dir(&dir)?;
    }
    Ok(())
}

fn prepare(layout: &Layout) -> Result<(), StoreError> {
    let version = layout.version();
    if !version.exists() {
        files::write_atomically(layout, &version, format!("{VERSION}\n").as_bytes())?;
    }
    // A directory that belongs to someone else, or is mounted read-only, shows here and not at the first pull.
    let probe = layout.new_temporary();
    let written = File::create(&probe).and_then(|mut file| file.write_all(b"probe"));
    let removed = fs::remove_file(&probe);
    written.and(removed).map_err(StoreError::io("write", &probe))
}

fn check_version(layout: &Layout) -> Result<(), StoreError> {
    let path = layout.version();
    match fs::read_to_string(&path) {
        Ok(text) if text.trim().parse::<u32>().is_ok_and(|found| found <= VERSION) => Ok(()),
        Ok(text) => {
            Err(StoreError::Newer { path: layout.root().to_owned(), found: text.trim().chars().take(20).collect(), known: VERSION })
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StoreError::io("read", path)(error)),
    }
}

fn lock(layout: &Layout) -> Result<File, StoreError> {
    let path = layout.lock();
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(StoreError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let owner = fs::read_to_string(&path).unwrap_or_default();
            let owner = if owner.trim().is_empty() { "unknown" } else { owner.trim() };
            return Err(StoreError::InUse { path: layout.root().to_owned(), owner: owner.to_owned() });
        }
        Err(TryLockError::Error(error)) => return Err(StoreError::io("lock", path)(error)),
    }
    // The lock is what counts; a full disk only keeps the next agent from naming this one.
    let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

/// The index and whether it is one that was there before.
fn open_index(layout: &Layout) -> (Index, bool) {
    let broke = fs::remove_file(layout.index_broken()).is_ok();
    let opened = if broke { Err(Refusal::Unusable("it broke while it was in use".to_owned())) } else { Index::open(&layout.index()) };
    let reason = match opened {
        Ok(index) => return (index, true),
        Err(Refusal::Disk(reason)) => {
            tracing::error!(reason, "the index cannot be opened on this disk: it is kept in memory");
            return (Index::in_memory(), false);
        }
        Err(Refusal::Unusable(reason)) => reason,
    };
    tracing::error!(reason, aside = %layout.index_aside().display(), "the index cannot be used: moved aside and made anew");
    if let Err(error) = move_aside(&layout.index(), &layout.index_aside()) {
        tracing::error!(%error, "the index cannot be moved aside: a new one is kept in memory");
        return (Index::in_memory(), false);
    }
    let index = Index::open(&layout.index()).unwrap_or_else(|refusal| {
        tracing::error!(?refusal, "no new index can be made on this disk: it is kept in memory");
        Index::in_memory()
    });
    (index, false)
}

fn move_aside(from: &Path, to: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(to) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::rename(from, to)
}
