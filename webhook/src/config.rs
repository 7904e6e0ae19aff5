//! The validated configuration file: YAML, camelCase, no key that is not known.

mod auth;
mod helpers;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kuik_crd::Registry;
use regex::Regex;
use serde::de::{self, Deserialize, Deserializer, IgnoredAny, Visitor};
use serde_path_to_error::Segment;
use serde_saphyr::{DefaultMessageFormatter, Error, MessageFormatter as _};

pub use self::auth::{Auth, AuthMode};
use self::auth::{AuthSection, Life, Mode, TokenLifetime};
pub use self::helpers::CredentialHelper;
use self::helpers::{HelperEntry, HostPattern};
use crate::words::{Span, WordError};

/// What the release's values say, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What rewritten references begin with, such as `localhost:7439`.
    pub agent_address: String,
    /// Images that are left alone, by their reference as written or normalised.
    pub ignored_images: Vec<Regex>,
    /// When not empty, only these are rewritten.
    pub accepted_images: Vec<Regex>,
    /// Leave images alone that are pulled anew each time: kuik v1's rule.
    pub ignore_pull_policy_always: bool,
    /// Agents pull with credentials of their own, so that pods with pull secrets can be rewritten.
    pub agents_have_credentials: bool,
    /// Namespaces whose pods are left alone, as the webhook configuration says; `kube-system` and our own are so, too, if they are not here.
    pub ignored_namespaces: Vec<String>,
    /// How namespaces show who they are.
    pub auth: Auth,
    /// Who says who we are at registries of clouds, for all namespaces alike.
    pub credential_helpers: Vec<CredentialHelper>,
    /// A `CachedImage` that nothing uses goes after this.
    pub expiry_delay: Duration,
    /// Nodes that keep a copy of what was made by hand or is retained.
    pub copies: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            agent_address: "localhost:7439".to_owned(),
            ignored_images: Vec::new(),
            accepted_images: Vec::new(),
            ignore_pull_policy_always: false,
            agents_have_credentials: false,
            ignored_namespaces: Vec::new(),
            auth: Auth::default(),
            credential_helpers: Vec::new(),
            expiry_delay: Duration::from_secs(30 * DAY_SECONDS),
            copies: 2,
        }
    }
}

/// Why the webhook does not start with this configuration.
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
    #[error("{}: {key}: {message}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The keys from the root: `ignoredImages[1]`.
        key: String,
        /// What is wrong, and what was expected.
        message: String,
    },
}

impl Settings {
    /// The settings of the file, or the defaults where there is none.
    ///
    /// # Errors
    /// When the file cannot be read, or a value is not one.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(path) = path else {
            return Ok(Self::default());
        };
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// The settings in the text of `path`. A file without any key is fine.
    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let File {
            agent_address,
            ignored_images,
            accepted_images,
            ignore_pull_policy_always,
            agents_have_credentials,
            ignored_namespaces,
            auth,
            credential_helpers,
            cached_images_expiry_delay,
            copies,
        } = read(path, text)?;
        let defaults = Self::default();
        let auth = auth.unwrap_or_default().settings();
        let auth = auth.map_err(|(key, message)| ConfigError::Value { path: path.to_owned(), key: key.to_owned(), message })?;
        let patterns = |patterns: Option<Vec<Pattern>>| patterns.unwrap_or_default().into_iter().map(|Pattern(regex)| regex).collect();
        Ok(Self {
            agent_address: agent_address.map_or(defaults.agent_address, |AgentAddress(address)| address),
            ignored_images: patterns(ignored_images),
            accepted_images: patterns(accepted_images),
            ignore_pull_policy_always: ignore_pull_policy_always.unwrap_or(defaults.ignore_pull_policy_always),
            agents_have_credentials: agents_have_credentials.unwrap_or(defaults.agents_have_credentials),
            ignored_namespaces: ignored_namespaces.unwrap_or_default(),
            auth,
            credential_helpers: credential_helpers.unwrap_or_default().into_iter().map(CredentialHelper::from).collect(),
            expiry_delay: cached_images_expiry_delay.map_or(defaults.expiry_delay, |Delay(delay)| delay),
            copies: copies.map_or(defaults.copies, |Copies(copies)| copies),
        })
    }
}

