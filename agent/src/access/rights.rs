//! What is proven: which repositories are open to everybody, and which namespaces have shown their right to which others.
//!
//! It is in memory, looked at by every request, and in a note of the data directory, so that an agent that starts while a registry is away
//! still knows it. Names and times, no secret.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::oci::Repository;
use crate::store::{Store, now_seconds};
use crate::telemetry;

/// The name of the note.
const NOTE: &str = "rights";
const VERSION: u32 = 1;

/// Repositories that are remembered; of more, those asked for longest ago go. Theirs is asked for anew.
const REPOSITORIES_MAX: usize = 20_000;

/// Namespaces that are remembered of a repository, in the same way.
const NAMESPACES_MAX: usize = 1_000;

/// What changes within this time is written at once.
const WRITE_EVERY: Duration = Duration::from_millis(500);

/// What is known of a repository. Times are seconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Known {
    #[serde(skip_serializing_if = "Openness::is_unknown")]
    openness: Openness,
    /// When each namespace last proved its right.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    namespaces: BTreeMap<String, u64>,
}

impl Known {
    fn latest(&self) -> u64 {
        self.namespaces.values().copied().max().unwrap_or(0).max(self.openness.at())
    }
}

/// Whether upstream gives a repository to everybody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "is")]
pub(super) enum Openness {
    /// Nobody has asked.
    #[default]
    Unknown,
    /// It did, at this time.
    Open { at: u64 },
    /// It did, and from this time on did not any more; last asked at the other.
    Closed { since: u64, at: u64 },
    /// It did not, at this time, and never did as far as is known.
    Private { at: u64 },
}

impl Openness {
    fn is_unknown(&self) -> bool {
        *self == Self::Unknown
    }

    fn at(self) -> u64 {
        match self {
            Self::Unknown => 0,
            Self::Open { at } | Self::Closed { at, .. } | Self::Private { at } => at,
        }
    }

    /// What is known after upstream said, to somebody who showed nothing, that it is open, or that it is not.
    pub(super) fn after(self, is_open: bool, now: u64) -> Self {
        match self {
            _ if is_open => Self::Open { at: now },
            Self::Open { .. } => Self::Closed { since: now, at: now },
            Self::Closed { since, .. } => Self::Closed { since, at: now },
            Self::Unknown | Self::Private { .. } => Self::Private { at: now },
        }
    }
}

/// Whether it was less than so many seconds ago. What is in the future was not: the clock was set back.
pub(super) fn is_within(at: u64, seconds: u64) -> bool {
    let now = now_seconds();
    at <= now && now - at < seconds
}

#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    repositories: Vec<(String, Known)>,
}

/// Everything that is proven.
#[derive(Debug)]
pub(super) struct Rights {
    /// Held for a look or an insertion, never across an await.
    known: RwLock<HashMap<Repository, Known>>,
    /// Counts changes.
    changes: watch::Sender<u64>,
    /// The count at the last writing.
    written: AtomicU64,
}

impl Rights {
    /// What was proven before the last stop.
    pub(super) async fn recall(store: &Store) -> Self {
        let known = match store.read_note(NOTE).await {
            Ok(Some(bytes)) => read(&bytes).unwrap_or_else(|reason| {
                tracing::warn!(reason, "what was proven before cannot be read: it is asked for anew");
                HashMap::new()
            }),
            Ok(None) => HashMap::new(),
            Err(error) => {
                tracing::warn!(error = %telemetry::chain(&error), "what was proven before cannot be read: it is asked for anew");
                HashMap::new()
            }
        };
        Self { known: RwLock::new(known), changes: watch::Sender::new(0), written: AtomicU64::new(0) }
    }

    pub(super) fn openness(&self, repository: &Repository) -> Openness {
        self.read().get(repository).map_or(Openness::Unknown, |known| known.openness)
    }

    /// When a namespace last proved its right.
    pub(super) fn proven_at(&self, repository: &Repository, namespace: &str) -> Option<u64> {
        self.read().get(repository)?.namespaces.get(namespace).copied()
    }

    /// Whether any namespace ever did.
    pub(super) fn has_proofs(&self, repository: &Repository) -> bool {
        self.read().get(repository).is_some_and(|known| !known.namespaces.is_empty())
    }

    /// Namespaces whose proof is not older than `ttl`, in order.
    pub(super) fn namespaces(&self, repository: &Repository, now: u64, ttl: u64) -> Vec<String> {
        let known = self.read();
        let namespaces = known.get(repository).into_iter().flat_map(|known| &known.namespaces);
        namespaces.filter(|(_, at)| at.saturating_add(ttl) > now).map(|(namespace, _)| namespace.clone()).collect()
    }

