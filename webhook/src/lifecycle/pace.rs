//! A token bucket: so many at once, and so many in a second.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Holds callers to a rate.
#[derive(Debug)]
pub(crate) struct Pace {
    /// The time that one takes.
    each: Duration,
    burst: u32,
    /// When all tokens would be back. Held for a computation, never across an await.
    full_at: Mutex<Instant>,
}

impl Pace {
    pub(crate) fn new(per_second: u32, burst: u32) -> Self {
        Self { each: Duration::from_secs(1) / per_second, burst, full_at: Mutex::new(Instant::now()) }
    }

    /// Waits for a turn. Turns are given in the order in which they are asked for.
    pub(crate) async fn turn(&self) {
        sleep_until(self.reserve()).await;
    }

    fn reserve(&self) -> Instant {
        let now = Instant::now();
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        *full_at = (*full_at).max(now) + self.each;
        full_at.checked_sub(self.each * self.burst).map_or(now, |turn| turn.max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_at_once_and_the_rest_at_the_rate() {
        let (pace, start) = (Pace::new(10, 5), Instant::now());
        for _ in 0..5 {
            pace.turn().await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        for _ in 0..20 {
            pace.turn().await;
        }
        assert!(start.elapsed().abs_diff(Duration::from_secs(2)) < Duration::from_millis(10), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_come_back() {
        let pace = Pace::new(10, 5);
        for _ in 0..5 {
            pace.turn().await;
        }
        tokio::time::advance(Duration::from_secs(60)).await;
        let start = Instant::now();
        for _ in 0..5 {
            pace.turn().await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        pace.turn().await;
        assert!(start.elapsed() >= Duration::from_millis(99));
    }
}
