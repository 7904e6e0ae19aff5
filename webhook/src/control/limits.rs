//! What one node may ask for, and all of them together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::time::Instant;

use super::bucket::{Bucket, Buckets, Rate};

/// Calls of a node. A poll that waited costs nothing.
const CALLS: Rate = Rate { burst: 40.0, per_second: 20.0 / 60.0 };

/// Requests for pull secrets of a node: one for each repository of its pods, which may all start at one time.
const CREDENTIALS: Rate = Rate { burst: 150.0, per_second: 2.0 };

/// Those of them that are for one namespace: its pods choose the repositories, and may not use up what other namespaces need.
const CREDENTIALS_OF_NAMESPACE: Rate = Rate { burst: 100.0, per_second: 1.0 };

/// Namespaces of a node whose requests are counted: far more than can have anything missing at one time, for each costs the node a request.
const NAMESPACES_MAX: usize = 1000;

/// A poll that was held for so long did wait.
const HELD: Duration = Duration::from_secs(1);

/// Reports of a node are at least so far apart, whatever it was asked to keep to.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Polls of one node for one thing: one that its agent gave up may be unnoticed for a while.
const POLLS_PER_NODE: usize = 2;

/// Polls of all nodes.
const POLLS_MAX: usize = 20_000;

/// A node that was silent for so long is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// What a poll waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Topic {
    Agents,
    Desired,
}

/// Why a call is turned away, and when it may come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooOften {
    pub(super) retry_after: Duration,
}

impl TooOften {
    fn until(retry_after: Duration) -> Self {
        Self { retry_after }
    }
}

#[derive(Debug)]
pub(super) struct Limits {
    /// Held for an update, never across an await.
    inner: Mutex<Inner>,
    polls: Gauge,
}

#[derive(Debug)]
struct Inner {
    nodes: HashMap<Arc<str>, NodeUse>,
    polls: usize,
    forgotten_at: Instant,
}

#[derive(Debug)]
struct NodeUse {
    calls: Bucket,
    credentials: Bucket,
    namespaces: Buckets,
    seen_at: Instant,
    reported_at: Option<Instant>,
    polls: [usize; 2],
}

impl Limits {
    /// `polls` shows how many there are.
    pub(super) fn new(polls: Gauge) -> Self {
        Self { inner: Mutex::new(Inner { nodes: HashMap::new(), polls: 0, forgotten_at: Instant::now() }), polls }
    }

    /// A call.
    pub(super) fn call(&self, node: &Arc<str>) -> Result<(), TooOften> {
        let mut inner = self.inner();
        let node = inner.node(node);
        node.calls.take(CALLS, node.seen_at).map_err(TooOften::until)
    }

    /// A request for pull secrets, which is no other call.
    pub(super) fn credentials(&self, node: &Arc<str>) -> Result<(), TooOften> {
        let mut inner = self.inner();
        let node = inner.node(node);
        node.credentials.take(CREDENTIALS, node.seen_at).map_err(TooOften::until)
    }

    /// The namespace of a request that [`Limits::credentials`] let pass. One that asks too often takes nothing from its node.
    pub(super) fn credentials_of(&self, node: &Arc<str>, namespace: &str) -> Result<(), TooOften> {
        let mut inner = self.inner();
        let node = inner.node(node);
        node.namespaces.take(namespace, CREDENTIALS_OF_NAMESPACE, NAMESPACES_MAX, node.seen_at).map_err(|retry_after| {
            node.credentials.give_back(CREDENTIALS);
            TooOften::until(retry_after)
        })
    }

    /// A report.
    pub(super) fn report(&self, node: &Arc<str>) -> Result<(), TooOften> {
        let mut inner = self.inner();
        let node = inner.node(node);
        let next = node.reported_at.map(|last| last + REPORT_EVERY);
        if let Some(next) = next.filter(|next| *next > node.seen_at) {
            return Err(TooOften { retry_after: next - node.seen_at });
        }
        node.reported_at = Some(node.seen_at);
        Ok(())
    }

