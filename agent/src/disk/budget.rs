//! What the settings come to on the disk as it is now. Pure.

use crate::config::CacheConfig;
use crate::store::{Room, Space};

/// Marks in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// What the data directory may take.
    pub limit: u64,
    /// Above this, eviction begins,
    pub high: u64,
    /// and here it ends.
    pub low: u64,
}

impl Budget {
    /// What the settings allow a data directory that takes `used`: the configured size, or less where others leave less of the file system
    /// than is to stay free. What is evicted becomes free, so evicting does not move the marks.
    ///
    /// Without figures of the file system only a size in bytes is a limit.
    #[must_use]
    pub fn new(config: &CacheConfig, space: Option<Space>, used: u64) -> Self {
        use crate::config::Amount;
        let limit = match (space, config.max_size) {
            (Some(Space { capacity, free }), max_size) => {
                let left = used.saturating_add(free).saturating_sub(config.min_free.of(capacity));
                max_size.map_or(u64::MAX, |size| size.of(capacity)).min(left)
            }
            (None, Some(Amount::Bytes(bytes))) => bytes,
            (None, _) => u64::MAX,
        };
        Self { limit, high: share(limit, config.high_watermark), low: share(limit, config.low_watermark) }
    }

    /// How much has to go: from above the high mark down to the low one.
    #[must_use]
    pub fn to_free(&self, room: &Room) -> u64 {
        let wanted = self.wanted(room);
        if wanted > self.high { wanted - self.low } else { 0 }
    }

    /// How much may go when somebody asks for it: everything above the low mark.
    #[must_use]
    pub fn above_low(&self, room: &Room) -> u64 {
        self.wanted(room).saturating_sub(self.low)
    }

    /// What waits counts up to what lies above the low mark: it gets its room in turns, and everything would go for it at once otherwise.
    fn wanted(&self, room: &Room) -> u64 {
        let waiting = room.waiting.min(self.limit.saturating_sub(self.low).max(room.largest));
        room.used.saturating_add(room.promised).saturating_add(waiting)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share is from 0 to 1, and thousandths of a thousandth are enough"
)]
fn share(bytes: u64, share: f64) -> u64 {
    let millionths = (share * 1e6).round() as u64;
    u64::try_from(u128::from(bytes) * u128::from(millionths) / 1_000_000).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Amount;

    const GIB: u64 = 1 << 30;

    fn mk_config(max_size: Option<Amount>, min_free: Amount) -> CacheConfig {
        CacheConfig { max_size, min_free, ..CacheConfig::default() }
    }

    #[test]
    fn the_smaller_of_size_and_what_is_left_is_the_limit() {
        let space = Some(Space { capacity: 100 * GIB, free: 50 * GIB });
        let limit = |max_size, min_free, used| Budget::new(&mk_config(max_size, min_free), space, used).limit;
        assert_eq!(limit(Some(Amount::PerMille(300)), Amount::PerMille(100), 10 * GIB), 30 * GIB);
        assert_eq!(limit(Some(Amount::Bytes(5 * GIB)), Amount::PerMille(100), 10 * GIB), 5 * GIB);
        assert_eq!(limit(None, Amount::PerMille(100), 10 * GIB), 50 * GIB);
        assert_eq!(limit(Some(Amount::PerMille(900)), Amount::Bytes(55 * GIB), 10 * GIB), 5 * GIB);
        assert_eq!(limit(None, Amount::PerMille(900), 10 * GIB), 0);
    }

    #[test]
    fn without_figures_of_the_disk_only_bytes_count() {
        let limit = |max_size| Budget::new(&mk_config(max_size, Amount::PerMille(100)), None, GIB).limit;
        assert_eq!(limit(Some(Amount::Bytes(GIB))), GIB);
        assert_eq!(limit(Some(Amount::PerMille(300))), u64::MAX);
        assert_eq!(limit(None), u64::MAX);
    }

    #[test]
    fn eviction_goes_from_above_the_high_mark_down_to_the_low_one() {
        let budget = Budget::new(&mk_config(Some(Amount::Bytes(1000)), Amount::Bytes(0)), None, 0);
        assert_eq!(budget, Budget { limit: 1000, high: 900, low: 800 });
        let room = |used, promised, waiting| Room { used, promised, waiting, largest: 0, limit: 1000 };
        assert_eq!(budget.to_free(&room(900, 0, 0)), 0);
        assert_eq!(budget.to_free(&room(901, 0, 0)), 101);
        assert_eq!(budget.to_free(&room(500, 300, 200)), 200);
        assert_eq!(budget.to_free(&room(500, 300, 5000)), 200, "what waits gets its room in turns");
        assert_eq!(budget.to_free(&Room { largest: 600, ..room(500, 300, 5000) }), 600, "or all at once, if one of it is as large");
        assert_eq!((budget.above_low(&room(850, 0, 0)), budget.above_low(&room(700, 0, 0))), (50, 0));
    }

    #[test]
    fn evicting_does_not_move_the_marks() {
        let config = mk_config(None, Amount::PerMille(160));
        let before = Budget::new(&config, Some(Space { capacity: 100 * GIB, free: 10 * GIB }), 30 * GIB);
        let after = Budget::new(&config, Some(Space { capacity: 100 * GIB, free: 16 * GIB }), 24 * GIB);
        assert_eq!(before, after);
    }
}
