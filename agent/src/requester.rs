//! Who asks: carried from the HTTP request through the cache to the registry, so that nobody is answered with another's rights.

use std::fmt;
use std::sync::Arc;

/// Who asks for something of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Requester {
    /// Rights do not matter: the repository is open to everybody, or nobody's rights are looked at (`auth.mode: none`). Registries are
    /// shown the agent's own credentials, if it has any.
    Anyone,
    /// Whoever shows nothing: finding out whether a repository is open to everybody.
    Nobody,
    /// The pods of a namespace: registries are shown its pull secrets, and nothing else.
    Namespace(Arc<str>),
    /// The agent, for an image that it holds or was told to hold: its own credentials, then the pull secrets of namespaces that have
    /// proven their right here.
    Agent,
}

impl Requester {
    /// Its failures are no news about an image: it only wanted to know whether it may have it.
    #[must_use]
    pub fn is_asking_for_leave(&self) -> bool {
        matches!(self, Self::Nobody)
    }
}

impl fmt::Display for Requester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => f.write_str("anyone"),
            Self::Nobody => f.write_str("nobody"),
            Self::Namespace(namespace) => write!(f, "namespace {namespace}"),
            Self::Agent => f.write_str("agent"),
        }
    }
}
