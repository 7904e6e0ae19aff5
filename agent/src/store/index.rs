//! The index: what is quicker to look up than to read from the directory. The only file that names sled.
//!
//! It is a cache of `blobs/` and `refs/` plus use-times and tag freshness. Whatever it says, the directory decides: an entry whose
//! file is gone is a miss, and what it lacks is read from the directory at start-up. So an index that is deleted, corrupt or from a newer version
//! is moved aside and made anew (`recover.rs`), and one that cannot be opened at all (full or read-only disk) is kept in memory.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Its format; another one is made anew.
const VERSION: &[u8] = b"1";
const VERSION_KEY: &[u8] = b"version";
const CLOSED_KEY: &[u8] = b"closed";

/// The part of the index in memory. sled keeps what is in use; the rest is read again.
const CACHE_BYTES: u64 = 8 << 20;

/// A table of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    /// digest → [`super::BlobRecord`]
    Blobs,
    /// repository, digest → [`super::LinkRecord`]
    Links,
    /// repository, digest → [`super::ManifestRecord`]
    Manifests,
    /// repository, digest of a subject, digest of a manifest → its descriptor, or nothing if no list had it
    Referrers,
    /// repository, tag → [`super::TagRecord`]
    Tags,
}

const TABLES: [(Table, &str); 5] = [
    (Table::Blobs, "blobs"),
    (Table::Links, "links"),
    (Table::Manifests, "manifests"),
    (Table::Referrers, "referrers"),
    (Table::Tags, "tags"),
];

/// Why an index was not opened.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Its content cannot be used: move it aside.
    Unusable(String),
    /// The disk refuses: keep the index in memory.
    Disk(String),
}

/// What an index held when it was closed. The storage engine opens a damaged file without a word and with fewer rows, so this is kept
/// beside it and compared at the next start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Closed {
    /// The last thing that was written into the index.
    mark: String,
    rows: u64,
}

/// A row: key and value.
pub(super) type Row = (Vec<u8>, Vec<u8>);

type MemoryRows = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// The tables. Every method is synchronous: what is in memory costs less than a switch of threads.
#[derive(Debug)]
pub(super) struct Index {
    /// Replaced when it turns out to be broken. Held to copy the pointer, never across an await.
    backend: RwLock<Arc<Backend>>,
    /// `true` once the storage engine has failed: what it says cannot be relied on any more.
    broken: watch::Sender<bool>,
}

#[derive(Debug)]
enum Backend {
    Sled {
        db: sled::Db,
        tables: BTreeMap<Table, sled::Tree>,
    },
    /// Held for one operation.
    Memory(Mutex<MemoryRows>),
}

impl Index {
    /// Opens the index at `path`, or makes it. sled 0.34 may panic on a corrupt file, and that is a refusal like any other.
    pub(super) fn open(path: &Path) -> Result<Self, Refusal> {
        let opened = catch_unwind(AssertUnwindSafe(|| open_sled(path)));
        opened.unwrap_or_else(|_| Err(Refusal::Unusable("its storage engine panicked on it".to_owned()))).map(Self::new)
    }

    /// An index that lasts as long as the process.
    pub(super) fn in_memory() -> Self {
        Self::new(Backend::Memory(Mutex::default()))
    }

    fn new(backend: Backend) -> Self {
        Self { backend: RwLock::new(Arc::new(backend)), broken: watch::Sender::new(false) }
    }

