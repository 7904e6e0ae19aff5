//! Buffers for reading, used again: a fresh one of a quarter megabyte costs its pages to be mapped and cleared each time, which shows in
//! the CPU time of every gigabyte served.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Buffers that wait for their next use, at most; those beyond are freed.
const IDLE_MAX: usize = 8;

/// Requests below this are not worth a shared buffer.
const POOLED_BYTES_MIN: usize = 64 << 10;

/// Held to push or pop, never across an await.
static IDLE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Bytes that can be written to, and then shared; when nobody has them any more the buffer is used again.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    length: usize,
}

impl Buffer {
    /// A buffer of `length` bytes, whatever they are.
    pub(super) fn new(length: usize) -> Self {
        let mut bytes = if length < POOLED_BYTES_MIN { Vec::new() } else { idle().pop().unwrap_or_default() };
        if bytes.len() < length {
            bytes.resize(length, 0);
        }
        Self { bytes, length }
    }

    pub(super) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }

    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut idle = idle();
        if bytes.len() >= POOLED_BYTES_MIN && idle.len() < IDLE_MAX {
            idle.push(bytes);
        }
    }
}

fn idle() -> MutexGuard<'static, Vec<Vec<u8>>> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_has_the_length_asked_for_whatever_it_was_before() {
        for length in [1, 100_000, 300_000, 70_000] {
            let mut buffer = Buffer::new(length);
            buffer.as_mut().fill(7);
            let bytes = buffer.freeze();
            assert_eq!(bytes.len(), length);
            assert!(bytes.iter().all(|byte| *byte == 7));
        }
    }

    #[test]
    fn bytes_in_use_are_not_handed_out_again() {
        let mut first = Buffer::new(100_000);
        first.as_mut().fill(1);
        let first = first.freeze();
        let mut second = Buffer::new(100_000);
        second.as_mut().fill(2);
        assert!(first.iter().all(|byte| *byte == 1));
    }
}