/// The file as it is written. A key without a value is as good as none.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct File {
    agent_address: Option<AgentAddress>,
    ignored_images: Option<Vec<Pattern>>,
    accepted_images: Option<Vec<Pattern>>,
    ignore_pull_policy_always: Option<bool>,
    agents_have_credentials: Option<bool>,
    ignored_namespaces: Option<Vec<String>>,
    auth: Option<AuthSection>,
    credential_helpers: Option<Vec<HelperEntry>>,
    cached_images_expiry_delay: Option<Delay>,
    copies: Option<Copies>,
}

fn read(path: &Path, text: &str) -> Result<File, ConfigError> {
    let options = || serde_saphyr::options! { with_snippet: false, strict_booleans: true };
    // Once for the syntax alone: of two mistakes that one comes first, whatever the keys before it hold.
    serde_saphyr::from_str_with_options::<IgnoredAny>(text, options()).map_err(|error| explain(path, String::new(), &error))?;
    let mut key = String::new();
    let parsed = serde_saphyr::with_deserializer_from_str_with_options(text, options(), |deserializer| {
        serde_path_to_error::deserialize::<_, Option<File>>(deserializer).map_err(|error| {
            key = spell(error.path().iter());
            error.into_inner()
        })
    });
    parsed.map(Option::unwrap_or_default).map_err(|error| explain(path, key, &error))
}

/// Keys as they are written in messages: `ignoredImages[1]`, `auth.mode`.
fn spell<'a>(path: impl Iterator<Item = &'a Segment>) -> String {
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => text.push_str(&format!("[{index}]")),
            Segment::Map { key } | Segment::Enum { variant: key } => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(key);
            }
            Segment::Unknown => text.push('?'),
        }
    }
    text
}

fn explain(path: &Path, key: String, error: &Error) -> ConfigError {
    let path = path.to_owned();
    let message = match error {
        Error::SerdeUnknownField { expected, .. } => format!("unknown key: expected one of {}", expected.join(", ")),
        Error::DuplicateMappingKey { key: Some(key), .. } => format!("the key {key} is there twice: expected it once"),
        Error::MultipleDocuments { .. } => "a second document begins: expected one only".to_owned(),
        Error::InvalidBooleanStrict { .. } => "expected true or false".to_owned(),
        Error::Unexpected { expected: "mapping start", .. } => "expected keys and their values".to_owned(),
        Error::Unexpected { expected: "sequence start", .. } => "expected a list".to_owned(),
        _ => DefaultMessageFormatter.format_message(error).into_owned(),
    };
    if key.is_empty() {
        let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
        ConfigError::Syntax { path, line, column, message }
    } else {
        ConfigError::Value { path, key, message }
    }
}

const DAY_SECONDS: u64 = 86_400;

/// The longest delay that is taken, in days; as of any duration.
const DAYS_MAX: u64 = 3650;

/// The most copies that may be asked for.
const COPIES_MAX: u64 = 10;

/// A value that is text, or a number where it can be one.
trait Word: Sized {
    const EXPECTED: &'static str;

    fn text(text: &str) -> Result<Self, String>;

    fn number(_number: u64) -> Option<Self> {
        None
    }
}

/// Reads a [`Word`]; booleans and the like are none.
struct WordVisitor<T>(std::marker::PhantomData<T>);

impl<T: Word> Visitor<'_> for WordVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        T::text(text).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        T::number(number).ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        let taken = u64::try_from(number).ok().and_then(T::number);
        taken.ok_or_else(|| E::invalid_value(de::Unexpected::Signed(number), &self))
    }
}

macro_rules! words {
    ($($word:ident),*) => {$(
        impl<'de> Deserialize<'de> for $word {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(WordVisitor(std::marker::PhantomData))
            }
        }
    )*};
}

words!(AgentAddress, Pattern, Delay, Copies, Mode, TokenLifetime, Life, HostPattern);

#[derive(Debug)]
struct AgentAddress(String);

impl Word for AgentAddress {
    const EXPECTED: &'static str = "HOST:PORT, such as localhost:7439";

    fn text(text: &str) -> Result<Self, String> {
        match text.parse::<Registry>() {
            Ok(registry) if registry.port().is_some() => Ok(Self(registry.to_string())),
            _ => Err(WordError::new("an agent's address", text, Self::EXPECTED).to_string()),
        }
    }
}

#[derive(Debug)]
struct Pattern(Regex);

