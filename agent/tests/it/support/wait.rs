//! The only place that waits by polling.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

/// What is waited for has come about by then, on a machine however busy, or never will.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

const POLL_EVERY: Duration = Duration::from_millis(5);

/// Returns when `condition` holds; panics at the deadline.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    until_some(what, async || condition().then_some(())).await;
}

/// Returns what `probe` yields once it yields something; panics at the deadline.
pub(crate) async fn until_some<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {DEADLINE:?} in vain until {what}");
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// The outcome of `future`, which must come before the deadline.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    within(DEADLINE, what, future).await
}

/// The outcome of `future`, which must come within `limit`.
pub(crate) async fn within<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, future).await {
        Ok(outcome) => outcome,
        Err(_) => panic!("waited {limit:?} in vain for {what}"),
    }
}
