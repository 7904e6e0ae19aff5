//! Single flight: work that many ask for at once is done once, by a task that none of them owns.

use std::collections::HashMap;
use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::error::CacheError;

/// What runs at one time; whoever would start more is turned away.
const RUNNING_MAX: usize = 4096;

/// Work in progress by key. A caller that goes away cancels nothing.
#[derive(Debug)]
pub(super) struct Flights<K, V> {
    /// Held to look a key up or to enter one, never across an await.
    running: Mutex<HashMap<K, watch::Receiver<Option<V>>>>,
    tasks: TaskTracker,
}

/// Where the work puts its result.
#[derive(Debug)]
pub(super) struct Landing<K: Eq + Hash, V> {
    // Before the sender: whoever learns that the work is over must not find it still running.
    leave: Leave<K, V>,
    result: watch::Sender<Option<V>>,
}

impl<K: Eq + Hash, V> Landing<K, V> {
    /// The result is there, and the work goes on (to store what it found); until it ends, whoever asks gets that result.
    pub(super) fn publish(&self, value: V) {
        self.result.send_replace(Some(value));
    }

    /// The result is for those who have asked so far: whoever asks after they have it starts anew.
    pub(super) fn finish(self, value: V) {
        let Self { leave, result } = self;
        drop(leave);
        result.send_replace(Some(value));
    }
}

impl<K, V> Flights<K, V>
where
    K: Clone + Eq + Hash + Debug + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub(super) fn new(tasks: TaskTracker) -> Arc<Self> {
        Arc::new(Self { running: Mutex::default(), tasks })
    }

    /// The result of the work that runs under `key`, started with `lead` if none does.
    ///
    /// # Errors
    /// When it ended without a result, or too much runs already.
    ///
    /// # Cancel safety
    /// Dropping the returned future leaves the work running.
    pub(super) async fn join<F>(self: &Arc<Self>, key: K, lead: impl FnOnce(Landing<K, V>) -> F) -> Result<V, CacheError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut result = self.enter(key, lead)?;
        let value = result.wait_for(Option::is_some).await.ok().and_then(|value| value.clone());
        value.ok_or(CacheError::Lost)
    }

    /// The result of the work that runs under `key`, if any does.
    pub(super) async fn running(&self, key: &K) -> Option<V> {
        let mut result = self.lock().get(key).cloned()?;
        let value = result.wait_for(Option::is_some).await.ok()?;
        value.clone()
    }

    fn enter<F>(self: &Arc<Self>, key: K, lead: impl FnOnce(Landing<K, V>) -> F) -> Result<watch::Receiver<Option<V>>, CacheError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut running = self.lock();
        if let Some(result) = running.get(&key) {
            return Ok(result.clone());
        }
        if running.len() >= RUNNING_MAX {
            return Err(CacheError::Full { max: RUNNING_MAX });
        }
        let (sender, receiver) = watch::channel(None);
        running.insert(key.clone(), receiver.clone());
        drop(running);
        let leave = Leave { flights: Arc::clone(self), key };
        self.tasks.spawn(lead(Landing { leave, result: sender }));
        Ok(receiver)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, watch::Receiver<Option<V>>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the key out when the work ends, be it by a panic.
#[derive(Debug)]
struct Leave<K: Eq + Hash, V> {
    flights: Arc<Flights<K, V>>,
    key: K,
}

impl<K: Eq + Hash, V> Drop for Leave<K, V> {
    fn drop(&mut self) {
        self.flights.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::sync::Notify;

    #[tokio::test]
    async fn many_askers_are_served_by_one_run_that_survives_the_first_of_them() {
        let flights: Arc<Flights<u32, u32>> = Flights::new(TaskTracker::new());
        let runs = Arc::new(AtomicU32::new(0));
        let gate = Arc::new(Notify::new());
        let ask = || {
            let (runs, gate) = (Arc::clone(&runs), Arc::clone(&gate));
            let flights = Arc::clone(&flights);
            async move {
                flights
                    .join(1, |landing| async move {
                        runs.fetch_add(1, Ordering::SeqCst);
                        gate.notified().await;
                        landing.publish(7);
                    })
                    .await
            }
        };
        let first = tokio::spawn(ask());
        tokio::task::yield_now().await;
        let others: Vec<_> = (0..20).map(|_| tokio::spawn(ask())).collect();
        tokio::task::yield_now().await;
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        gate.notify_one();
        for other in others {
            assert_eq!(other.await.unwrap().ok(), Some(7));
        }
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn whoever_asks_after_the_end_starts_anew_though_the_task_lingers() {
        let flights: Arc<Flights<u32, u32>> = Flights::new(TaskTracker::new());
        let gate = Arc::new(Notify::new());
        for run in [1, 2] {
            let gate = Arc::clone(&gate);
            let lead = |landing: Landing<u32, u32>| async move {
                landing.finish(run);
                gate.notified().await;
            };
            assert_eq!(flights.join(1, lead).await.ok(), Some(run));
        }
    }

    #[tokio::test]
    async fn work_that_panics_gives_no_result_and_blocks_nobody() {
        let flights: Arc<Flights<u32, u32>> = Flights::new(TaskTracker::new());
        assert_eq!(flights.join(1, |_| async { panic!("as a test wants") }).await.ok(), None);
        flights.tasks.close();
        flights.tasks.wait().await;
        assert_eq!(flights.join(1, |landing| async move { landing.publish(2) }).await.ok(), Some(2));
    }

    #[tokio::test]
    async fn what_would_be_too_much_is_turned_away_and_what_runs_is_still_joined() {
        let flights: Arc<Flights<usize, u32>> = Flights::new(TaskTracker::new());
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let lead = |landing: Landing<usize, u32>| {
            let gate = Arc::clone(&gate);
            async move {
                drop(gate.acquire().await);
                landing.finish(7);
            }
        };
        let mut first = flights.enter(0, lead).unwrap();
        let others: Vec<_> = (1..RUNNING_MAX).map(|key| flights.enter(key, lead).unwrap()).collect();
        assert!(matches!(flights.enter(RUNNING_MAX, lead), Err(CacheError::Full { .. })));
        flights.enter(1, lead).expect("what runs must be joined");
        gate.close();
        assert_eq!(*first.wait_for(Option::is_some).await.unwrap(), Some(7));
        drop(others);
        flights.tasks.close();
        flights.tasks.wait().await;
        assert_eq!(flights.join(RUNNING_MAX, lead).await.ok(), Some(7));
    }
}
