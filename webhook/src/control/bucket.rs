//! So many at once, and so many in the long run: one account, and one for each of some names.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// How fast an account is used up and fills.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    /// At once, after a while without any.
    pub(super) burst: f64,
    /// In the long run.
    pub(super) per_second: f64,
}

/// An account.
#[derive(Debug)]
pub(super) struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    pub(super) fn full(rate: Rate, now: Instant) -> Self {
        Self { left: rate.burst, at: now }
    }

    /// Takes one. The error is after which time there is one again.
    pub(super) fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        self.left = self.left_at(rate, now);
        self.at = now;
        if self.left >= 1.0 {
            self.left -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.left) / rate.per_second))
    }

    /// Undoes one [`Bucket::take`].
    pub(super) fn give_back(&mut self, rate: Rate) {
        self.left = (self.left + 1.0).min(rate.burst);
    }

    fn left_at(&self, rate: Rate, now: Instant) -> f64 {
        (self.left + (now - self.at).as_secs_f64() * rate.per_second).min(rate.burst)
    }
}

/// An account for each name. A full one is as good as none, so those go when there are too many.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    by_name: HashMap<Box<str>, Bucket>,
}

impl Buckets {
    /// Takes one of `name`'s, of which there are at most `max` accounts. The error is after which time there is one again.
    pub(super) fn take(&mut self, name: &str, rate: Rate, max: usize, now: Instant) -> Result<(), Duration> {
        if let Some(known) = self.by_name.get_mut(name) {
            return known.take(rate, now);
        }
        if self.by_name.len() >= max {
            self.by_name.retain(|_, bucket| bucket.left_at(rate, now) < rate.burst);
            self.shrink_below(max, rate, now);
        }
        self.by_name.entry(name.into()).or_insert_with(|| Bucket::full(rate, now)).take(rate, now)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// With none full, the fullest goes: it is the one that forgetting gives the least.
    fn shrink_below(&mut self, max: usize, rate: Rate, now: Instant) {
        while self.by_name.len() >= max {
            let left = |bucket: &Bucket| bucket.left_at(rate, now);
            let fullest = self.by_name.iter().max_by(|(_, one), (_, other)| left(one).total_cmp(&left(other)));
            let Some(name) = fullest.map(|(name, _)| name.clone()) else { return };
            self.by_name.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 3.0, per_second: 0.5 };
    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn an_account_fills_with_time_and_no_further_than_its_burst() {
        let mut bucket = Bucket::full(RATE, Instant::now());
        let taken = |bucket: &mut Bucket| (0..10).filter(|_| bucket.take(RATE, Instant::now()).is_ok()).count();
        assert_eq!(taken(&mut bucket), 3);
        assert_eq!(bucket.take(RATE, Instant::now()), Err(2 * SECOND));
        tokio::time::advance(SECOND).await;
        assert_eq!(bucket.take(RATE, Instant::now()), Err(SECOND));
        tokio::time::advance(100 * SECOND).await;
        bucket.give_back(RATE);
        assert_eq!(taken(&mut bucket), 3);
        bucket.give_back(RATE);
        assert_eq!(taken(&mut bucket), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn with_too_many_names_the_full_go_first_and_then_the_fullest() {
        let mut buckets = Buckets::default();
        let take = |buckets: &mut Buckets, name: &str| buckets.take(name, RATE, 3, Instant::now());
        let names = |buckets: &Buckets| {
            let mut names: Vec<String> = buckets.by_name.keys().map(ToString::to_string).collect();
            names.sort();
            names
        };
        for name in ["dry", "dry", "dry", "once", "full"] {
            take(&mut buckets, name).unwrap();
        }
        tokio::time::advance(2 * SECOND).await;
        for name in ["once", "dry", "new"] {
            take(&mut buckets, name).unwrap();
        }
        assert_eq!(names(&buckets), ["dry", "new", "once"]);
        take(&mut buckets, "once").unwrap();
        take(&mut buckets, "newer").unwrap();
        assert_eq!(names(&buckets), ["dry", "newer", "once"]);
        take(&mut buckets, "dry").unwrap_err();
    }
}
