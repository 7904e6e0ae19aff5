//! The newest bytes of a fill, in memory: clients that keep up read no disk, and wait for none.

use std::collections::VecDeque;

use bytes::Bytes;

/// The newest bytes stay in memory up to about this, so that clients that keep up read no disk.
const TAIL_BYTES_MAX: u64 = 64 << 10;

/// The newest bytes of a fill. It begins at or before the frontier: what is not on disk yet is here.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// Where the oldest of the chunks begins.
    start: u64,
    chunks: VecDeque<Bytes>,
    end: u64,
}

impl Tail {
    /// How many bytes have been received.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// The bytes from `position` to the end of their chunk, if they are still here.
    pub(super) fn get(&self, position: u64) -> Option<Bytes> {
        let mut start = self.start;
        if position < start {
            return None;
        }
        for chunk in &self.chunks {
            let end = start + chunk.len() as u64;
            if position < end {
                return Some(chunk.slice(usize::try_from(position - start).ok()?..));
            }
            start = end;
        }
        None
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        self.end += bytes.len() as u64;
        self.chunks.push_back(bytes);
    }

    /// Lets go of what is on disk and no longer new.
    pub(super) fn trim(&mut self, frontier: u64) {
        while let Some(oldest) = self.chunks.front() {
            let next = self.start + oldest.len() as u64;
            if next > frontier || self.end - next < TAIL_BYTES_MAX {
                return;
            }
            self.start = next;
            self.chunks.pop_front();
        }
    }

    pub(super) fn clear(&mut self) {
        self.start = self.end;
        self.chunks.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(chunks: &[usize]) -> Tail {
        let mut tail = Tail::default();
        for (number, length) in chunks.iter().enumerate() {
            tail.push(Bytes::from(vec![u8::try_from(number).unwrap(); *length]));
        }
        tail
    }

    #[test]
    fn bytes_are_found_by_their_position() {
        let tail = tail(&[3, 4]);
        assert_eq!(tail.get(0).unwrap(), [0, 0, 0].as_slice());
        assert_eq!(tail.get(2).unwrap(), [0].as_slice());
        assert_eq!(tail.get(3).unwrap(), [1; 4].as_slice());
        assert_eq!(tail.get(7), None);
        assert_eq!(tail.end(), 7);
    }

    #[test]
    fn what_is_not_on_disk_yet_stays() {
        let large = usize::try_from(TAIL_BYTES_MAX).unwrap();
        let mut tail = tail(&[large, large, large]);
        tail.trim(0);
        assert!(tail.get(0).is_some());
        tail.trim(TAIL_BYTES_MAX);
        assert!(tail.get(0).is_none());
        assert!(tail.get(TAIL_BYTES_MAX).is_some());
        tail.trim(3 * TAIL_BYTES_MAX);
        assert!(tail.get(TAIL_BYTES_MAX).is_none());
        assert!(tail.get(2 * TAIL_BYTES_MAX).is_some(), "the newest stay although they are on disk");
        tail.clear();
        assert_eq!((tail.get(2 * TAIL_BYTES_MAX), tail.end()), (None, 3 * TAIL_BYTES_MAX));
    }
}
