//! What a perfect memory would have had: the least recently used image goes, only when it must, and nothing ever goes wrong. Images that
//! do not fit are left out, by everybody.

use std::collections::BTreeMap;

use super::library::{Blob, Image, Library};

/// What the file systems here give out room in.
const BLOCK_BYTES: u64 = 4096;

/// Blobs, and their bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    pub(super) blobs: u64,
    pub(super) bytes: u64,
}

impl Count {
    pub(super) fn add(&mut self, bytes: u64) {
        self.blobs += 1;
        self.bytes += bytes;
    }
}

/// A cache of whole images that share blobs.
#[derive(Debug, Default)]
pub(super) struct Oracle<'a> {
    /// Images by when they were last asked for.
    images: BTreeMap<usize, &'a Image>,
    /// In how many of these images a blob is.
    held: BTreeMap<&'a str, u64>,
    used_bytes: u64,
    pub(super) asked: Count,
    pub(super) hits: Count,
}

impl<'a> Oracle<'a> {
    /// Has all pulls, in their order, go through a cache of this size.
    pub(super) fn run(library: &'a Library, pulls: &[usize], budget_bytes: u64) -> Self {
        let mut oracle = Self::default();
        for (now, image) in pulls.iter().map(|pull| &library.images[*pull]).enumerate() {
            oracle.pull(now, image, budget_bytes);
        }
        oracle
    }

    fn pull(&mut self, now: usize, image: &'a Image, budget_bytes: u64) {
        // A perfect memory knows better than to make room for what does not fit.
        if blobs(image).map(|blob| blob.bytes).sum::<u64>() > budget_bytes {
            return;
        }
        for blob in &image.blobs {
            self.asked.add(blob.bytes);
            if self.held.contains_key(blob.digest.as_str()) {
                self.hits.add(blob.bytes);
            }
        }
        let known = self.images.iter().find(|(_, known)| known.manifest.digest == image.manifest.digest).map(|(when, _)| *when);
        if let Some(when) = known {
            self.images.remove(&when);
        } else {
            blobs(image).for_each(|blob| self.take(blob));
        }
        self.images.insert(now, image);
        while self.used_bytes > budget_bytes {
            let Some((_, oldest)) = self.images.pop_first() else { break };
            blobs(oldest).for_each(|blob| self.give(blob));
        }
    }

    fn take(&mut self, blob: &'a Blob) {
        let holders = self.held.entry(&blob.digest).or_default();
        *holders += 1;
        if *holders == 1 {
            self.used_bytes += blob.bytes.next_multiple_of(BLOCK_BYTES);
        }
    }

    fn give(&mut self, blob: &'a Blob) {
        let Some(holders) = self.held.get_mut(blob.digest.as_str()) else { return };
        *holders -= 1;
        if *holders == 0 {
            self.held.remove(blob.digest.as_str());
            self.used_bytes -= blob.bytes.next_multiple_of(BLOCK_BYTES);
        }
    }
}

fn blobs(image: &Image) -> impl Iterator<Item = &Blob> {
    image.blobs.iter().chain([&image.manifest])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_image(name: &str, blobs: &[(&str, u64)]) -> Image {
        let blob = |(digest, bytes): &(&str, u64)| Blob { digest: (*digest).to_owned(), bytes: *bytes };
        let manifest = Blob { digest: name.to_owned(), bytes: 1 };
        Image { repository: "r".to_owned(), tag: name.to_owned(), manifest, blobs: blobs.iter().map(blob).collect() }
    }

    #[test]
    fn the_oldest_image_goes_and_what_others_share_stays() {
        let images = [
            mk_image("a", &[("base", 4096), ("a1", 4096)]),
            mk_image("b", &[("base", 4096), ("b1", 4096)]),
            mk_image("c", &[("c1", 4096)]),
        ];
        let mut oracle = Oracle::default();
        // Each manifest takes a block too: a and b fill it, c takes the place of a, of which the base stays.
        for (now, image) in [&images[0], &images[1], &images[2], &images[0]].into_iter().enumerate() {
            oracle.pull(now, image, 5 * 4096);
        }
        assert_eq!((oracle.asked.blobs, oracle.hits.blobs), (7, 2));
        assert_eq!(oracle.images.len(), 2);
    }

    #[test]
    fn what_does_not_fit_evicts_nothing() {
        let (small, giant) = (mk_image("a", &[("a1", 4096)]), mk_image("g", &[("g1", 1 << 20)]));
        let mut oracle = Oracle::default();
        for (now, image) in [&small, &giant, &small].into_iter().enumerate() {
            oracle.pull(now, image, 5 * 4096);
        }
        assert_eq!((oracle.asked.blobs, oracle.hits.blobs), (2, 1));
    }
}
