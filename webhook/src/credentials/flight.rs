//! One look for all who ask for the same, and its result for those who ask soon after.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::TaskTracker;

/// Looks that run, and results that are remembered.
const FLIGHTS_MAX: usize = 10_000;

/// `None` until there is a result.
type Heard<V> = watch::Receiver<Option<V>>;

/// What is being looked for, and what was found a moment ago.
pub(super) struct Flights<K, V> {
    /// Held for a look-up or a change, never across an await.
    under_way: Mutex<HashMap<K, Heard<V>>>,
    /// Each ends by itself: a look is bounded, and so is the time for which its result is remembered.
    tasks: TaskTracker,
}

impl<K, V> Default for Flights<K, V> {
    fn default() -> Self {
        Self { under_way: Mutex::default(), tasks: TaskTracker::new() }
    }
}

impl<K, V> fmt::Debug for Flights<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").field("tasks", &self.tasks.len()).finish_non_exhaustive()
    }
}

impl<K, V> Flights<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Send + Sync + 'static,
{
    /// Joins whoever looks for `key`, or begins. A result is remembered for as long after the beginning as the look says, and is dropped then.
    /// `None` if too much is under way.
    pub(super) fn join<F>(self: &Arc<Self>, key: &K, look: impl FnOnce() -> F) -> Option<Heard<V>>
    where
        F: Future<Output = (V, Duration)> + Send + 'static,
    {
        let mut under_way = self.under_way();
        if let Some(heard) = under_way.get(key) {
            return Some(heard.clone());
        }
        if under_way.len() >= FLIGHTS_MAX {
            return None;
        }
        let (said, heard) = watch::channel(None);
        under_way.insert(key.clone(), heard.clone());
        let (entry, look, began) = (Entry { flights: Arc::clone(self), key: key.clone() }, look(), Instant::now());
        self.tasks.spawn(async move {
            let _entry = entry;
            let (value, remembered_for) = look.await;
            said.send_replace(Some(value));
            sleep_until(began + remembered_for).await;
        });
        Some(heard)
    }
}

impl<K, V> Flights<K, V> {
    fn under_way(&self) -> MutexGuard<'_, HashMap<K, Heard<V>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the entry away when the task is over, whatever ended it.
struct Entry<K: Eq + Hash, V> {
    flights: Arc<Flights<K, V>>,
    key: K,
}

impl<K: Eq + Hash, V> Drop for Entry<K, V> {
    fn drop(&mut self) {
        self.flights.under_way().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn value(heard: Option<Heard<usize>>) -> Option<usize> {
        heard.unwrap().wait_for(Option::is_some).await.ok().and_then(|value| *value)
    }

    #[tokio::test(start_paused = true)]
    async fn one_looks_for_all_and_what_was_found_is_dropped_in_time() {
        let flights: Arc<Flights<&str, usize>> = Arc::default();
        let looks = Arc::new(AtomicUsize::new(0));
        let join = || {
            let looks = Arc::clone(&looks);
            flights.join(&"a", move || async move {
                tokio::time::sleep(SECOND).await;
                (looks.fetch_add(1, Ordering::Relaxed), 10 * SECOND)
            })
        };
        let (first, second) = (join(), join());
        assert_eq!((value(first).await, value(second).await), (Some(0), Some(0)));
        tokio::time::sleep(8 * SECOND).await;
        assert_eq!(value(join()).await, Some(0));
        tokio::time::sleep(2 * SECOND).await;
        assert!(flights.under_way().is_empty(), "nothing is remembered longer than it should be");
        assert_eq!(value(join()).await, Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_goes_on_without_those_who_wait_and_one_that_panics_is_over() {
        let flights: Arc<Flights<&str, usize>> = Arc::default();
        drop(flights.join(&"a", || async {
            tokio::time::sleep(SECOND).await;
            (7, 10 * SECOND)
        }));
        assert_eq!(value(flights.join(&"a", || async { (0, SECOND) })).await, Some(7));
        assert_eq!(value(flights.join(&"b", || async { panic!("by design") })).await, None);
        assert_eq!(value(flights.join(&"b", || async { (1, SECOND) })).await, Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_a_bound() {
        let flights: Arc<Flights<usize, usize>> = Arc::default();
        for key in 0..FLIGHTS_MAX {
            flights.join(&key, || async { (0, SECOND) }).unwrap();
        }
        assert!(flights.join(&FLIGHTS_MAX, || async { (0, SECOND) }).is_none());
        assert!(flights.join(&0, || async { (0, SECOND) }).is_some(), "what is under way can be joined");
        tokio::time::sleep(2 * SECOND).await;
        assert!(flights.join(&FLIGHTS_MAX, || async { (0, SECOND) }).is_some());
    }
}