    fn backend(&self) -> Arc<Backend> {
        Arc::clone(&self.backend.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Goes on in memory, empty. The files stay as they are, for the next start to move aside.
    pub(super) fn replace_with_memory(&self) {
        let mut backend = self.backend.write().unwrap_or_else(PoisonError::into_inner);
        let broken = std::mem::replace(&mut *backend, Arc::new(Backend::Memory(Mutex::default())));
        drop(backend);
        // It may take its time, or panic: nobody waits for it, and nothing depends on it.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(broken)));
    }

    /// Ends when the storage engine has failed.
    pub(super) fn watch_broken(&self) -> watch::Receiver<bool> {
        self.broken.subscribe()
    }

    /// Whether what it says can be relied on: it has not failed, or goes on in memory since.
    pub(super) fn is_sound(&self) -> bool {
        !*self.broken.borrow() || matches!(*self.backend(), Backend::Memory(_))
    }

    /// Has the storage engine fail as a defect of it would.
    #[cfg(test)]
    pub(super) fn break_down(&self) {
        self.guard::<()>(Table::Tags, || Err(sled::Error::ReportableBug("as a test wants".to_owned())));
    }

    /// A failed read is a miss: the caller asks the directory then.
    pub(super) fn get(&self, table: Table, key: &[u8]) -> Option<Vec<u8>> {
        match &*self.backend() {
            Backend::Sled { tables, .. } => self.guard(table, || tables[&table].get(key))?.map(|value| value.to_vec()),
            Backend::Memory(rows) => lock(rows).get(&(table, key.to_vec())).cloned(),
        }
    }

    /// A failed write loses recency or freshness, nothing that `refs/` does not hold. `true` if the row is a new one.
    pub(super) fn put(&self, table: Table, key: &[u8], value: Vec<u8>) -> bool {
        match &*self.backend() {
            Backend::Sled { tables, .. } => self.guard(table, || tables[&table].insert(key, value)).is_some_and(|old| old.is_none()),
            Backend::Memory(rows) => lock(rows).insert((table, key.to_vec()), value).is_none(),
        }
    }

    /// `true` if there was no such row; otherwise it stays as it was.
    pub(super) fn put_if_absent(&self, table: Table, key: &[u8], value: Vec<u8>) -> bool {
        match &*self.backend() {
            Backend::Sled { tables, .. } => self
                .guard(table, || tables[&table].compare_and_swap(key, None::<&[u8]>, Some(value)))
                .is_some_and(|swapped| swapped.is_ok()),
            Backend::Memory(rows) => {
                let mut rows = lock(rows);
                let is_new = !rows.contains_key(&(table, key.to_vec()));
                if is_new {
                    rows.insert((table, key.to_vec()), value);
                }
                is_new
            }
        }
    }

    /// `true` if there was such a row.
    pub(super) fn remove(&self, table: Table, key: &[u8]) -> bool {
        match &*self.backend() {
            Backend::Sled { tables, .. } => self.guard(table, || tables[&table].remove(key)).flatten().is_some(),
            Backend::Memory(rows) => lock(rows).remove(&(table, key.to_vec())).is_some(),
        }
    }

    /// Changes a row in one step. `change` may run more than once; `None` leaves the row as it is.
    pub(super) fn update(&self, table: Table, key: &[u8], change: &dyn Fn(&[u8]) -> Option<Vec<u8>>) {
        match &*self.backend() {
            Backend::Sled { tables, .. } => {
                let changed = |old: Option<&[u8]>| old.and_then(|old| change(old).or_else(|| Some(old.to_vec())));
                self.guard(table, || tables[&table].update_and_fetch(key, changed));
            }
            Backend::Memory(rows) => {
                if let Some(row) = lock(rows).get_mut(&(table, key.to_vec()))
                    && let Some(changed) = change(row)
                {
                    *row = changed;
                }
            }
        }
    }

    /// All rows of a table whose keys begin with `prefix`, in order of their keys. What cannot be read ends the list.
    pub(super) fn scan(&self, table: Table, prefix: &[u8]) -> Vec<Row> {
        match &*self.backend() {
            Backend::Sled { tables, .. } => {
                let read =
                    || tables[&table].scan_prefix(prefix).map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec()))).collect();
                self.guard(table, read).unwrap_or_default()
            }
            Backend::Memory(rows) => lock(rows)
                .range((table, prefix.to_vec())..)
                .take_while(|((other, key), _)| *other == table && key.starts_with(prefix))
                .map(|((_, key), value)| (key.clone(), value.clone()))
                .collect(),
        }
    }

    /// The rows of a table that follow on a key, in order, and so many of them at the most.
    pub(super) fn after(&self, table: Table, key: &[u8], most: usize) -> Vec<Row> {
        use std::ops::Bound::{Excluded, Unbounded};
        match &*self.backend() {
            Backend::Sled { tables, .. } => {
                let rows = || tables[&table].range::<&[u8], _>((Excluded(key), Unbounded)).take(most);
                let read = || rows().map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec()))).collect();
                self.guard(table, read).unwrap_or_default()
            }
            Backend::Memory(rows) => lock(rows)
                .range((Excluded((table, key.to_vec())), Unbounded))
                .take_while(|((other, _), _)| *other == table)
                .take(most)
                .map(|((_, key), value)| (key.clone(), value.clone()))
                .collect(),
        }
    }

    /// Visits all rows of a table, without a copy of them all.
    pub(super) fn each(&self, table: Table, visit: &mut dyn FnMut(&[u8], &[u8])) {
        match &*self.backend() {
            Backend::Sled { tables, .. } => {
                self.guard(table, || {
                    for row in tables[&table].iter() {
                        let (key, value) = row?;
                        visit(&key, &value);
                    }
                    Ok(())
                });
            }
            Backend::Memory(rows) => {
                lock(rows).iter().filter(|((other, _), _)| *other == table).for_each(|((_, key), value)| visit(key, value));
            }
        }
    }

    /// Runs an operation of the storage engine. An error or a panic of it is noted, and is as if nothing were there.
    fn guard<T>(&self, table: Table, operation: impl FnOnce() -> sled::Result<T>) -> Option<T> {
        let reason = match catch_unwind(AssertUnwindSafe(operation)) {
            Ok(Ok(value)) => return Some(value),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it panicked".to_owned(),
        };
        if !self.broken.send_replace(true) {
            tracing::error!(?table, reason, "the storage engine of the index failed: the index is made anew in memory");
        }
        None
    }

    /// Writes everything to disk, a mark last. `None` if the index does not outlive the process, or cannot be relied on.
    pub(super) fn close(&self) -> Option<Closed> {
        let Backend::Sled { db, .. } = &*self.backend() else {
            return None;
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mark = format!("{}-{}", std::process::id(), now.as_nanos());
        let closed = Closed { rows: self.rows(), mark };
        self.guard(Table::Blobs, || db.insert(CLOSED_KEY, closed.mark.as_bytes()).and_then(|_| db.flush()))?;
        (!*self.broken.borrow()).then_some(closed)
    }

    /// Whether the index is as it was when it was closed.
    pub(super) fn is_as_closed(&self, closed: &Closed) -> bool {
        let Backend::Sled { db, .. } = &*self.backend() else {
            return false;
        };
        let mark = self.guard(Table::Blobs, || db.get(CLOSED_KEY)).flatten();
        mark.is_some_and(|mark| mark == closed.mark.as_bytes()) && self.rows() == closed.rows && !*self.broken.borrow()
    }

    fn rows(&self) -> u64 {
        let mut rows = 0;
        for (table, _) in TABLES {
            self.each(table, &mut |_, _| rows += 1);
        }
        rows
    }

    /// Writes everything to disk.
    pub(super) fn flush(&self) {
        if let Backend::Sled { db, .. } = &*self.backend()
            && let Err(error) = db.flush()
        {
            tracing::error!(%error, "the index cannot be flushed");
        }
    }

    /// What it takes on disk, in bytes.
    pub(super) fn size_bytes(&self) -> u64 {
        match &*self.backend() {
            Backend::Sled { db, .. } => db.size_on_disk().unwrap_or(0),
            Backend::Memory(_) => 0,
        }
    }
}

