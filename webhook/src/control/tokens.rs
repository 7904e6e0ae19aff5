//! Whose a token is, as the API server last said. Tokens are kept as hashes only.
//!
//! | what the API server said | is believed for |
//! |---|---|
//! | the token is that of the agent on a node | 60 s; while the API server does not answer, 10 min |
//! | it is not | 5 s |
//! | nothing: it could not be asked | 2 s, so that an outage is not made worse |
//!
//! The 10 minutes mean that a token which was revoked during an outage of the API server is taken for so long.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use moka::future::Cache;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::Metrics;
use super::metrics::ResultLabels;
use super::refusal::Refusal;
use super::review::{Denied, Reviewer, Verdict};
use crate::telemetry;

const GRANTED_FOR: Duration = Duration::from_secs(60);
const GRANTED_IN_OUTAGE_FOR: Duration = Duration::from_secs(600);
const DENIED_FOR: Duration = Duration::from_secs(5);
const UNKNOWN_FOR: Duration = Duration::from_secs(2);

/// Tokens that are remembered. Those not asked for in the longest time go first.
const TOKENS_MAX: u64 = 20_000;

/// Questions to the API server at one time.
const REVIEWS_AT_ONCE: usize = 16;

/// An answer must be here after this, the wait for a turn included.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);

/// Longer than any service account token.
const TOKEN_BYTES_MAX: usize = 16 << 10;

/// What is known about one token.
#[derive(Debug, Clone)]
struct Known {
    /// `None`: the API server could not be asked.
    verdict: Option<Verdict>,
    since: Instant,
    /// The node, and when the API server last vouched for it.
    vouched: Option<(Arc<str>, Instant)>,
}

impl Known {
    fn is_over(&self) -> bool {
        let for_so_long = match self.verdict {
            Some(Verdict::Node(_)) => GRANTED_FOR,
            Some(Verdict::Denied(_)) => DENIED_FOR,
            None => UNKNOWN_FOR,
        };
        Instant::now() >= self.since + for_so_long
    }
}

/// The tokens.
#[derive(Debug)]
pub(super) struct Tokens {
    reviewer: Reviewer,
    known: Cache<[u8; 32], Known>,
    turns: Semaphore,
    metrics: Metrics,
}

impl Tokens {
    pub(super) fn new(reviewer: Reviewer, metrics: Metrics) -> Self {
        let known = Cache::builder().max_capacity(TOKENS_MAX).time_to_idle(2 * GRANTED_IN_OUTAGE_FOR).build();
        Self { reviewer, known, turns: Semaphore::new(REVIEWS_AT_ONCE), metrics }
    }

    /// The node whose agent's token this is. Of those who ask for the same token at the same time one asks the API server.
    pub(super) async fn node(&self, token: &str) -> Result<Arc<str>, Refusal> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refusal::unauthorized("the token is too long to be one"));
        }
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let ask = async {
            let vouched = self.known.get(&key).await.and_then(|known| known.vouched);
            self.ask(token, vouched).await
        };
        let Known { verdict, vouched, .. } = self.known.entry(key).or_insert_with_if(ask, Known::is_over).await.into_value();
        match verdict {
            Some(Verdict::Node(node)) => Ok(node),
            Some(Verdict::Denied(denied)) => Err(refuse(&denied)),
            None => match vouched.filter(|(_, at)| Instant::now() < *at + GRANTED_IN_OUTAGE_FOR) {
                Some((node, _)) => Ok(node),
                None => Err(Refusal::later("the API server cannot be asked whose the token is: ask again")),
            },
        }
    }

    /// Asks the API server. `vouched` is what it said before.
    async fn ask(&self, token: &str, vouched: Option<(Arc<str>, Instant)>) -> Known {
        let answer = timeout(REVIEW_TIMEOUT, async {
            let _turn = self.turns.acquire().await.expect("the semaphore must never be closed");
            self.reviewer.review(token).await
        });
        let (verdict, result) = match answer.await {
            Ok(Ok(verdict)) => {
                let result = if matches!(verdict, Verdict::Node(_)) { "granted" } else { "denied" };
                (Some(verdict), result)
            }
            Ok(Err(error)) => {
                tracing::debug!(error = telemetry::chain(&error), "no token review");
                (None, "failed")
            }
            Err(_) => {
                tracing::debug!(timeout_s = REVIEW_TIMEOUT.as_secs(), "no token review in time");
                (None, "failed")
            }
        };
        self.metrics.token_reviews.get_or_create(&ResultLabels { result }).inc();
        let since = Instant::now();
        let vouched = match &verdict {
            Some(Verdict::Node(node)) => Some((Arc::clone(node), since)),
            Some(Verdict::Denied(_)) => None,
            None => vouched,
        };
        Known { verdict, since, vouched }
    }
}

fn refuse(denied: &Denied) -> Refusal {
    match denied {
        Denied::Invalid { .. } => Refusal::unauthorized(denied.to_string()),
        Denied::Stranger { .. } | Denied::Unbound | Denied::Gone { .. } => Refusal::new(StatusCode::FORBIDDEN, denied.to_string()),
    }
}