    /// Namespaces with a proof, the latest first.
    pub(super) fn latest(&self, repository: &Repository) -> Vec<Arc<str>> {
        let known = self.read();
        let mut namespaces: Vec<_> = known.get(repository).into_iter().flat_map(|known| &known.namespaces).collect();
        namespaces.sort_by_key(|(_, at)| std::cmp::Reverse(**at));
        namespaces.into_iter().map(|(namespace, _)| namespace.as_str().into()).collect()
    }

    pub(super) fn set_openness(&self, repository: &Repository, openness: Openness) {
        self.change(repository, |known| known.openness = openness);
    }

    pub(super) fn prove(&self, repository: &Repository, namespace: &str, now: u64) {
        self.change(repository, |known| {
            known.namespaces.insert(namespace.to_owned(), now);
            if known.namespaces.len() > NAMESPACES_MAX
                && let Some(oldest) = known.namespaces.iter().min_by_key(|(_, at)| **at).map(|(namespace, _)| namespace.clone())
            {
                known.namespaces.remove(&oldest);
            }
        });
    }

    pub(super) fn disprove(&self, repository: &Repository, namespace: &str) {
        self.change(repository, |known| {
            known.namespaces.remove(namespace);
        });
    }

    /// Counts changes.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn change(&self, repository: &Repository, change: impl FnOnce(&mut Known)) {
        let mut all = self.write();
        let known = all.entry(repository.clone()).or_default();
        let before = known.clone();
        change(known);
        let changed = *known != before;
        if *known == Known::default() {
            all.remove(repository);
        }
        if all.len() > REPOSITORIES_MAX {
            shrink(&mut all);
        }
        drop(all);
        if changed {
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// Writes what changes, as long as it runs.
    pub(super) async fn keep(&self, store: &Store) {
        let mut changes = self.watch();
        // The sender lives as long as we do.
        while changes.changed().await.is_ok() {
            self.flush(store).await;
            tokio::time::sleep(WRITE_EVERY).await;
        }
    }

    /// Writes what was not written yet.
    pub(super) async fn flush(&self, store: &Store) {
        let count = *self.changes.borrow();
        if self.written.swap(count, Ordering::SeqCst) == count {
            return;
        }
        let repositories = self.read().iter().map(|(repository, known)| (repository.to_path(), known.clone())).collect();
        let bytes = serde_json::to_vec(&Written { version: VERSION, repositories });
        let bytes = bytes.expect("what is proven must serialise: it holds only numbers and strings");
        if let Err(error) = store.write_note(NOTE, bytes).await {
            tracing::warn!(error = %telemetry::chain(&error), "what is proven cannot be kept: a restart forgets it");
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<Repository, Known>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<Repository, Known>> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets a tenth of them, so that it need not be done at each one that comes: first those that were only ever asked for in vain, which
/// takes no right, then those that were open; and of each kind the oldest.
fn shrink(all: &mut HashMap<Repository, Known>) {
    let worth = |known: &Known| (!known.namespaces.is_empty(), !matches!(known.openness, Openness::Private { .. }), known.latest());
    let mut least: Vec<_> = all.iter().map(|(repository, known)| (worth(known), repository.clone())).collect();
    least.sort_unstable();
    for (_, repository) in least.iter().take(all.len() / 10) {
        all.remove(repository);
    }
}

fn read(bytes: &[u8]) -> Result<HashMap<Repository, Known>, String> {
    let Written { version, repositories } = serde_json::from_slice(bytes).map_err(|error| format!("damaged: {error}"))?;
    if version != VERSION {
        return Err(format!("format version {version}, not {VERSION}"));
    }
    // A name that is none any more has nothing to say.
    Ok(repositories.into_iter().filter_map(|(name, known)| Some((Repository::from_path(&name).ok()?, known))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_in_vain_goes_before_what_was_proven() {
        let name = |nth: usize| Repository::from_path(&format!("registry.test/app{nth}")).unwrap();
        let proven = Known { namespaces: BTreeMap::from([("team".to_owned(), 1)]), ..Known::default() };
        let open = Known { openness: Openness::Open { at: 2 }, ..Known::default() };
        let in_vain = |at: usize| Known { openness: Openness::Private { at: at as u64 }, ..Known::default() };
        let mut all: HashMap<_, _> = (0..8).map(|nth| (name(nth), in_vain(100 + nth))).collect();
        all.insert(name(8), proven);
        all.insert(name(9), open);
        // One that asks for made-up names, as often as it likes.
        for nth in 10..100 {
            shrink(&mut all);
            all.insert(name(nth), in_vain(100 + nth));
            assert_eq!(all.len(), 10, "just a tenth goes");
        }
        assert!(all.contains_key(&name(8)) && all.contains_key(&name(9)));
        assert!(all.contains_key(&name(99)) && !all.contains_key(&name(0)), "the oldest go first");
    }
}
