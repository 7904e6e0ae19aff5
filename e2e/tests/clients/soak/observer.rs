//! Looks at the agent's figures all the time.

use std::time::Duration;

use anyhow::{Result, ensure};
use kuik_e2e::metrics::Metrics;

use super::pulls::Course;

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) samples: u64,
    pub(super) used_bytes_most: u64,
    pub(super) evicted_images: u64,
    pub(super) passed_through: u64,
}

/// A counter that begins anew with each start of the agent.
#[derive(Default)]
struct Counter {
    before: u64,
    now: u64,
}

impl Counter {
    fn saw(&mut self, value: u64) {
        if value < self.now {
            self.before += self.now;
        }
        self.now = value;
    }

    fn total(&self) -> u64 {
        self.before + self.now
    }
}

/// Looks until the course is over; fails if more is ever used than allowed.
pub(super) fn observe(course: &Course, metrics_url: &str, allowed_bytes: u64) -> Result<Seen> {
    let mut seen = Seen::default();
    let (mut evicted, mut passed) = (Counter::default(), Counter::default());
    while !course.is_over_within(LOOK_EVERY) {
        // The agent may just have been killed; or have been started, and not know yet what is there.
        let Ok(metrics) = Metrics::get(metrics_url) else { continue };
        let Some(used) = metrics.sum("kuik_agent_cache_used_bytes").map(whole) else { continue };
        ensure!(used <= allowed_bytes, "{used} bytes are used, and {allowed_bytes} with one blob on its way in are allowed");
        seen.samples += 1;
        seen.used_bytes_most = seen.used_bytes_most.max(used);
        evicted.saw(metrics.sum("kuik_agent_evicted_images_total").map_or(0, whole));
        passed.saw(metrics.sum("kuik_agent_pass_through_pulls_total").map_or(0, whole));
    }
    ensure!(seen.samples > 0, "nothing was seen");
    Ok(Seen { evicted_images: evicted.total(), passed_through: passed.total(), ..seen })
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counters are whole, and far below 2^53")]
fn whole(count: f64) -> u64 {
    count as u64
}
