//! The list `credentialHelpers`: programs that say who we are at registries of clouds.

use kuik_crd::credentials::Scope;
use serde::de::{self, Deserialize, Deserializer};

use super::Word;
use crate::words::WordError;

/// The most words of a command.
const WORDS_MAX: usize = 32;

/// The word of the protocol that is added to a command.
const GET: &str = "get";

/// A program that is asked for credentials, by the protocol of docker's credential helpers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialHelper {
    /// Which registries it is for.
    pub scope: Scope,
    /// The program and its arguments, without the protocol's `get`.
    pub command: Vec<String>,
}

/// An entry as it is written.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct HelperEntry {
    #[serde(rename = "match")]
    pattern: HostPattern,
    command: Command,
}

impl From<HelperEntry> for CredentialHelper {
    fn from(HelperEntry { pattern: HostPattern(scope), command: Command(command) }: HelperEntry) -> Self {
        Self { scope, command }
    }
}

#[derive(Debug)]
pub(super) struct HostPattern(Scope);

impl Word for HostPattern {
    const EXPECTED: &'static str = "HOST[:PORT][/PATH], such as *.dkr.ecr.*.example.com, each * within one label of the host";

    fn text(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| WordError::new("a pattern of registries", text, Self::EXPECTED).to_string())
    }
}

#[derive(Debug)]
struct Command(Vec<String>);

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let words = Vec::<String>::deserialize(deserializer)?;
        let wrong = |detail: &str| Err(de::Error::custom(detail));
        match words.as_slice() {
            [] => wrong("empty: expected a program and its arguments, such as [docker-credential-ecr-login]"),
            [program, ..] if program.is_empty() => wrong("the program has no name: expected such as docker-credential-ecr-login"),
            [.., last] if last == GET && words.len() > 1 => wrong("ends with get: expected the command without it, since it is added"),
            words if words.len() > WORDS_MAX => wrong("more than 32 words: expected a program and its arguments"),
            _ => Ok(Self(words)),
        }
    }
}
