//! Which failures are worth another attempt, and when.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use super::error::UpstreamError;

/// The first wait of [`delay`]; each further one is twice as long.
const FIRST_MS: u64 = 100;
/// The longest wait of [`delay`].
const LONGEST_MS: u64 = 5_000;

/// Whether the same request may succeed a moment later.
pub(super) fn is_retryable(error: &UpstreamError) -> bool {
    match error {
        UpstreamError::Unreachable { .. } | UpstreamError::Stalled { .. } | UpstreamError::Broken { .. } | UpstreamError::Busy { .. } => {
            true
        }
        UpstreamError::Status { status, .. } => *status >= 500 || *status == 408,
        UpstreamError::NotFound { .. }
        | UpstreamError::Denied { .. }
        | UpstreamError::TooManyRequests { .. }
        | UpstreamError::TooLarge { .. }
        | UpstreamError::Protocol { .. }
        | UpstreamError::Credentials { .. } => false,
    }
}

/// How long to wait before attempt `attempt + 1`, where the first attempt is number 0.
///
/// It doubles, is bounded by 5 s, and is spread over the upper half of that: many nodes that lost the same registry must not come back
/// at once.
#[must_use]
pub fn delay(attempt: u32) -> Duration {
    spread(attempt, random())
}

/// The wait before the one quick retry inside this module.
pub(super) fn quick() -> Duration {
    Duration::from_millis(50 + random() % 101)
}

fn spread(attempt: u32, random: u64) -> Duration {
    let whole = FIRST_MS.saturating_mul(1_u64.checked_shl(attempt).unwrap_or(u64::MAX)).min(LONGEST_MS);
    Duration::from_millis(whole / 2 + random % (whole / 2 + 1))
}

/// Good enough for jitter: the seed of a hash map.
fn random() -> u64 {
    RandomState::new().hash_one(0_u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_wait_grows_is_spread_and_is_bounded(attempt in any::<u32>(), random in any::<u64>()) {
            let whole = if attempt >= 6 { LONGEST_MS } else { FIRST_MS << attempt };
            let wait = u64::try_from(spread(attempt, random).as_millis()).unwrap();
            prop_assert!(whole / 2 <= wait && wait <= whole, "{wait}");
        }
    }

    #[test]
    fn the_quick_retry_is_quick() {
        for _ in 0..1000 {
            assert!((50..=150).contains(&quick().as_millis()));
        }
    }
}
