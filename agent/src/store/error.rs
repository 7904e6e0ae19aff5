//! What can go wrong with the data directory.

use std::io;
use std::path::PathBuf;

use crate::oci::Digest;

/// The store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// An operation on a file or directory failed.
    #[error("cannot {action} {path}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Another agent uses the directory.
    #[error("the data directory {path} is in use by another agent (process {owner}): stop it, or give this one its own --data-dir")]
    InUse { path: PathBuf, owner: String },
    /// A newer agent wrote the directory.
    #[error(
        "the data directory {path} has format version {found}, this agent knows versions up to {known}: \
         run the newer agent, or give this one another --data-dir"
    )]
    Newer { path: PathBuf, found: String, known: u32 },
    /// What the cache may take is taken, and nothing could be evicted in time.
    #[error("there is no room for {wanted} bytes: {used} of the {limit} that the cache may take now are taken or promised")]
    NoRoom { wanted: u64, used: u64, limit: u64 },
    /// The bytes are not those of the digest.
    #[error("the content has digest {actual}, not {expected}")]
    Mismatch { expected: Box<Digest>, actual: Box<Digest> },
}

impl StoreError {
    pub(super) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// Whether the directory is merely full, read-only or failing: the agent then goes on without storing.
    #[must_use]
    pub fn is_degradation(&self) -> bool {
        use io::ErrorKind as Kind;
        match self {
            Self::Io { source, .. } => {
                matches!(source.kind(), Kind::StorageFull | Kind::QuotaExceeded | Kind::ReadOnlyFilesystem)
                    || source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
            }
            Self::NoRoom { .. } => true,
            Self::InUse { .. } | Self::Newer { .. } | Self::Mismatch { .. } => false,
        }
    }
}
