//! The section `auth`: whether namespaces show who they are, and how long what they show is good for.

use std::time::Duration;

use super::{DAY_SECONDS, Word};
use crate::words::{Span, WordError};

/// The shortest life of a token: it is renewed after half of it, and has to reach the kubelets before the end.
const TOKEN_LIFETIME_MIN: Duration = Duration::from_secs(60);

/// Who may have a cached private image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AuthMode {
    /// A namespace that has proven its right: pods show the token of their namespace.
    #[default]
    Namespace,
    /// Everybody, as with kuik v1: there are no tokens.
    None,
}

/// How namespaces show who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Auth {
    /// Who may have a cached private image.
    pub mode: AuthMode,
    /// How long a namespace's token is good for.
    pub token_lifetime: Duration,
    /// How long a key signs tokens.
    pub key_lifetime: Duration,
}

impl Default for Auth {
    fn default() -> Self {
        let days = |days| Duration::from_secs(days * DAY_SECONDS);
        Self { mode: AuthMode::default(), token_lifetime: days(7), key_lifetime: days(30) }
    }
}

/// The section as it is written. A key without a value is as good as none.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct AuthSection {
    mode: Option<Mode>,
    token_lifetime: Option<TokenLifetime>,
    key_lifetime: Option<Life>,
}

impl AuthSection {
    /// What it says; or the key from the root that is wrong, and why.
    pub(super) fn settings(self) -> Result<Auth, (&'static str, String)> {
        let (Self { mode, token_lifetime, key_lifetime }, defaults) = (self, Auth::default());
        let auth = Auth {
            mode: mode.map_or(defaults.mode, |Mode(mode)| mode),
            token_lifetime: token_lifetime.map_or(defaults.token_lifetime, |TokenLifetime(life)| life),
            key_lifetime: key_lifetime.map_or(defaults.key_lifetime, |Life(life)| life),
        };
        // A key is known to agents for a third of its life before it signs, and until its last token has expired.
        if auth.key_lifetime < 2 * auth.token_lifetime {
            let [key, token] = [auth.key_lifetime, auth.token_lifetime].map(|life| life.as_secs());
            let message = format!("{key} s: expected at least twice auth.tokenLifetime, which is {token} s");
            return Err(("auth.keyLifetime", message));
        }
        Ok(auth)
    }
}

#[derive(Debug)]
pub(super) struct Mode(AuthMode);

impl Word for Mode {
    const EXPECTED: &'static str = "namespace or none";

    fn text(text: &str) -> Result<Self, String> {
        match text {
            "namespace" => Ok(Self(AuthMode::Namespace)),
            "none" => Ok(Self(AuthMode::None)),
            _ => Err(WordError::new("a mode", text, Self::EXPECTED).to_string()),
        }
    }
}

#[derive(Debug)]
pub(super) struct TokenLifetime(Duration);

impl Word for TokenLifetime {
    const EXPECTED: &'static str = "a duration of at least 1m, such as 12h or 7d";

    fn text(text: &str) -> Result<Self, String> {
        let life = text.parse().ok().filter(|Span(life)| *life >= TOKEN_LIFETIME_MIN);
        life.map(|Span(life)| Self(life)).ok_or_else(|| WordError::new("the lifetime of a token", text, Self::EXPECTED).to_string())
    }
}

#[derive(Debug)]
pub(super) struct Life(Duration);

impl Word for Life {
    const EXPECTED: &'static str = "a duration of at least twice auth.tokenLifetime, such as 30d";

    fn text(text: &str) -> Result<Self, String> {
        let refused = |_| WordError::new("the lifetime of a key", text, Self::EXPECTED).to_string();
        text.parse().map(|Span(life)| Self(life)).map_err(refused)
    }
}
