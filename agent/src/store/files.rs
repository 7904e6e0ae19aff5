//! Writing files so that a power cut leaves the old state or the new one.

use std::fs;
use std::io;
use std::path::Path;

use super::error::StoreError;
use super::layout::Layout;
use super::steps;

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
    let file = steps::create(path).map_err(StoreError::io("create", path))?;
    steps::write(&file, path, bytes, 0).and_then(|()| steps::sync(&file, path)).map_err(StoreError::io("write", path))
}

/// Moves a synced temporary file to its place and makes that last. `true` if there was no such file.
pub(super) fn place(temporary: &Path, path: &Path) -> Result<bool, StoreError> {
    let parent = path.parent().expect("a path below the data directory must have a parent");
    make_dir(parent)?;
    let is_new = steps::rename(temporary, path).map_err(StoreError::io("rename a file to", path))?;
    if let Err(error) = sync_dir(parent) {
        if is_new {
            // Whoever hears of the error counts no file: then there must be none.
            let _ = fs::remove_file(path);
        }
        return Err(error);
    }
    Ok(is_new)
}

/// Makes a directory and its parents, each of them synced into its own parent.
pub(super) fn make_dir(path: &Path) -> Result<(), StoreError> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().expect("a path below the data directory must have a parent");
    make_dir(parent)?;
    match steps::make_dir(path) {
        // One that may not last is made anew by the next who needs it.
        Ok(()) => sync_dir(parent).inspect_err(|_| drop(fs::remove_dir(path))),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(StoreError::io("create the directory", path)(error)),
    }
}

pub(super) fn sync_dir(path: &Path) -> Result<(), StoreError> {
    steps::sync_dir(path).map_err(StoreError::io("sync the directory", path))
}

/// Deletes what can be deleted of a directory's files, and says how many that were.
pub(super) fn clear_dir(path: &Path) -> usize {
    let Ok(entries) = fs::read_dir(path) else {
        return 0;
    };
    entries.flatten().filter(|entry| fs::remove_file(entry.path()).is_ok()).count()
}

/// How many files there are below a directory.
pub(super) fn count(path: &Path) -> u64 {
    let mut files = 0;
    let mut open = vec![path.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                Ok(_) => files += 1,
                // It went this moment.
                Err(_) => {}
            }
        }
    }
    files
}
