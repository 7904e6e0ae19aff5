//! What we take from upstream at most: requests at one time, and none at all while it has asked to be left alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use http::HeaderMap;
use http::header::RETRY_AFTER;
use moka::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::credentials::CredentialId;
use super::endpoints::EndpointId;
use super::error::{Place, UpstreamError};
use crate::oci::{Registry, Repository};

/// How long a request waits for its turn.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(30);
/// Where upstream limits the rate and does not say for how long.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(60);
/// However long upstream says, it is asked again after this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// Numbers above this in a reset header are seconds since 1970, not from now.
const EPOCH_MIN: u64 = 1_000_000_000;
const CIRCUITS_MAX: u64 = 4096;

/// A turn at a registry. It is over when the last clone is dropped.
pub(super) type Turn = Arc<OwnedSemaphorePermit>;

/// Requests at one time, by registry.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// A semaphore lives as long as a request that holds or awaits its permit. Held for lookups only.
    semaphores: Mutex<HashMap<(Registry, Lane), Weak<Semaphore>>>,
}

/// Downloads last, questions do not: each has turns of its own, or a few large blobs would hold up every manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Lane {
    /// Bodies of blobs.
    Downloads,
    /// Everything else.
    Questions,
}

impl Lane {
    /// The lane's share of `max` requests: a quarter is for questions. Where there is only one, each lane gets it.
    fn share(self, max: usize) -> usize {
        let questions = max.div_ceil(4);
        match self {
            Self::Questions => questions.max(1),
            Self::Downloads => max.saturating_sub(questions).max(1),
        }
    }
}

impl Turns {
    /// Waits for a turn at `repository`'s registry, where `max` may be had at one time in both lanes together.
    pub(super) async fn take(&self, repository: &Repository, lane: Lane, max: usize) -> Result<Turn, UpstreamError> {
        let semaphore = self.semaphore(&repository.registry, lane, max);
        match tokio::time::timeout(QUEUE_TIMEOUT, semaphore.acquire_owned()).await {
            Ok(permit) => Ok(Arc::new(permit.expect("the semaphore must stay open: nothing closes it"))),
            Err(_) => Err(UpstreamError::Busy { at: Place::registry_of(repository), waited: QUEUE_TIMEOUT }),
        }
    }

    fn semaphore(&self, registry: &Registry, lane: Lane, max: usize) -> Arc<Semaphore> {
        let mut semaphores = self.semaphores.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(semaphore) = semaphores.get(&(registry.clone(), lane)).and_then(Weak::upgrade) {
            return semaphore;
        }
        semaphores.retain(|_, semaphore| semaphore.strong_count() > 0);
        let semaphore = Arc::new(Semaphore::new(lane.share(max)));
        semaphores.insert((registry.clone(), lane), Arc::downgrade(&semaphore));
        semaphore
    }
}

/// What is limited: an endpoint, by a credential; lists apart from everything else.
pub(super) type Circuit = (EndpointId, CredentialId, bool);

/// Which endpoint asked to be left alone by which credential, and until when.
#[derive(Debug)]
pub(super) struct Circuits {
    open_until: Cache<Circuit, Instant>,
}

impl Circuits {
    pub(super) fn new() -> Self {
        Self { open_until: Cache::new(CIRCUITS_MAX) }
    }

    pub(super) fn open(&self, circuit: Circuit, retry_after: Duration) {
        self.open_until.insert(circuit, Instant::now() + retry_after);
    }

    /// How long it is still open; `None` if it may be asked.
    pub(super) fn remaining(&self, circuit: &Circuit) -> Option<Duration> {
        let until = self.open_until.get(circuit)?;
        until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }
}

/// When a 429 answer with these headers lets us come back.
pub(super) fn retry_after(headers: &HeaderMap) -> Duration {
    retry_after_at(headers, jiff::Timestamp::now())
}

fn retry_after_at(headers: &HeaderMap, now: jiff::Timestamp) -> Duration {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let said = text(RETRY_AFTER.as_str()).and_then(|value| seconds(value, now).or_else(|| until_date(value, now)));
    // The draft's `ratelimit-reset` may carry parameters after a semicolon or a comma.
    let reset = || {
        let value = text("ratelimit-reset").or_else(|| text("x-ratelimit-reset"))?;
        seconds(value.split([';', ',']).next()?.trim(), now)
    };
    said.or_else(reset).unwrap_or(RETRY_AFTER_DEFAULT).clamp(Duration::from_secs(1), RETRY_AFTER_MAX)
}

fn seconds(value: &str, now: jiff::Timestamp) -> Option<Duration> {
    let seconds: u64 = value.split('.').next()?.parse().ok()?;
    let now = u64::try_from(now.as_second()).unwrap_or_default();
    Some(Duration::from_secs(if seconds >= EPOCH_MIN { seconds.saturating_sub(now) } else { seconds }))
}

fn until_date(value: &str, now: jiff::Timestamp) -> Option<Duration> {
    let date = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    Some(Duration::try_from(date.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_to_come_back() {
        let now: jiff::Timestamp = "2025-11-23T04:00:00Z".parse().unwrap();
        let check = |headers: &[(&'static str, &str)], want: u64| {
            let headers = headers.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap())).collect();
            assert_eq!(retry_after_at(&headers, now).as_secs(), want, "{headers:?}");
        };
        check(&[("retry-after", "7")], 7);
        check(&[("retry-after", "7.5")], 7);
        check(&[("retry-after", "0")], 1);
        check(&[("retry-after", "Sun, 23 Nov 2025 04:01:30 GMT")], 90);
        check(&[("retry-after", "Sun, 23 Nov 2025 03:00:00 GMT")], 1);
        check(&[("retry-after", "soon")], 60);
        check(&[], 60);
        check(&[("retry-after", "99999")], 3600);
        check(&[("retry-after", "18446744073709551616")], 60);
        check(&[("ratelimit-reset", "30;w=21600")], 30);
        check(&[("x-ratelimit-reset", "12")], 12);
        check(&[("x-ratelimit-reset", "1763870445")], 45);
        check(&[("retry-after", "soon"), ("ratelimit-reset", "5")], 5);
        check(&[("retry-after", "3"), ("ratelimit-reset", "5")], 3);
    }
}