impl Word for Pattern {
    const EXPECTED: &'static str = "a regular expression, such as ^docker\\.io/library/";

    fn text(text: &str) -> Result<Self, String> {
        Regex::new(text).map(Self).map_err(|error| {
            // The library draws a picture over several lines; the last one says it.
            let said = error.to_string();
            let reason = said.lines().last().unwrap_or_default().trim_start_matches("error: ");
            format!("{}: {reason}", WordError::new("a regular expression", text, Self::EXPECTED))
        })
    }
}

#[derive(Debug)]
struct Delay(Duration);

impl Word for Delay {
    const EXPECTED: &'static str = "a whole number of days up to 3650, or a duration such as 90s, 12h or 30d";

    fn text(text: &str) -> Result<Self, String> {
        let refused = |_| WordError::new("a delay", text, Self::EXPECTED).to_string();
        text.parse().map(|Span(delay)| Self(delay)).map_err(refused)
    }

    fn number(days: u64) -> Option<Self> {
        (days <= DAYS_MAX).then(|| Self(Duration::from_secs(days * DAY_SECONDS)))
    }
}

#[derive(Debug)]
struct Copies(usize);

impl Word for Copies {
    const EXPECTED: &'static str = "a whole number from 1 to 10";

    fn text(text: &str) -> Result<Self, String> {
        Err(WordError::new("a number of copies", text, Self::EXPECTED).to_string())
    }

