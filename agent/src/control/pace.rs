//! How often things are done.

use std::time::Duration;

use kuik_crd::control::REPORT_INTERVAL_SECONDS;

use super::backoff::Backoff;

/// How often things are done.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Two polls of the same subject begin at least so far apart.
    pub poll_min: Duration,
    /// Authorities that are missing or not trusted are looked for so often.
    pub trust_every: Duration,
    /// After failed calls.
    pub reconnect: Backoff,
    /// Two reports are at least so far apart,
    pub report_interval: Duration,
    /// and up to so much further, not to come all at once.
    pub report_jitter: Duration,
    /// A report waits until nothing has changed for so long,
    pub settle: Duration,
    /// but not longer than this.
    pub settle_max: Duration,
    /// A report is due after this, changed or not.
    pub heartbeat: Duration,
    /// A full report is due after this.
    pub full_every: Duration,
    /// After failed pulls, for each image.
    pub retry: Backoff,
    /// What is to be kept is compared with what is here when either changes, but not more often than this,
    pub look_min: Duration,
    /// and not less often than this.
    pub look_max: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            poll_min: Duration::from_secs(1),
            trust_every: Duration::from_secs(1),
            reconnect: Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(30) },
            report_interval: Duration::from_secs(REPORT_INTERVAL_SECONDS),
            report_jitter: Duration::from_secs(2),
            settle: Duration::from_millis(300),
            settle_max: Duration::from_secs(1),
            heartbeat: Duration::from_secs(60),
            full_every: Duration::from_secs(600),
            retry: Backoff { first: Duration::from_secs(30), longest: Duration::from_secs(1800) },
            look_min: Duration::from_secs(5),
            look_max: Duration::from_secs(60),
        }
    }
}
