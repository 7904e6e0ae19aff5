//! Section `cache` of the configuration file, read again while the agent runs.

use std::path::PathBuf;

use super::cache::CacheConfig;
use super::error::ConfigError;
use super::file::File;
use super::load::merge;
use crate::args::ServeArgs;

/// What is read again: the file, under the same flags as at the start.
#[derive(Debug, Clone)]
pub struct Reload {
    args: ServeArgs,
    path: PathBuf,
    /// What the file held when it was last looked at, whether that could be used or not.
    seen: Vec<u8>,
}

impl Reload {
    /// `None` without a file: flags do not change.
    pub(super) fn new(args: &ServeArgs) -> Option<Self> {
        let path = args.config.clone()?;
        // The file was read a moment ago. If it cannot be now, any content is news.
        let seen = std::fs::read(&path).unwrap_or_default();
        Some(Self { args: args.clone(), path, seen })
    }

    /// What the file amounts to now, if it is not what it was. Blocks.
    ///
    /// A file that cannot be read is taken for one that is being replaced: it is read the next time.
    ///
    /// # Errors
    /// When it cannot be used; that is said once for each content.
    pub fn look(&mut self) -> Result<Option<CacheConfig>, ConfigError> {
        let Ok(bytes) = std::fs::read(&self.path) else {
            return Ok(None);
        };
        if bytes == self.seen {
            return Ok(None);
        }
        self.seen = bytes;
        let file = File::parse(&self.path, &String::from_utf8_lossy(&self.seen))?;
        Ok(Some(merge(self.args.clone(), file, &self.path)?.cache))
    }
}