    fn number(number: u64) -> Option<Self> {
        (1..=COPIES_MAX).contains(&number).then(|| usize::try_from(number).ok().map(Self))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, String> {
        Settings::parse(Path::new("webhook.yaml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn what_the_chart_writes_is_read() {
        let settings = parse(
            "agentAddress: localhost:7440\nignoredImages: [\"^quay\\\\.io/\", \"test\"]\nacceptedImages: []\n\
             ignorePullPolicyAlways: true\nagentsHaveCredentials: true\ncachedImagesExpiryDelay: 7\ncopies: 3\n\
             ignoredNamespaces: [\"kube-system\", \"2024\"]\nauth: {mode: none, tokenLifetime: 1h, keyLifetime: 2h}\n\
             credentialHelpers: [{match: \"*.example.com\", command: [docker-credential-x, --quiet]}]\n",
        );
        let Settings {
            agent_address,
            ignored_images,
            accepted_images,
            ignore_pull_policy_always,
            agents_have_credentials,
            ignored_namespaces,
            auth,
            credential_helpers,
            expiry_delay,
            copies,
        } = settings.unwrap();
        assert_eq!(agent_address, "localhost:7440");
        assert_eq!(ignored_images.iter().map(Regex::as_str).collect::<Vec<_>>(), ["^quay\\.io/", "test"]);
        assert!(accepted_images.is_empty() && ignore_pull_policy_always && agents_have_credentials);
        assert_eq!(ignored_namespaces, ["kube-system", "2024"]);
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        assert_eq!(auth, Auth { mode: AuthMode::None, token_lifetime: hours(1), key_lifetime: hours(2) });
        let command = ["docker-credential-x", "--quiet"].map(str::to_owned).to_vec();
        assert_eq!(credential_helpers, [CredentialHelper { scope: "*.example.com".parse().unwrap(), command }]);
        assert_eq!((expiry_delay, copies), (Duration::from_secs(7 * DAY_SECONDS), 3));
    }

    #[test]
    fn an_empty_file_and_empty_keys_are_the_defaults() {
        let defaults = format!("{:?}", Settings::default());
        for text in
            ["", "{}", "# nothing\n", "auth:\n", "auth:\n  mode:\n", "ignoredImages:\ncopies:\nagentAddress:\ncachedImagesExpiryDelay:\n"]
        {
            assert_eq!(format!("{:?}", parse(text).unwrap()), defaults, "{text}");
        }
        assert_eq!(format!("{:?}", Settings::load(None).unwrap()), defaults);
    }

    #[test]
    fn a_delay_is_a_number_of_days_or_a_duration() {
        let check = |text: &str, seconds| {
            assert_eq!(parse(&format!("cachedImagesExpiryDelay: {text}")).unwrap().expiry_delay, Duration::from_secs(seconds), "{text}");
        };
        check("30", 30 * DAY_SECONDS);
        check("0", 0);
        check("3650", 3650 * DAY_SECONDS);
        check("90s", 90);
        check("12h", 43_200);
        check("\"30d\"", 30 * DAY_SECONDS);
    }

    #[test]
    fn a_wrong_value_is_named_with_file_key_and_expectation() {
        let check = |text: &str, expected: &str| assert_eq!(parse(text).unwrap_err(), format!("webhook.yaml: {expected}"), "{text}");
        check(
            "copys: 1",
            "copys: unknown key: expected one of agentAddress, ignoredImages, acceptedImages, ignorePullPolicyAlways, agentsHaveCredentials, \
             ignoredNamespaces, auth, credentialHelpers, cachedImagesExpiryDelay, copies",
        );
        check(
            "ignoredImages: [ok, \"(\"]",
            "ignoredImages[1]: not a regular expression: \"(\": expected a regular expression, such as ^docker\\.io/library/: unclosed group",
        );
        check("acceptedImages: all", "acceptedImages: expected a list");
        let delay = "a whole number of days up to 3650, or a duration such as 90s, 12h or 30d";
        check("cachedImagesExpiryDelay: soon", &format!("cachedImagesExpiryDelay: not a delay: \"soon\": expected {delay}"));
        check("cachedImagesExpiryDelay: 3651", &format!("cachedImagesExpiryDelay: invalid value: integer `3651`, expected {delay}"));
        check("cachedImagesExpiryDelay: -1", &format!("cachedImagesExpiryDelay: invalid value: integer `-1`, expected {delay}"));
        check("copies: 0", "copies: invalid value: integer `0`, expected a whole number from 1 to 10");
        check("copies: 11", "copies: invalid value: integer `11`, expected a whole number from 1 to 10");
        check("copies: many", "copies: not a number of copies: \"many\": expected a whole number from 1 to 10");
        check("ignorePullPolicyAlways: yes", "ignorePullPolicyAlways: expected true or false");
        check("auth: {mode: all}", "auth.mode: not a mode: \"all\": expected namespace or none");
        check("auth: {mod: none}", "auth.mod: unknown key: expected one of mode, tokenLifetime, keyLifetime");
        check(
            "auth: {tokenLifetime: 59s}",
            "auth.tokenLifetime: not the lifetime of a token: \"59s\": expected a duration of at least 1m, such as 12h or 7d",
        );
        check(
            "auth: {tokenLifetime: 1h, keyLifetime: 119m}",
            "auth.keyLifetime: 7140 s: expected at least twice auth.tokenLifetime, which is 3600 s",
        );
        check("auth: {tokenLifetime: 16d}", "auth.keyLifetime: 2592000 s: expected at least twice auth.tokenLifetime, which is 1382400 s");
        let helper =
            |entry: &str, expected: &str| check(&format!("credentialHelpers: [{entry}]"), &format!("credentialHelpers[0]{expected}"));
        helper(
            "{match: \"a.b:*\", command: [x]}",
            ".match: not a pattern of registries: \"a.b:*\": expected HOST[:PORT][/PATH], such as *.dkr.ecr.*.example.com, each * within one \
             label of the host",
        );
        helper("{match: a.b, command: []}", ".command: empty: expected a program and its arguments, such as [docker-credential-ecr-login]");
        helper("{match: a.b, command: [\"\"]}", ".command: the program has no name: expected such as docker-credential-ecr-login");
        helper("{match: a.b, command: [x, get]}", ".command: ends with get: expected the command without it, since it is added");
        helper("{match: a.b, command: x}", ".command: expected a list");
        helper("{match: a.b, command: [x], env: y}", ".env: unknown key: expected one of match, command");
        for address in ["localhost", "localhost:", "http://localhost:7439", "7439", "localhost:7439/x"] {
            let said = parse(&format!("agentAddress: {address:?}")).unwrap_err();
            assert_eq!(
                said,
                format!("webhook.yaml: agentAddress: not an agent's address: {address:?}: expected HOST:PORT, such as localhost:7439")
            );
        }
    }

    #[test]
    fn a_file_that_is_no_yaml_is_named_with_the_place() {
        for text in ["copies: [1", "copies: 1\ncopies: 2\n", "a: 1\n---\nb: 2\n", "- copies"] {
            let said = parse(text).unwrap_err();
            assert!(said.starts_with("webhook.yaml:") && !said.starts_with("webhook.yaml: ") && !said.contains('\n'), "{text}: {said}");
        }
    }
}
