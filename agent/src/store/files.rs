//! Writing files so that a power cut leaves the old state or the new one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use super::error::StoreError;
use super::layout::Layout;

/// Writes a small file: temporary file → fsync → rename → fsync of the directory.
///
/// Crash states: before the rename there is at most a stray file in `tmp/`, which start-up deletes, and the old content, if any.
/// After the rename, and before the directory is synced, either of the two may be found; both are whole. Then the new one stays.
///
/// `true` if there was no such file.
pub(super) fn write_atomically(layout: &Layout, path: &Path, bytes: &[u8]) -> Result<bool, StoreError> {
    let temporary = layout.new_temporary();
    let written = write_new(&temporary, bytes).and_then(|()| place(&temporary, path));
    if written.is_err() {
        // It may not even exist; start-up deletes what is left.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut file = File::create_new(path).map_err(StoreError::io("create", path))?;
    file.write_all(bytes).and_then(|()| file.sync_data()).map_err(StoreError::io("write", path))
}

/// Moves a synced temporary file to its place and makes that last. `true` if there was no such file.
pub(super) fn place(temporary: &Path, path: &Path) -> Result<bool, StoreError> {
    let parent = path.parent().expect("a path below the data directory must have a parent");
    make_dir(parent)?;
    let is_new = rename(temporary, path).map_err(StoreError::io("rename a file to", path))?;
    sync_dir(parent)?;
    Ok(is_new)
}

/// Of two who write the same file at one time, one is told that it is new: files are counted by that.
fn rename(from: &Path, to: &Path) -> io::Result<bool> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        // It is there; or the file system cannot tell, and whoever asks before is mostly right.
        Err(Errno::EXIST) => fs::rename(from, to).map(|()| false),
        Err(Errno::INVAL | Errno::NOSYS) => {
            let is_new = !to.exists();
            fs::rename(from, to).map(|()| is_new)
        }
        Err(error) => Err(error.into()),
    }
}

/// Makes a directory and its parents, each of them synced into its own parent.
pub(super) fn make_dir(path: &Path) -> Result<(), StoreError> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().expect("a path below the data directory must have a parent");
    make_dir(parent)?;
    match fs::create_dir(path) {
        Ok(()) => sync_dir(parent),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(StoreError::io("create the directory", path)(error)),
    }
}

pub(super) fn sync_dir(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(StoreError::io("sync the directory", path))
}

/// Deletes what can be deleted of a directory's files, and says how many that were.
pub(super) fn clear_dir(path: &Path) -> usize {
    let Ok(entries) = fs::read_dir(path) else {
        return 0;
    };
    entries.flatten().filter(|entry| fs::remove_file(entry.path()).is_ok()).count()
}
