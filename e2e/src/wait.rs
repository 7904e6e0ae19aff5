//! The one place that waits: for a condition, until a deadline.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

const STEP: Duration = Duration::from_millis(20);

/// Asks `poll` until it answers with a value, and fails after `limit` with `what` and the last
/// error that `poll` returned. Errors count as "not yet".
pub fn until<T>(what: &str, limit: Duration, poll: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    until_every(STEP, what, limit, poll)
}

/// As [`until`], for questions that are too dear to be asked every 20 ms.
pub fn until_every<T>(step: Duration, what: &str, limit: Duration, mut poll: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        let last = poll();
        if let Ok(Some(value)) = last {
            return Ok(value);
        }
        if start.elapsed() >= limit {
            let limit_ms = limit.as_millis();
            last.with_context(|| format!("waited {limit_ms} ms for {what}"))?;
            bail!("waited {limit_ms} ms for {what}");
        }
        thread::sleep(step);
    }
}
