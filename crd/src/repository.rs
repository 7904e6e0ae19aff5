//! A repository: a name on a registry, from the distribution specification, "Pulling manifests".

use std::fmt;
use std::str::FromStr;

use crate::registry::{Registry, RegistryError};

/// The name of a repository on its registry, such as `library/nginx`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryName(String);

/// Why a text is not a repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RepositoryError {
    /// The name breaks the grammar.
    #[error("the repository name has a part that is not lower-case letters and digits, separated by '.', '_', '__' or '-'")]
    Name,
    /// The registry part breaks the grammar.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl RepositoryName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RepositoryName {
    type Err = RepositoryError;

    fn from_str(text: &str) -> Result<Self, RepositoryError> {
        if text.split('/').all(is_component) { Ok(Self(text.to_owned())) } else { Err(RepositoryError::Name) }
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, without a regex engine: this runs on every request.
fn is_component(part: &str) -> bool {
    let bytes = part.as_bytes();
    let alphanumeric = |b: &u8| matches!(b, b'a'..=b'z' | b'0'..=b'9');
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !alphanumeric(first) || !alphanumeric(last) {
        return false;
    }
    bytes.split(alphanumeric).all(|separator| matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-'))
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A repository on a registry: what a reference names before its tag or digest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository {
    /// Where it is.
    pub registry: Registry,
    /// What it is called there.
    pub name: RepositoryName,
}

impl Repository {
    /// A repository from a registry and a name; on Docker Hub, a name of one part is in `library/`.
    ///
    /// # Errors
    /// When the name breaks the grammar.
    pub fn new(registry: Registry, name: &str) -> Result<Self, RepositoryError> {
        let official = !name.contains('/') && registry == Registry::docker_hub();
        let name = if official { format!("library/{name}").parse()? } else { name.parse()? };
        Ok(Self { registry, name })
    }

    /// The repository part of the localhost path: `docker.io/library/nginx`, `registry.local__5000/app`.
    #[must_use]
    pub fn to_path(&self) -> String {
        format!("{}/{}", self.registry.to_path_segment(), self.name)
    }

    /// Reads what [`Repository::to_path`] wrote. A path whose first segment is no registry is on Docker Hub.
    ///
    /// # Errors
    /// When the registry or the name breaks the grammar.
    pub fn from_path(path: &str) -> Result<Self, RepositoryError> {
        if let Some((first, rest)) = path.split_once('/')
            && let Some(registry) = Registry::from_path_segment(first)?
        {
            return Self::new(registry, rest);
        }
        Self::new(Registry::docker_hub(), path)
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.name)
    }
}
