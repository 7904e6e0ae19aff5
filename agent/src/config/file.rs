//! The configuration file as it is written: YAML, camelCase, no key that is not known.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_path_to_error::Segment;
use serde_saphyr::{DefaultMessageFormatter, Error, MessageFormatter as _};

use super::amount::{Amount, Watermark};
use super::error::{ConfigError, Place};
use super::scalar::{Address, Count, FilePath, Host, Span, Text, Timeout};
use super::{AuthMode, Endpoint, OnUpstreamDown, Scope};

/// The whole file. What is absent is left to flags and defaults.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct File {
    #[serde(deserialize_with = "or_default")]
    pub(super) listen: Vec<Text<Address>>,
    pub(super) admin_listen: Option<Text<Address>>,
    pub(super) data_dir: Option<Text<FilePath>>,
    pub(super) drain_timeout: Option<Text<Span>>,
    pub(super) registry_auth: Option<Text<FilePath>>,
    #[serde(deserialize_with = "or_default")]
    pub(super) plain_http: Vec<Text<Host>>,
    #[serde(deserialize_with = "or_default")]
    pub(super) registries: BTreeMap<String, Option<RegistryFile>>,
    #[serde(deserialize_with = "or_default")]
    pub(super) tags: TagsFile,
    #[serde(deserialize_with = "or_default")]
    pub(super) limits: LimitsFile,
    #[serde(deserialize_with = "or_default")]
    pub(super) upstream: UpstreamFile,
    #[serde(deserialize_with = "or_default")]
    pub(super) cache: CacheFile,
    #[serde(deserialize_with = "or_default")]
    pub(super) auth: AuthFile,
}

/// `registries.<host>`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RegistryFile {
    #[serde(deserialize_with = "or_default")]
    pub(super) endpoints: Vec<Text<Endpoint>>,
    pub(super) plain_http: Option<bool>,
    pub(super) ca: Option<Text<FilePath>>,
    pub(super) insecure_skip_verify: bool,
    #[serde(deserialize_with = "or_default")]
    pub(super) limits: RegistryLimitsFile,
}

/// `registries.<host>.limits`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RegistryLimitsFile {
    pub(super) max_connections: Option<Count>,
}

/// `tags`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct TagsFile {
    pub(super) fresh_for: Option<Text<Span>>,
    pub(super) revalidate_timeout: Option<Text<Timeout>>,
}

/// `limits`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct LimitsFile {
    pub(super) max_connections: Option<Count>,
    pub(super) header_timeout: Option<Text<Timeout>>,
    pub(super) write_timeout: Option<Text<Timeout>>,
}

/// `upstream`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct UpstreamFile {
    pub(super) stall_timeout: Option<Text<Timeout>>,
    pub(super) connect_timeout: Option<Text<Timeout>>,
    pub(super) max_concurrent_fills: Option<Count>,
    pub(super) fill_queue_timeout: Option<Text<Span>>,
    pub(super) max_attempts: Option<Count>,
    pub(super) max_connections_per_registry: Option<Count>,
}

/// `cache`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct CacheFile {
    pub(super) max_size: Option<Amount>,
    pub(super) high_watermark: Option<Watermark>,
    pub(super) low_watermark: Option<Watermark>,
    pub(super) min_free: Option<Amount>,
    pub(super) scope: Option<Scope>,
    pub(super) orphan_grace: Option<Text<Span>>,
    pub(super) scrub: Option<ScrubFile>,
}

/// `auth`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct AuthFile {
    pub(super) mode: Option<AuthMode>,
    #[serde(rename = "proofTTL")]
    pub(super) proof_ttl: Option<Text<Timeout>>,
    pub(super) on_upstream_down: Option<OnUpstreamDown>,
    pub(super) share_registry_auth: Option<bool>,
}

/// `cache.scrub`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ScrubFile {
    pub(super) interval: Option<Text<Span>>,
    pub(super) rate: Option<Amount>,
}

impl File {
    /// Reads and parses `path`.
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// Parses the text of `path`. A file without any key is fine.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let options = || serde_saphyr::options! { with_snippet: false, strict_booleans: true };
        // Once for the syntax alone: of two mistakes that one comes first, whatever the keys before it hold.
        serde_saphyr::from_str_with_options::<IgnoredAny>(text, options()).map_err(|error| explain(path, String::new(), &error))?;
        let mut key = String::new();
        let parsed = serde_saphyr::with_deserializer_from_str_with_options(text, options(), |deserializer| {
            serde_path_to_error::deserialize(deserializer).map_err(|error| {
                key = spell(error.path().iter());
                error.into_inner()
            })
        });
        parsed.map(Option::unwrap_or_default).map_err(|error| explain(path, key, &error))
    }
}

/// A key without a value is as good as none.
fn or_default<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Keys as they are written in messages: `registries."docker.io".endpoints[1]`.
fn spell<'a>(path: impl Iterator<Item = &'a Segment>) -> String {
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => text.push_str(&format!("[{index}]")),
            Segment::Map { key } | Segment::Enum { variant: key } => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(&spell_key(key));
            }
            Segment::Unknown => text.push('?'),
        }
    }
    text
}

/// One key, quoted where it would not read as one.
pub(super) fn spell_key(key: &str) -> String {
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if plain { key.to_owned() } else { format!("{key:?}") }
}

fn explain(path: &Path, key: String, error: &Error) -> ConfigError {
    let message = match error {
        Error::SerdeUnknownField { expected, .. } => format!("unknown key: expected one of {}", expected.join(", ")),
        Error::SerdeUnknownVariant { expected, .. } => format!("expected one of {}", expected.join(", ")),
        Error::DuplicateMappingKey { key: Some(key), .. } => format!("the key {key} is there twice: expected it once"),
        Error::MultipleDocuments { .. } => "a second document begins: expected one only".to_owned(),
        Error::InvalidBooleanStrict { .. } => "expected true or false".to_owned(),
        Error::Unexpected { expected: "mapping start", .. } => "expected keys and their values".to_owned(),
        Error::Unexpected { expected: "sequence start", .. } => "expected a list".to_owned(),
        _ => DefaultMessageFormatter.format_message(error).into_owned(),
    };
    if key.is_empty() {
        let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
        ConfigError::Syntax { path: path.to_owned(), line, column, message }
    } else {
        Place::key(path, key).refuse(message)
    }
}
