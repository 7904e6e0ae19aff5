//! Hashing anew what is stored, a little all the time: rot is found before somebody needs the blob, while upstream may still have it.
//!
//! A round goes through all blobs in the order of their digests. Where it is, is kept, so that restarts do not begin anew.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Disk;
use crate::config::ScrubConfig;
use crate::oci::Digest;
use crate::store::{Checked, Pause, now_seconds};
use crate::telemetry;

/// The name of the note that says how far a round is.
const NOTE: &str = "scrub";

/// Blobs that are looked up at one time.
const PAGE: usize = 256;

/// A round is not slower than this, or the first blobs of a small cache would take days, in bytes a second.
const RATE_MIN: u64 = 1 << 20;

/// How far a round is, is written down at most so often.
const NOTE_EVERY: Duration = Duration::from_secs(60);

/// Whether there is something to do is looked at so often, or when the next round is due.
const IDLE: Duration = Duration::from_secs(60);

/// Where a round is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Round {
    /// When it began, in seconds since 1970.
    began: u64,
    /// The last blob that was hashed; nothing at the beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<String>,
    /// Nothing is left to do before the next round.
    done: bool,
}

impl Round {
    /// The round that is to go on at `now`, if one is.
    fn next(self, interval: Duration, now: u64) -> Option<Self> {
        // Of a clock that was set back nothing can be told: a new round costs little.
        let is_due = now >= self.began.saturating_add(interval.as_secs()) || now < self.began;
        match (self.done, is_due) {
            (true, true) => Some(Self { began: now, after: None, done: false }),
            (true, false) => None,
            (false, _) => Some(self),
        }
    }
}

/// Hashes for as long as it is not dropped.
pub(super) async fn run(disk: &Disk) {
    let store = &disk.inner.store;
    while store.settled().await {}
    let mut round = match store.read_note(NOTE).await {
        Ok(Some(bytes)) => serde_json::from_slice(&bytes).unwrap_or_default(),
        _ => Round { began: now_seconds(), ..Round::default() },
    };
    let mut config = disk.inner.config.subscribe();
    loop {
        let ScrubConfig { interval, .. } = disk.config().scrub;
        let next = if interval.is_zero() { None } else { round.clone().next(interval, now_seconds()) };
        let Some(next) = next else {
            // Ends early when the settings change.
            let due = round.began.saturating_add(interval.as_secs()).saturating_sub(now_seconds());
            let wait = if interval.is_zero() { IDLE } else { IDLE.min(Duration::from_secs(due.max(1))) };
            let _ = tokio::time::timeout(wait, config.changed()).await;
            continue;
        };
        round = next;
        go_on(disk, &mut round).await;
    }
}

/// Hashes until the round is done or scrubbing is turned off.
async fn go_on(disk: &Disk, round: &mut Round) {
    let store = &disk.inner.store;
    let mut noted = Instant::now();
    let mut pace = Pace { disk: disk.clone(), free_at: Instant::now() };
    loop {
        let after: Option<Digest> = round.after.as_ref().and_then(|text| text.parse().ok());
        let page = store.committed_after(after.as_ref(), PAGE);
        for digest in &page {
            if disk.config().scrub.interval.is_zero() {
                return;
            }
            check(disk, digest, &mut pace).await;
            round.after = Some(digest.to_string());
            if noted.elapsed() >= NOTE_EVERY {
                note(disk, round).await;
                noted = Instant::now();
            }
        }
        if page.len() < PAGE && store.settled().await {
            // The index was made anew meanwhile, and has not had everything.
            continue;
        }
        if page.len() < PAGE {
            let took = now_seconds().saturating_sub(round.began);
            tracing::info!(took_s = took, "every stored blob was hashed anew");
            disk.inner.metrics.scrub_round();
            *round = Round { began: round.began, after: None, done: true };
            note(disk, round).await;
            return;
        }
    }
}

/// Hashes one blob. If its bytes are wrong, it is fetched again.
async fn check(disk: &Disk, digest: &Digest, pace: &mut Pace) {
    let store = &disk.inner.store;
    let used = store.blob_record(digest).map(|record| record.used);
    match store.verify_with(digest, pace).await {
        Ok(Checked::Good { .. } | Checked::Missing) => {}
        Ok(Checked::Bad { .. }) => match disk.inner.cache.refetch(digest, used).await {
            Ok(true) => tracing::info!(%digest, "a blob with wrong bytes was fetched again"),
            Ok(false) => tracing::info!(%digest, "a blob with wrong bytes is not fetched again: no repository here references it"),
            Err(error) => tracing::warn!(%digest, %error, "a blob with wrong bytes cannot be fetched again now: the next request tries"),
        },
        Err(error) => tracing::warn!(%digest, error = %telemetry::chain(&error), "a blob cannot be hashed anew"),
    }
}

async fn note(disk: &Disk, round: &Round) {
    let bytes = serde_json::to_vec(round).expect("a round must serialise: it holds only numbers and strings");
    if let Err(error) = disk.inner.store.write_note(NOTE, bytes).await {
        tracing::debug!(error = %telemetry::chain(&error), "how far hashing is cannot be kept: a restart goes back a little");
    }
}

/// Bytes in a second: as many as it takes to be through in the interval, with a fifth to spare, and no more than allowed.
fn rate(config: ScrubConfig, total: u64) -> u64 {
    let even = total / config.interval.as_secs().max(1);
    even.saturating_add(even / 5).max(RATE_MIN).min(config.rate)
}

/// When more may be read.
struct Pace {
    disk: Disk,
    free_at: Instant,
}

impl Pause for Pace {
    async fn after(&mut self, bytes: u64) {
        self.disk.inner.metrics.scrubbed(bytes);
        let rate = rate(self.disk.config().scrub, self.disk.inner.store.usage().blob_bytes);
        self.free_at = self.free_at.max(Instant::now()) + costs(bytes, rate);
        tokio::time::sleep_until(self.free_at).await;
    }
}

/// How long reading so much may take.
fn costs(bytes: u64, rate: u64) -> Duration {
    Duration::from_micros(bytes.saturating_mul(1_000_000) / rate.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

    #[test]
    fn a_round_begins_an_interval_after_the_one_before_and_goes_on_where_it_was() {
        let done = Round { began: 1000, after: None, done: true };
        assert_eq!(done.clone().next(WEEK, 1000 + WEEK.as_secs() - 1), None);
        let begun = Round { began: 1000 + WEEK.as_secs(), after: None, done: false };
        assert_eq!(done.clone().next(WEEK, 1000 + WEEK.as_secs()), Some(begun));
        assert_eq!(done.next(WEEK, 999).map(|round| round.began), Some(999), "the clock was set back");
        let going = Round { began: 1000, after: Some("x".to_owned()), done: false };
        assert_eq!(going.clone().next(WEEK, 5000), Some(going));
    }

    #[test]
    fn the_rate_is_what_a_round_takes_within_bounds() {
        let config = |rate| ScrubConfig { interval: WEEK, rate };
        let total = WEEK.as_secs() * (10 << 20);
        assert_eq!(rate(config(20 << 20), total), 12 << 20);
        assert_eq!(rate(config(5 << 20), total), 5 << 20);
        assert_eq!(rate(config(20 << 20), 1000), RATE_MIN);
        assert_eq!(rate(config(1000), 1000), 1000);
    }

    #[test]
    fn bytes_take_their_time() {
        assert_eq!(costs(1 << 20, 1 << 20).as_millis(), 1000);
        assert_eq!(costs(1 << 19, 1 << 20).as_millis(), 500);
        assert_eq!(costs(1, 0).as_micros(), 1_000_000);
    }
}
