//! Why a configuration was refused: one line with the place, the value and what was expected.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why the agent does not start with this configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The configuration file itself.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The configuration file is no YAML, or not one document.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The column, from 1.
        column: u64,
        /// What is wrong there.
        message: String,
    },
    /// A value that is not taken.
    #[error("{place}: {message}")]
    Value {
        /// Where it stands.
        place: Place,
        /// What is wrong, and what was expected.
        message: String,
    },
    /// A file that the configuration names.
    #[error("{place}: {}: cannot be read", path.display())]
    File {
        /// Where it is named.
        place: Place,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Where a value of the configuration stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On the command line or in the environment: the flag's name.
    Flag(&'static str),
    /// In the configuration file.
    Key {
        /// The file.
        file: PathBuf,
        /// The keys from the root: `registries."docker.io".ca`.
        key: String,
    },
}

impl Place {
    pub(super) fn key(file: &Path, key: impl Into<String>) -> Self {
        Self::Key { file: file.to_owned(), key: key.into() }
    }

    pub(super) fn refuse(self, message: impl Into<String>) -> ConfigError {
        ConfigError::Value { place: self, message: message.into() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => f.write_str(flag),
            Self::Key { file, key } => write!(f, "{}: {key}", file.display()),
        }
    }
}
