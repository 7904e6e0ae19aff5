//! Whether the control API answers: one line in the log when it stops and one when it does again, however many attempts there are.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::client::ControlError;
use crate::metrics::Metrics;
use crate::telemetry;

/// What has been logged last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unknown,
    /// There are no authorities yet, so nobody was asked.
    Waiting,
    Lost,
    Up,
}

/// The connection, as all calls together see it.
#[derive(Debug)]
pub(super) struct Link {
    metrics: Arc<Metrics>,
    /// Held for an insertion and a line of the log, never across an await.
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    state: State,
    /// Calls that failed the last time.
    failing: BTreeSet<&'static str>,
}

impl Link {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, seen: Mutex::new(Seen { state: State::Unknown, failing: BTreeSet::new() }) }
    }

    pub(super) fn succeeded(&self, call: &'static str) {
        self.metrics.control_succeeded();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.failing.remove(call);
        if seen.failing.is_empty() && seen.state != State::Up {
            seen.state = State::Up;
            tracing::info!("connected to the control API");
            self.metrics.control_up.set(1);
        }
    }

    pub(super) fn failed(&self, call: &'static str, error: &ControlError) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.failing.insert(call);
        self.metrics.control_up.set(0);
        let waits = matches!(error, ControlError::NoAuthorities { .. });
        match (seen.state, waits) {
            (State::Unknown, true) => {
                seen.state = State::Waiting;
                tracing::info!(call, reason = %error, "not asking the control API before there are authorities to trust");
            }
            (State::Unknown | State::Waiting | State::Up, false) | (State::Up, true) => {
                seen.state = State::Lost;
                let error = telemetry::chain(error);
                tracing::warn!(call, error, "the control API does not answer: going on with what it said last");
            }
            (State::Waiting | State::Lost, _) => {}
        }
    }
}
