//! Images whose `CachedImage` was deleted: their bytes go too, unless that was a mishap.
//!
//! What takes bytes away must not be set off by an accident of the API: a definition that is deleted takes all its objects with it, and a
//! list that fails looks like an empty one. So a deletion by others counts only
//! * if it was *seen* while watching (what a new listing lacks was perhaps never there),
//! * after [`RIPE_SECONDS`] without another failure of the watch (a deleted definition makes the watch fail at once),
//! * if it was not one of many: more than [`MANY`], and more than half of all there were.
//!
//! What is not counted goes by age, much later. And an image that a pod uses is never deleted, whoever deletes its object.

use std::collections::HashMap;

/// A deletion by others counts after this, in seconds.
pub(super) const RIPE_SECONDS: u64 = 15;

/// So many deletions at once are no mishap.
const MANY: usize = 10;

/// Agents that were away for longer than this find out by age, in seconds.
const KEPT_SECONDS: u64 = 86_400;

/// Remembered at most.
const TOMBSTONES_MAX: usize = 20_000;

/// The deleted images, by normalised reference, and when.
#[derive(Debug, Default)]
pub(super) struct Tombstones {
    fresh: HashMap<String, u64>,
    ripe: HashMap<String, u64>,
}

impl Tombstones {
    /// We have deleted it, for it had expired.
    pub(super) fn expired(&mut self, image: String, now: u64) {
        if self.ripe.len() < TOMBSTONES_MAX {
            self.ripe.insert(image, now);
        }
    }

    /// A `CachedImage` was seen to be deleted.
    pub(super) fn deleted(&mut self, image: String, now: u64) {
        if !self.ripe.contains_key(&image) && self.fresh.len() < TOMBSTONES_MAX {
            self.fresh.entry(image).or_insert(now);
        }
    }

    /// Lets time pass. `left` is how many images there are still.
    pub(super) fn ripen(&mut self, now: u64, watches_work: bool, left: usize, is_there: impl Fn(&str) -> bool) {
        self.fresh.retain(|image, _| !is_there(image));
        self.ripe.retain(|image, at| !is_there(image) && *at + KEPT_SECONDS > now);
        let gone = self.fresh.len();
        let oldest = self.fresh.values().min().copied();
        if !watches_work || (gone > MANY && gone > left) {
            if gone > 0 {
                tracing::warn!(
                    gone,
                    left,
                    watches_work,
                    "deleted CachedImages are not taken for a wish to delete images: their bytes go by age"
                );
            }
            self.fresh.clear();
        } else if oldest.is_some_and(|at| at + RIPE_SECONDS <= now) {
            let ripe = self.fresh.extract_if(|_, at| *at + RIPE_SECONDS <= now).collect::<Vec<_>>();
            self.ripe.extend(ripe);
        }
    }

    /// When an image was deleted.
    pub(super) fn get(&self, image: &str) -> Option<u64> {
        self.ripe.get(image).copied()
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
            tombstones.deleted(format!("image {i}"), 100);
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
        tombstones.expired("x".into(), 100);
        tombstones.deleted("x".into(), 101);
        tombstones.ripen(101, false, 0, |_| false);
        assert_eq!(tombstones.get("x"), Some(100));
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
