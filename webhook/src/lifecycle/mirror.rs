//! What the API server has of one kind of object, kept up to date and cut down to what is needed.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch_objects};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, warn};

/// A watch that fails is tried again within 30 s or so. When it has not failed for this long, it works.
const WORKS_AFTER: Duration = Duration::from_secs(60);

/// Deletions that wait to be asked for; more are not remembered.
const DELETED_MAX: usize = 10_000;

/// The objects by key.
pub(crate) type Objects<T> = Arc<BTreeMap<Arc<str>, Arc<T>>>;

/// The objects of one kind. Cheap to clone.
#[derive(Debug)]
pub(crate) struct Mirror<T> {
    kind: &'static str,
    inner: Arc<Mutex<Inner<T>>>,
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner<T> {
    objects: Objects<T>,
    /// A listing under way.
    listing: BTreeMap<Arc<str>, Arc<T>>,
    /// Seen to be deleted while watching; what a new listing lacks is not here.
    deleted: Vec<Arc<T>>,
    listed_at: Option<Instant>,
    failed_at: Option<Instant>,
}

/// How much a mirror can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Health {
    /// Everything was listed once.
    pub(crate) synced: bool,
    /// It was, and the watch has not failed lately.
    pub(crate) works: bool,
    /// How long ago it was listed anew, or failed.
    pub(crate) steady_for: Duration,
}

impl<T> Clone for Mirror<T> {
    fn clone(&self) -> Self {
        Self { kind: self.kind, inner: Arc::clone(&self.inner), changed: self.changed.clone() }
    }
}

impl<T: Debug + Send + Sync + 'static> Mirror<T> {
    /// An empty one that counts up `changed` whenever it changes.
    pub(crate) fn new(kind: &'static str, changed: watch::Sender<u64>) -> Self {
        let inner = Inner { objects: Arc::default(), listing: BTreeMap::new(), deleted: Vec::new(), listed_at: None, failed_at: None };
        Self { kind, inner: Arc::new(Mutex::new(inner)), changed }
    }

    /// The objects now.
    pub(crate) fn objects(&self) -> Objects<T> {
        Arc::clone(&self.lock().objects)
    }

    /// What was deleted since this was last asked.
    pub(crate) fn take_deleted(&self) -> Vec<Arc<T>> {
        std::mem::take(&mut self.lock().deleted)
    }

    pub(crate) fn health(&self) -> Health {
        let inner = self.lock();
        let synced = inner.listed_at.is_some();
        let works = synced && inner.failed_at.is_none_or(|at| at.elapsed() >= WORKS_AFTER);
        let steady_for = inner.listed_at.max(inner.failed_at).map_or(Duration::ZERO, |at| at.elapsed());
        Health { synced, works, steady_for }
    }

    /// Watches for ever. `keep` says under which key an object is kept, and what of it; without the latter it is not.
    pub(crate) async fn watch<K>(self, api: Api<K>, config: watcher::Config, keep: impl FnMut(K) -> (String, Option<T>) + Send)
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        self.follow(watch_objects(api, config).default_backoff(), keep).await;
    }

    async fn follow<K>(
        &self,
        events: impl futures_util::Stream<Item = watcher::Result<Event<K>>> + Send,
        mut keep: impl FnMut(K) -> (String, Option<T>) + Send,
    ) {
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => self.apply(event, &mut keep),
                Err(error) => {
                    warn!(kind = self.kind, %error, "the watch failed: trying again");
                    self.lock().failed_at = Some(Instant::now());
                }
            }
        }
    }

    fn apply<K>(&self, event: Event<K>, keep: &mut impl FnMut(K) -> (String, Option<T>)) {
        let mut inner = self.lock();
        match event {
            Event::Init => inner.listing.clear(),
            Event::InitApply(object) => {
                if let (key, Some(kept)) = keep(object) {
                    inner.listing.insert(key.into(), Arc::new(kept));
                }
                return;
            }
            Event::InitDone => {
                inner.objects = Arc::new(std::mem::take(&mut inner.listing));
                inner.listed_at = Some(Instant::now());
                debug!(kind = self.kind, objects = inner.objects.len(), "listed");
            }
            Event::Apply(object) => {
                let (key, kept) = keep(object);
                let objects = Arc::make_mut(&mut inner.objects);
                match kept {
                    Some(kept) => objects.insert(key.into(), Arc::new(kept)),
                    None => objects.remove(key.as_str()),
                };
            }
            Event::Delete(object) => {
                let (key, _) = keep(object);
                let gone = Arc::make_mut(&mut inner.objects).remove(key.as_str());
                if inner.deleted.len() < DELETED_MAX {
                    inner.deleted.extend(gone);
                }
            }
        }
        drop(inner);
        self.changed.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(text: &'static str) -> (String, Option<&'static str>) {
        let (key, value) = text.split_once('=').unwrap();
        (key.to_owned(), Some(value).filter(|value| !value.is_empty()))
    }

    fn after(events: impl IntoIterator<Item = Event<&'static str>>) -> Mirror<&'static str> {
        let mirror = Mirror::new("test", watch::channel(0).0);
        for event in events {
            mirror.apply(event, &mut keep);
        }
        mirror
    }

    fn values(mirror: &Mirror<&'static str>) -> Vec<String> {
        mirror.objects().iter().map(|(key, value)| format!("{key}={value}")).collect()
    }

    #[test]
    fn a_listing_counts_once_it_is_done() {
        let mirror = after([Event::Init, Event::InitApply("a=1")]);
        assert_eq!((values(&mirror), mirror.health().synced), (vec![], false));
        mirror.apply(Event::InitDone, &mut keep);
        assert_eq!((values(&mirror), mirror.health().synced), (vec!["a=1".to_owned()], true));
    }

    #[test]
    fn what_a_new_listing_lacks_is_gone_but_was_not_seen_to_be_deleted() {
        let mirror = after([Event::Init, Event::InitApply("a=1"), Event::InitApply("b=1"), Event::InitDone, Event::Delete("b=1")]);
        for event in [Event::Init, Event::InitApply("c=1"), Event::InitDone] {
            mirror.apply(event, &mut keep);
        }
        assert_eq!(values(&mirror), ["c=1"]);
        assert_eq!(mirror.take_deleted(), [Arc::new("1")]);
        assert!(mirror.take_deleted().is_empty());
    }

    #[test]
    fn what_is_not_to_be_kept_any_more_goes() {
        let mirror = after([Event::Init, Event::InitApply("a=1"), Event::InitDone, Event::Apply("a="), Event::Apply("b=2")]);
        assert_eq!(values(&mirror), ["b=2"]);
        assert!(mirror.take_deleted().is_empty());
    }

    #[test]
    fn a_snapshot_does_not_change() {
        let mirror = after([Event::Init, Event::InitDone, Event::Apply("a=1")]);
        let before = mirror.objects();
        mirror.apply(Event::Delete("a=1"), &mut keep);
        assert_eq!((before.len(), mirror.objects().len()), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_failed_works_again_when_it_has_not_failed_for_a_minute() {
        let mirror = after([Event::Init, Event::InitDone]);
        assert!(mirror.health().works);
        tokio::time::advance(Duration::from_secs(100)).await;
        mirror.lock().failed_at = Some(Instant::now());
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(mirror.health(), Health { synced: true, works: false, steady_for: Duration::from_secs(59) });
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(mirror.health().works);
    }
}