fn open_sled(path: &Path) -> Result<Backend, Refusal> {
    let db = sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        .mode(sled::Mode::LowSpace)
        .flush_every_ms(Some(1000))
        .open()
        .map_err(refuse)?;
    match db.get(VERSION_KEY).map_err(refuse)? {
        Some(version) if version == VERSION => {}
        Some(version) => {
            return Err(Refusal::Unusable(format!("it has format version {}", String::from_utf8_lossy(&version))));
        }
        None => {
            db.insert(VERSION_KEY, VERSION).map_err(refuse)?;
        }
    }
    let mut tables = BTreeMap::new();
    for (table, name) in TABLES {
        tables.insert(table, db.open_tree(name).map_err(refuse)?);
    }
    Ok(Backend::Sled { db, tables })
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err hands over")]
fn refuse(error: sled::Error) -> Refusal {
    use std::io::ErrorKind as Kind;
    match &error {
        sled::Error::Io(source)
            if matches!(
                source.kind(),
                Kind::StorageFull | Kind::QuotaExceeded | Kind::ReadOnlyFilesystem | Kind::PermissionDenied | Kind::WouldBlock
            ) =>
        {
            Refusal::Disk(error.to_string())
        }
        _ => Refusal::Unusable(error.to_string()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(index: &Index) {
        index.put(Table::Tags, b"a\0x", b"1".to_vec());
        index.put(Table::Tags, b"a\0y", b"2".to_vec());
        index.put(Table::Tags, b"b\0x", b"3".to_vec());
        index.put(Table::Links, b"a\0x", b"4".to_vec());
        assert_eq!(index.get(Table::Tags, b"a\0y"), Some(b"2".to_vec()));
        let rows: Vec<_> = index.scan(Table::Tags, b"a\0").into_iter().map(|(_, value)| value).collect();
        assert_eq!(rows, [b"1", b"2"]);
        let after: Vec<_> = index.after(Table::Tags, b"a\0x", 2).into_iter().map(|(_, value)| value).collect();
        assert_eq!(after, [b"2", b"3"]);
        assert_eq!(index.after(Table::Tags, b"", 1).len(), 1);
        index.update(Table::Tags, b"a\0y", &|old| Some([old, b"+"].concat()));
        index.update(Table::Tags, b"a\0z", &|_| Some(b"new".to_vec()));
        index.update(Table::Tags, b"a\0x", &|_| None);
        assert_eq!(index.get(Table::Tags, b"a\0y"), Some(b"2+".to_vec()));
        assert_eq!(index.get(Table::Tags, b"a\0z"), None);
        assert_eq!(index.get(Table::Tags, b"a\0x"), Some(b"1".to_vec()));
        assert!(!index.put_if_absent(Table::Tags, b"a\0y", b"3".to_vec()) && index.put_if_absent(Table::Tags, b"a\0w", b"4".to_vec()));
        assert_eq!((index.get(Table::Tags, b"a\0y"), index.get(Table::Tags, b"a\0w")), (Some(b"2+".to_vec()), Some(b"4".to_vec())));
        index.remove(Table::Tags, b"a\0y");
        assert_eq!(index.get(Table::Tags, b"a\0y"), None);
    }

    #[test]
    fn on_disk_and_in_memory_behave_alike() {
        let dir = tempfile::tempdir().unwrap();
        check(&Index::open(dir.path()).unwrap());
        check(&Index::in_memory());
    }

    #[test]
    fn an_index_of_another_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let db = sled::open(dir.path()).unwrap();
        db.insert(VERSION_KEY, b"99").unwrap();
        drop(db);
        assert!(matches!(Index::open(dir.path()), Err(Refusal::Unusable(reason)) if reason.contains("99")));
    }

    #[test]
    fn an_engine_that_fails_or_panics_is_noted_and_can_be_replaced() {
        for failure in [|| Err(sled::Error::ReportableBug("as a test wants".to_owned())), || panic!("as a test wants")] {
            // The engine may let go of a directory a moment late.
            let dir = tempfile::tempdir().unwrap();
            let index = Index::open(dir.path()).unwrap();
            index.put(Table::Tags, b"a\0x", b"1".to_vec());
            assert!(!*index.watch_broken().borrow());
            assert_eq!(index.guard::<()>(Table::Tags, failure), None);
            assert!(*index.watch_broken().borrow() && !index.is_sound());
            index.replace_with_memory();
            assert!(index.is_sound());
            assert_eq!(index.get(Table::Tags, b"a\0x"), None);
            check(&index);
        }
    }
}
