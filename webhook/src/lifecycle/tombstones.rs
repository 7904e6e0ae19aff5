//! Images whose `CachedImage` was deleted: their bytes go too, unless that was a mishap.
//!
//! What takes bytes away must not be set off by an accident of the API: a definition that is deleted takes all its objects with it, and a
//! list that fails looks like an empty one. So a deletion by others counts only
//! * if it was *seen* while watching (what a new listing lacks was perhaps never there),
//! * after [`RIPE_SECONDS`] without another failure of the watch (a deleted definition makes the watch fail at once),
//! * if it was not one of many: within [`TOGETHER_SECONDS`] more than [`MANY`], and more than half of all there were,
//! * if nobody had asked for the image to be retained.
//!
//! What is not counted goes by age, much later. And an image that a pod uses is never deleted, whoever deletes its object.

use std::collections::HashMap;

use super::plan::Expired;

/// A deletion by others counts after this, in seconds.
pub(super) const RIPE_SECONDS: u64 = 15;

/// So many deletions at once are no mishap.
const MANY: usize = 10;

/// Deletions by others within this are judged together, in seconds.
const TOGETHER_SECONDS: u64 = 600;

/// Agents that were away for longer than this find out by age, in seconds.
const KEPT_SECONDS: u64 = 86_400;

/// Remembered at most.
const TOMBSTONES_MAX: usize = 20_000;

/// The deleted images, by the reference that agents report.
#[derive(Debug, Default)]
pub(super) struct Tombstones {
    fresh: HashMap<String, u64>,
    ripe: HashMap<String, Tombstone>,
    /// What others have deleted lately, whether it counts or not, and when.
    by_others: HashMap<String, u64>,
}

#[derive(Debug)]
struct Tombstone {
    /// Since when nothing needs the image.
    since: u64,
    /// When it began to count.
    at: u64,
}

impl Tombstones {
    /// We have deleted it.
    pub(super) fn expired(&mut self, Expired { image, since }: Expired, now: u64) {
        if self.ripe.len() < TOMBSTONES_MAX {
            self.ripe.insert(image, Tombstone { since, at: now });
        }
    }

    /// A `CachedImage` was seen to be deleted.
    pub(super) fn deleted(&mut self, image: String, is_retained: bool, now: u64) {
        if self.ripe.contains_key(&image) || self.by_others.len() >= TOMBSTONES_MAX {
            return;
        }
        if !is_retained {
            self.fresh.entry(image.clone()).or_insert(now);
        }
        self.by_others.entry(image).or_insert(now);
    }

    /// Lets time pass. `left` is how many images there are still.
    pub(super) fn ripen(&mut self, now: u64, watches_work: bool, left: usize, is_there: impl Fn(&str) -> bool) {
        self.fresh.retain(|image, _| !is_there(image));
        self.ripe.retain(|image, tombstone| !is_there(image) && tombstone.at + KEPT_SECONDS > now);
        self.by_others.retain(|image, at| !is_there(image) && *at + TOGETHER_SECONDS > now);
        let gone = self.by_others.len();
        let too_many = gone > MANY && gone > left;
        if !watches_work || too_many {
            let before = self.fresh.len() + self.ripe.len();
            self.fresh.clear();
            self.ripe.retain(|image, _| !too_many || !self.by_others.contains_key(image));
            let doubted = before - self.ripe.len();
            if doubted > 0 {
                tracing::warn!(
                    doubted,
                    gone,
                    left,
                    watches_work,
                    "deleted CachedImages are not taken for a wish to delete images: their bytes go by age"
                );
            }
            return;
        }
        let ripe = self.fresh.extract_if(|_, at| *at + RIPE_SECONDS <= now);
        self.ripe.extend(ripe.map(|(image, at)| (image, Tombstone { since: at, at })));
    }

