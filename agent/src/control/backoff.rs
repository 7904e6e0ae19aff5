//! When to try again: twice as long after each failure, up to a limit, and never all agents of a cluster at once.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The waits of one kind of work.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// After the first failure.
    pub first: Duration,
    /// After many.
    pub longest: Duration,
}

impl Backoff {
    /// How long to wait after so many failures in a row: between half of it and all.
    #[must_use]
    pub fn wait(self, failures: u32) -> Duration {
        spread(self.whole(failures), random())
    }

    fn whole(self, failures: u32) -> Duration {
        let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.longest)
    }
}

/// A wait between none and `most`.
#[must_use]
pub(super) fn jitter(most: Duration) -> Duration {
    part(most, random())
}

fn spread(whole: Duration, random: u64) -> Duration {
    whole / 2 + part(whole / 2, random)
}

fn part(most: Duration, random: u64) -> Duration {
    let most = u64::try_from(most.as_micros()).unwrap_or(u64::MAX - 1);
    Duration::from_micros(random % (most + 1))
}

/// Good enough for jitter: the seed of a hash map.
fn random() -> u64 {
    RandomState::new().hash_one(0_u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(60) };

    proptest! {
        #[test]
        fn a_wait_doubles_is_bounded_and_spread_over_its_upper_half(failures in 1_u32.., random in any::<u64>()) {
            let whole = if failures > 6 { 60 } else { (1 << (failures - 1)).min(60) };
            let wait = spread(BACKOFF.whole(failures), random);
            prop_assert!(Duration::from_secs(whole) / 2 <= wait && wait <= Duration::from_secs(whole), "{wait:?}");
        }

        #[test]
        fn a_jitter_is_bounded(most in 0_u64..10_000_000, random in any::<u64>()) {
            prop_assert!(part(Duration::from_micros(most), random) <= Duration::from_micros(most));
        }
    }

    #[test]
    fn two_agents_that_failed_together_come_back_apart() {
        let waits: std::collections::BTreeSet<_> = (0..100).map(|_| BACKOFF.wait(9)).collect();
        assert!(waits.len() > 50, "{waits:?}");
    }
}
