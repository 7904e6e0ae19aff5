//! How many images went within the last hour, by the minute.

use std::collections::VecDeque;

const MINUTE_SECONDS: u64 = 60;
const MINUTES: u64 = 60;

/// Counts, the oldest first.
#[derive(Debug, Default)]
pub(super) struct LastHour {
    minutes: VecDeque<(u64, u64)>,
}

impl LastHour {
    /// One more, at `now` in seconds since 1970.
    pub(super) fn add(&mut self, now: u64) {
        let minute = now / MINUTE_SECONDS;
        match self.minutes.back_mut() {
            Some((last, count)) if *last == minute => *count += 1,
            _ => self.minutes.push_back((minute, 1)),
        }
        self.count(now);
    }

    /// How many there were in the hour before `now`.
    pub(super) fn count(&mut self, now: u64) -> u64 {
        let first = (now / MINUTE_SECONDS).saturating_sub(MINUTES - 1);
        // A clock that was set back leaves minutes of the future: they go as well.
        self.minutes.retain(|(minute, _)| *minute >= first && *minute <= now / MINUTE_SECONDS);
        self.minutes.iter().map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_an_hour_no_longer_counts() {
        let mut hour = LastHour::default();
        (0..3).for_each(|_| hour.add(7200));
        hour.add(7200 + 1800);
        assert_eq!(hour.count(7200 + 3599), 4);
        assert_eq!(hour.count(7200 + 3600), 1);
        assert_eq!(hour.count(7200 + 1800 + 3600), 0);
        (0..100_000).for_each(|second| hour.add(20_000 + second));
        assert!(hour.minutes.len() <= 60);
    }
}