    /// Since when nothing needs an image that was deleted.
    pub(super) fn get(&self, image: &str) -> Option<u64> {
        self.ripe.get(image).map(|tombstone| tombstone.since)
    }

    /// When the next one counts.
    pub(super) fn next_ripe(&self) -> Option<u64> {
        self.fresh.values().min().map(|at| at + RIPE_SECONDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deleted(count: usize) -> Tombstones {
        let mut tombstones = Tombstones::default();
        for i in 0..count {
            tombstones.deleted(format!("image {i}"), false, 100);
        }
        tombstones
    }

    #[test]
    fn a_deletion_by_others_counts_after_a_while() {
        let mut tombstones = deleted(1);
        tombstones.ripen(114, true, 5, |_| false);
        assert_eq!((tombstones.get("image 0"), tombstones.next_ripe()), (None, Some(115)));
        tombstones.ripen(115, true, 5, |_| false);
        assert_eq!((tombstones.get("image 0"), tombstones.next_ripe()), (Some(100), None));
    }

    #[test]
    fn one_of_our_own_counts_at_once() {
        let mut tombstones = Tombstones::default();
        let now = 3 * KEPT_SECONDS;
        tombstones.expired(Expired { image: "x".into(), since: 100 }, now);
        tombstones.deleted("x".into(), false, now + 1);
        tombstones.ripen(now + 1, false, 0, |_| false);
        assert_eq!(tombstones.get("x"), Some(100), "however long nothing had used it");
    }

    #[test]
    fn what_was_to_be_retained_does_not_count() {
        let mut tombstones = Tombstones::default();
        tombstones.deleted("x".into(), true, 100);
        tombstones.ripen(200, true, 5, |_| false);
        assert_eq!((tombstones.get("x"), tombstones.next_ripe()), (None, None));
    }

    #[test]
    fn many_that_go_one_after_the_other_are_many() {
        let mut tombstones = deleted(10);
        tombstones.ripen(115, true, 10, |_| false);
        assert_eq!(tombstones.get("image 0"), Some(100));
        tombstones.deleted("another".into(), false, 400);
        tombstones.ripen(400, true, 9, |_| false);
        tombstones.ripen(415, true, 9, |_| false);
        assert_eq!((tombstones.get("image 0"), tombstones.get("another")), (None, None));
        tombstones.deleted("later".into(), false, 900);
        tombstones.ripen(915, true, 8, |_| false);
        assert_eq!(tombstones.get("later"), Some(900), "those before are long ago");
    }

    #[test]
    fn none_counts_when_the_watch_fails_meanwhile() {
        let mut tombstones = deleted(1);
        tombstones.ripen(105, false, 5, |_| false);
        tombstones.ripen(200, true, 5, |_| false);
        assert_eq!(tombstones.get("image 0"), None);
    }

    #[test]
    fn none_counts_when_most_are_gone_at_once() {
        let mut tombstones = deleted(11);
        tombstones.ripen(200, true, 10, |_| false);
        assert_eq!(tombstones.get("image 0"), None);
        let mut tombstones = deleted(11);
        tombstones.ripen(200, true, 11, |_| false);
        assert_eq!(tombstones.get("image 0"), Some(100), "a few of many");
        let mut tombstones = deleted(10);
        tombstones.ripen(200, true, 0, |_| false);
        assert_eq!(tombstones.get("image 0"), Some(100), "few");
    }

    #[test]
    fn what_comes_back_is_not_deleted_and_what_is_long_gone_is_forgotten() {
        let mut tombstones = deleted(1);
        tombstones.ripen(115, true, 5, |_| false);
        tombstones.ripen(116, true, 5, |image| image == "image 0");
        assert_eq!(tombstones.get("image 0"), None);
        let mut tombstones = deleted(1);
        tombstones.ripen(115, true, 5, |_| false);
        tombstones.ripen(100 + KEPT_SECONDS, true, 5, |_| false);
        assert_eq!(tombstones.get("image 0"), None);
    }
}
