//! The file format of docker's `config.json`, as far as it is about credentials.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use secrecy::SecretString;
use serde::Deserialize;
use tracing::warn;

use super::credentials::Credential;
use super::error::UpstreamSetupError;
use crate::oci::{Registry, RepositoryName};

/// Larger than any list of logins.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Base64 with or without its padding: both are seen in the field.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&base64::alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// What the file says, read.
#[derive(Debug, Default)]
pub(super) struct DockerConfig {
    /// The longest paths first.
    pub(super) auths: Vec<(Scope, Credential)>,
    /// The longest paths first.
    pub(super) helpers: Vec<HelperEntry>,
    /// The helper for every host.
    pub(super) store: Option<String>,
}

impl DockerConfig {
    pub(super) fn is_empty(&self) -> bool {
        self.auths.is_empty() && self.helpers.is_empty() && self.store.is_none()
    }
}

/// A helper for one host.
#[derive(Debug)]
pub(super) struct HelperEntry {
    pub(super) scope: Scope,
    /// The program is `docker-credential-<name>`.
    pub(super) name: String,
    /// The key as it stands in the file, which is what the helper knows it by.
    pub(super) server: String,
}

/// What an entry is for: a host, and perhaps only the repositories below a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scope {
    host: Registry,
    path: String,
}

impl Scope {
    /// What must be covered to pull `name` from `host`.
    pub(super) fn of(host: &Registry, name: &RepositoryName) -> Self {
        Self { host: host.clone(), path: name.to_string() }
    }

    /// Reads a key: `host`, `host:port`, `host/path`, `https://host/v1/`. `None` if it names no registry.
    fn parse(key: &str) -> Option<Self> {
        let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.trim_end_matches('/');
        // What clients of old wrote: the version of the API and not a repository.
        let path = match path.split_once('/').unwrap_or((path, "")) {
            ("v1" | "v2", rest) => rest,
            _ => path,
        };
        Some(Self { host: host.parse().ok()?, path: path.to_owned() })
    }

    /// Whether `wanted` is at this host and below this path.
    pub(super) fn covers(&self, wanted: &Self) -> bool {
        let below = wanted
            .path
            .strip_prefix(self.path.as_str())
            .is_some_and(|rest| self.path.is_empty() || rest.is_empty() || rest.starts_with('/'));
        below && self.host.host() == wanted.host.host() && port(&self.host) == port(&wanted.host)
    }
}

fn port(registry: &Registry) -> u16 {
    registry.port().unwrap_or(443)
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    auths: Option<BTreeMap<String, serde_json::Value>>,
    #[serde(default)]
    cred_helpers: Option<BTreeMap<String, String>>,
    creds_store: Option<String>,
}

#[derive(Deserialize)]
struct AuthEntry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// Reads the file.
pub(super) fn read(path: &Path) -> Result<DockerConfig, UpstreamSetupError> {
    let unreadable = |source| UpstreamSetupError::Read { what: "the registry credentials", path: path.to_owned(), source };
    let mut bytes = Vec::new();
    std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(wrong(path)("the file", format!("expected at most {FILE_BYTES_MAX} bytes")));
    }
    parse(path, &bytes)
}

fn wrong(path: &Path) -> impl Fn(&str, String) -> UpstreamSetupError + '_ {
    |key, detail| UpstreamSetupError::Auth { path: path.to_owned(), key: key.to_owned(), detail }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<DockerConfig, UpstreamSetupError> {
    let wrong = wrong(path);
    let file: File = serde_json::from_slice(bytes).map_err(|error| wrong("the file", Position(&error).to_string()))?;
    let mut config = DockerConfig::default();
    for (key, entry) in file.auths.unwrap_or_default() {
        let read = |entry| {
            AuthEntry::deserialize(entry).map_err(|_| "expected an object with auth, or username and password").and_then(AuthEntry::read)
        };
        let credential = read(entry).map_err(|detail| wrong(&format!("auths[{key:?}]"), detail.to_owned()))?;
        if let (Some(scope), Some(credential)) = (scope(path, &key), credential) {
            config.auths.push((scope, credential));
        }
    }
    for (key, name) in file.cred_helpers.unwrap_or_default() {
        check_helper(&name).map_err(|detail| wrong(&format!("credHelpers[{key:?}]"), detail.to_owned()))?;
        if let Some(scope) = scope(path, &key) {
            config.helpers.push(HelperEntry { scope, name, server: key });
        }
    }
    config.store = file.creds_store.filter(|name| !name.is_empty());
    if let Some(name) = &config.store {
        check_helper(name).map_err(|detail| wrong("credsStore", detail.to_owned()))?;
    }
    config.auths.sort_by_key(|(scope, _)| std::cmp::Reverse(scope.path.len()));
    config.helpers.sort_by_key(|helper| std::cmp::Reverse(helper.scope.path.len()));
    Ok(config)
}

fn scope(path: &Path, key: &str) -> Option<Scope> {
    let scope = Scope::parse(key);
    if scope.is_none() {
        warn!("{}: the key {key:?} names no registry and is ignored", path.display());
    }
    scope
}

/// The name becomes part of a program's name.
fn check_helper(name: &str) -> Result<(), &'static str> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if !name.is_empty() && name.bytes().all(fits) { Ok(()) } else { Err("expected the name of a helper: letters, digits, '.', '_', '-'") }
}

impl AuthEntry {
    /// `None` for an empty entry: `docker login` leaves one where a helper keeps the secret.
    fn read(self) -> Result<Option<Credential>, &'static str> {
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        if let Some(token) = filled(self.identitytoken) {
            return Ok(Some(Credential::identity(token.into())));
        }
        if let Some(auth) = filled(self.auth) {
            const EXPECTED: &str = "auth: expected base64 of user:password";
            let text = BASE64.decode(auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or(EXPECTED)?;
            let (user, password) = text.split_once(':').ok_or(EXPECTED)?;
            // Docker pads the password with NUL.
            return Ok(Some(basic(user, password.trim_end_matches('\0'))));
        }
        match (filled(self.username), filled(self.password)) {
            (Some(user), Some(password)) => Ok(Some(basic(&user, &password))),
            (None, None) => Ok(None),
            _ => Err("expected both username and password"),
        }
    }
}

/// Docker's convention for a token in the place of a password.
pub(super) const TOKEN_USER: &str = "<token>";

/// A credential from a user and a password, the user [`TOKEN_USER`] included.
pub(super) fn basic(user: &str, password: &str) -> Credential {
    let password = SecretString::from(password);
    if user == TOKEN_USER { Credential::identity(password) } else { Credential::basic(user.to_owned(), password) }
}

/// Where the JSON is wrong. The parser's own text may quote the value, and the value may be a secret.
struct Position<'a>(&'a serde_json::Error);

impl fmt::Display for Position<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.0.classify() {
            serde_json::error::Category::Data => "a value of another kind than docker's config.json has",
            _ => "no JSON",
        };
        write!(f, "{what} at line {} column {}", self.0.line(), self.0.column())
    }
}