    /// A poll, as long as the guard lives. Its call is given back if it lives long enough.
    pub(super) fn poll(self: &Arc<Self>, node: &Arc<str>, topic: Topic) -> Result<Poll, TooOften> {
        let mut inner = self.inner();
        let full = inner.polls >= POLLS_MAX;
        let polls = &mut inner.node(node).polls[topic as usize];
        if full || *polls >= POLLS_PER_NODE {
            return Err(TooOften { retry_after: HELD });
        }
        *polls += 1;
        inner.polls += 1;
        self.polls.inc();
        Ok(Poll { limits: Arc::clone(self), node: Arc::clone(node), topic, since: Instant::now() })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// What the node has used, seen now.
    fn node(&mut self, node: &Arc<str>) -> &mut NodeUse {
        let now = Instant::now();
        if now > self.forgotten_at + FORGET_AFTER {
            self.forgotten_at = now;
            self.nodes.retain(|_, node| node.polls != [0, 0] || now < node.seen_at + FORGET_AFTER);
        }
        let new = || NodeUse {
            calls: Bucket::full(CALLS, now),
            credentials: Bucket::full(CREDENTIALS, now),
            namespaces: Buckets::default(),
            seen_at: now,
            reported_at: None,
            polls: [0, 0],
        };
        let node = self.nodes.entry(Arc::clone(node)).or_insert_with(new);
        node.seen_at = now;
        node
    }
}

/// A poll that is open.
#[derive(Debug)]
pub(super) struct Poll {
    limits: Arc<Limits>,
    node: Arc<str>,
    topic: Topic,
    since: Instant,
}

impl Drop for Poll {
    fn drop(&mut self) {
        let mut inner = self.limits.inner();
        let node = inner.node(&self.node);
        node.polls[self.topic as usize] -= 1;
        if node.seen_at >= self.since + HELD {
            node.calls.give_back(CALLS);
        }
        inner.polls -= 1;
        self.limits.polls.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk() -> (Arc<Limits>, Arc<str>) {
        (Arc::new(Limits::new(Gauge::default())), Arc::from("node1"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_may_call_often_for_a_while_and_then_at_a_steady_rate() {
        let (limits, node) = mk();
        let taken = (0..1000).filter(|_| limits.call(&node).is_ok()).count();
        assert_eq!(taken, 40);
        let TooOften { retry_after } = limits.call(&node).unwrap_err();
        assert!(retry_after > Duration::from_millis(2900) && retry_after <= Duration::from_secs(3), "{retry_after:?}");
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!((0..1000).filter(|_| limits.call(&node).is_ok()).count(), 20);
        limits.call(&Arc::from("node2")).expect("another node must have its own account");
    }

    #[tokio::test(start_paused = true)]
    async fn requests_for_pull_secrets_have_an_account_of_their_own() {
        let (limits, node) = mk();
        assert_eq!((0..1000).filter(|_| limits.credentials(&node).is_ok()).count(), 150);
        assert!(limits.credentials(&node).unwrap_err().retry_after <= Duration::from_millis(500));
        limits.call(&node).expect("other calls must go on");
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!((0..1000).filter(|_| limits.credentials(&node).is_ok()).count(), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_that_asks_too_often_takes_nothing_from_its_node() {
        let (limits, node) = mk();
        let ask = |namespace: &str| limits.credentials(&node).and_then(|()| limits.credentials_of(&node, namespace));
        assert_eq!((0..1000).filter(|_| ask("greedy").is_ok()).count(), 100);
        let TooOften { retry_after } = ask("greedy").unwrap_err();
        assert_eq!(retry_after, Duration::from_secs(1));
        let others = (0..1000).filter(|nth| ask(&format!("other-{}", nth / 30)).is_ok()).count();
        assert_eq!(others, 50, "what the node has besides is for the others");
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!((0..1000).filter(|_| ask("greedy").is_ok()).count(), 20);
        assert_eq!((0..1000).filter(|_| ask("last").is_ok()).count(), 20);
        limits.credentials_of(&Arc::from("node2"), "greedy").expect("another node must have its own account for it");
    }

    #[tokio::test(start_paused = true)]
    async fn the_namespaces_of_a_node_that_are_counted_have_a_bound() {
        let (limits, node) = mk();
        for nth in 0..5000 {
            limits.credentials(&node).unwrap();
            limits.credentials_of(&node, &format!("made-up-{nth}")).unwrap();
            tokio::time::advance(Duration::from_millis(500)).await;
        }
        assert!(limits.inner().node(&node).namespaces.len() <= NAMESPACES_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_that_waited_costs_nothing_and_one_that_did_not_is_a_call() {
        let (limits, node) = mk();
        for _ in 0..200 {
            limits.call(&node).unwrap();
            let poll = limits.poll(&node, Topic::Desired).unwrap();
            tokio::time::advance(HELD).await;
            drop(poll);
        }
        let quick = (0..1000).filter(|_| limits.call(&node).is_ok() && limits.poll(&node, Topic::Desired).is_ok()).count();
        assert_eq!(quick, 40);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_has_two_polls_for_each_thing() {
        let (limits, node) = mk();
        let open = [limits.poll(&node, Topic::Desired).unwrap(), limits.poll(&node, Topic::Desired).unwrap()];
        limits.poll(&node, Topic::Desired).unwrap_err();
        let agents = limits.poll(&node, Topic::Agents).unwrap();
        assert_eq!(limits.polls.get(), 3);
        drop(open);
        limits.poll(&node, Topic::Desired).unwrap();
        drop(agents);
        assert_eq!(limits.polls.get(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn all_nodes_together_have_a_bound() {
        let (limits, _) = mk();
        let name = |nth: usize| Arc::from(format!("node{}", nth / 2));
        let open: Vec<Poll> = (0..POLLS_MAX).map(|nth| limits.poll(&name(nth), Topic::Desired).unwrap()).collect();
        limits.poll(&Arc::from("late"), Topic::Desired).unwrap_err();
        drop(open);
        limits.poll(&Arc::from("late"), Topic::Desired).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn reports_are_a_second_apart() {
        let (limits, node) = mk();
        limits.report(&node).unwrap();
        tokio::time::advance(Duration::from_millis(600)).await;
        assert_eq!(limits.report(&node).unwrap_err().retry_after, Duration::from_millis(400));
        tokio::time::advance(Duration::from_millis(400)).await;
        limits.report(&node).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn nodes_that_are_gone_are_forgotten() {
        let (limits, node) = mk();
        let waiting = limits.poll(&Arc::from("waiting"), Topic::Agents).unwrap();
        limits.call(&Arc::from("gone")).unwrap();
        tokio::time::advance(FORGET_AFTER + Duration::from_secs(1)).await;
        limits.call(&node).unwrap();
        let mut known: Vec<_> = limits.inner().nodes.keys().map(ToString::to_string).collect();
        known.sort();
        assert_eq!(known, ["node1", "waiting"]);
        drop(waiting);
    }
}
