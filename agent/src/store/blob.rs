//! Reading committed blobs, and files that are still growing.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use rustix::io::{Errno, ReadWriteFlags};

use super::buffer::Buffer;

/// An open file to read from at any offset. Cheap to clone; the bytes stay readable after the file is unlinked.
#[derive(Debug, Clone)]
pub struct Reader {
    file: Arc<File>,
}

impl Reader {
    pub(super) fn new(file: Arc<File>) -> Self {
        Self { file }
    }

    /// The bytes at `range`. What is in the page cache is read without leaving the async thread; the rest on the blocking pool.
    ///
    /// # Errors
    /// When the disk fails, or the file ends before the range does.
    pub async fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        let mut buffer = Buffer::new(length);
        let mut filled = 0;
        while filled < length {
            let mut slices = [IoSliceMut::new(&mut buffer.as_mut()[filled..])];
            match rustix::io::preadv2(&*self.file, &mut slices, range.start + filled as u64, ReadWriteFlags::NOWAIT) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                // Not in the page cache, or a file system or a kernel that does not know the flag.
                Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                    return self.read_blocking(buffer, filled, range.start).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(buffer.freeze())
    }

    async fn read_blocking(&self, mut buffer: Buffer, filled: usize, offset: u64) -> io::Result<Bytes> {
        let file = Arc::clone(&self.file);
        let read = move || file.read_exact_at(&mut buffer.as_mut()[filled..], offset + filled as u64).map(|()| buffer.freeze());
        tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
    }
}

/// A committed blob, open.
#[derive(Debug, Clone)]
pub struct Blob {
    pub reader: Reader,
    pub size: u64,
}
