//! The file formats of docker's `config.json` and of the older `.dockercfg`, as far as they are about credentials.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::login::{Hidden, Login};
use super::scope::Scope;
use crate::{Registry, RepositoryName};

/// Base64 with or without its padding: both are seen in the field.
pub(super) const BASE64: GeneralPurpose =
    GeneralPurpose::new(&base64::alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// What such a file says, read.
#[derive(Debug, Default)]
pub struct DockerConfig {
    /// The most precise first.
    pub auths: Vec<(Scope, Login)>,
    /// The most precise first.
    pub helpers: Vec<HelperEntry>,
    /// The helper for every host.
    pub store: Option<String>,
    /// Keys that name no registry. What they hold is not used.
    pub ignored: Vec<String>,
    /// Entries that cannot be read. The others can.
    pub malformed: Vec<Malformed>,
}

/// A helper for one host.
#[derive(Debug)]
pub struct HelperEntry {
    /// What it is for.
    pub scope: Scope,
    /// The program is `docker-credential-<name>`.
    pub name: String,
    /// The key as it stands in the file, which is what the helper knows it by.
    pub server: String,
}

/// Why a file, or an entry of it, cannot be read. Never quotes a value: it may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {detail}")]
pub struct Malformed {
    /// Where: `auths["registry.example.com"]`, or `the file`.
    pub key: String,
    /// What is wrong there.
    pub detail: String,
}

impl Malformed {
    fn new(key: &str, detail: impl fmt::Display) -> Self {
        Self { key: key.to_owned(), detail: detail.to_string() }
    }

    fn file(error: &serde_json::Error) -> Self {
        Self::new("the file", Position(error))
    }
}

/// Entries are read one by one, straight from the text.
type Entries<'a> = BTreeMap<String, &'a RawValue>;

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct File<'a> {
    #[serde(default, borrow)]
    auths: Option<Entries<'a>>,
    #[serde(default)]
    cred_helpers: Option<BTreeMap<String, String>>,
    creds_store: Option<String>,
}

impl DockerConfig {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// When it is none. A single entry that cannot be read is in [`DockerConfig::malformed`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, Malformed> {
        let file: File<'_> = serde_json::from_slice(bytes).map_err(|error| Malformed::file(&error))?;
        let mut config = Self::default();
        config.take_auths(file.auths.unwrap_or_default(), "auths");
        for (key, name) in file.cred_helpers.unwrap_or_default() {
            match check_helper(&name) {
                Err(detail) => config.malformed.push(Malformed::new(&format!("credHelpers[{key:?}]"), detail)),
                Ok(()) => match key.parse() {
                    Ok(scope) => config.helpers.push(HelperEntry { scope, name, server: key }),
                    Err(_) => config.ignored.push(key),
                },
            }
        }
        config.helpers.sort_by_key(|helper| std::cmp::Reverse(helper.scope.precision()));
        match file.creds_store.filter(|name| !name.is_empty()) {
            Some(name) => match check_helper(&name) {
                Err(detail) => config.malformed.push(Malformed::new("credsStore", detail)),
                Ok(()) => config.store = Some(name),
            },
            None => config.store = None,
        }
        Ok(config)
    }

    /// Reads a `.dockercfg`, which is what `auths` of a `config.json` is.
    ///
    /// # Errors
    /// When it is none. A single entry that cannot be read is in [`DockerConfig::malformed`].
    pub fn from_dockercfg(bytes: &[u8]) -> Result<Self, Malformed> {
        let entries: Entries<'_> = serde_json::from_slice(bytes).map_err(|error| Malformed::file(&error))?;
        let mut config = Self::default();
        config.take_auths(entries, "");
        Ok(config)
    }

    /// Whether it names nothing to log in with.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.auths.is_empty() && self.helpers.is_empty() && self.store.is_none()
    }

    /// The logins for a repository, the most precise first. Helpers are not among them.
    pub fn logins(&self, registry: &Registry, name: &RepositoryName) -> impl Iterator<Item = &(Scope, Login)> {
        self.auths.iter().filter(move |(scope, _)| scope.covers(registry, name))
    }

    fn take_auths(&mut self, entries: Entries<'_>, section: &str) {
        const EXPECTED: &str = "expected an object with auth, or username and password";
        for (key, entry) in entries {
            let entry = serde_json::from_str::<AuthEntry>(entry.get()).map_err(|_| EXPECTED);
            match (entry.and_then(AuthEntry::read), key.parse()) {
                (Err(detail), _) => self.malformed.push(Malformed::new(&format!("{section}[{key:?}]"), detail)),
                (Ok(_), Err(_)) => self.ignored.push(key),
                (Ok(Some(login)), Ok(scope)) => self.auths.push((scope, login)),
                (Ok(None), Ok(_)) => {}
            }
        }
        self.auths.sort_by_key(|(scope, _)| std::cmp::Reverse(scope.precision()));
    }
}

/// The name becomes part of a program's name.
fn check_helper(name: &str) -> Result<(), &'static str> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if !name.is_empty() && name.bytes().all(fits) { Ok(()) } else { Err("expected the name of a helper: letters, digits, '.', '_', '-'") }
}

#[derive(Deserialize)]
struct AuthEntry {
    auth: Option<Hidden>,
    username: Option<String>,
    password: Option<Hidden>,
    identitytoken: Option<Hidden>,
}

impl AuthEntry {
    /// `None` for an empty entry: `docker login` leaves one where a helper keeps the secret.
    fn read(self) -> Result<Option<Login>, &'static str> {
        let filled = |text: Option<Hidden>| text.map(|Hidden(text)| text).filter(|text| !text.expose_secret().is_empty());
        if let Some(token) = filled(self.identitytoken) {
            return Ok(Some(Login::Identity(token)));
        }
        if let Some(auth) = filled(self.auth) {
            return user_and_password(&auth).map(Some).ok_or("auth: expected base64 of user:password");
        }
        match (self.username.filter(|user| !user.is_empty()), filled(self.password)) {
            (Some(user), Some(password)) => Ok(Some(Login::new(user, password))),
            (None, None) => Ok(None),
            _ => Err("expected both username and password"),
        }
    }
}

fn user_and_password(auth: &SecretString) -> Option<Login> {
    let bytes = Zeroizing::new(BASE64.decode(auth.expose_secret().trim()).ok()?);
    let (user, password) = std::str::from_utf8(&bytes).ok()?.split_once(':')?;
    // Docker pads the password with NUL.
    Some(Login::new(user.to_owned(), password.trim_end_matches('\0').into()))
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// What there is for an image, best first: `user:password`.
    fn found(config: &DockerConfig, image: &str) -> Vec<String> {
        let (host, name) = image.split_once('/').unwrap();
        let text = |login: &Login| match login {
            Login::Password { user, password } => format!("{user}:{}", password.expose_secret()),
            Login::Identity(token) => format!("identity {}", token.expose_secret()),
        };
        config.logins(&host.parse().unwrap(), &name.parse().unwrap()).map(|(_, login)| text(login)).collect()
    }

    fn of(content: &Value) -> DockerConfig {
        DockerConfig::from_json(content.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn the_most_precise_entry_comes_first() {
        let entry = |user: &str| json!({ "username": user, "password": "p" });
        let config = of(&json!({ "auths": {
            "*.b": entry("any"),
            "a.b": entry("host"),
            "https://a.b/v1/team": entry("team"),
            "*.b/team": entry("any-team"),
            "a.b/other": entry("other"),
            "a.b:5000": entry("port"),
        }}));
        assert_eq!(found(&config, "a.b/team/app"), ["team:p", "any-team:p", "host:p", "any:p"]);
        assert_eq!(found(&config, "c.b/x"), ["any:p"]);
        assert_eq!(found(&config, "c.d/x"), [""; 0]);
    }

    #[test]
    fn a_dockercfg_is_the_auths_alone() {
        let old = json!({ "https://a.b/v1/": { "auth": "dXNlcjpwYXNz", "email": "x@y" }, "c.d": { "username": "u", "password": "p" } });
        let config = DockerConfig::from_dockercfg(old.to_string().as_bytes()).unwrap();
        assert_eq!(found(&config, "a.b/x"), ["user:pass"]);
        assert_eq!(found(&config, "c.d/x"), ["u:p"]);
        let new = json!({ "auths": old });
        let read = DockerConfig::from_dockercfg(new.to_string().as_bytes()).unwrap();
        assert!(read.is_empty(), "the new form is not the old one: {read:?}");
    }

    #[test]
    fn an_entry_that_cannot_be_read_leaves_the_others() {
        let config = of(&json!({
            "auths": { "a.b": { "auth": "hunter2!" }, "c.d": { "username": "u", "password": "p" }, "none": { "auth": "dTpw" } },
            "credHelpers": { "e.f": "../x", "g.h": "good" },
        }));
        assert_eq!(found(&config, "c.d/x"), ["u:p"]);
        assert_eq!(config.helpers.iter().map(|helper| helper.name.as_str()).collect::<Vec<_>>(), ["good"]);
        let said: Vec<String> = config.malformed.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "auths[\"a.b\"]: auth: expected base64 of user:password",
                "credHelpers[\"e.f\"]: expected the name of a helper: letters, digits, '.', '_', '-'",
            ]
        );
        assert_eq!(config.ignored, ["none"]);
        assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
    }

    #[test]
    fn what_is_no_file_is_told_without_its_content() {
        for text in
            ["", "{", "hunter2", "\"hunter2\"", "{\"auths\":\"hunter2\"}", "{\"auths\":{\"a.b\":hunter2}}", "{\"a.b\":{\"auth\":\"hunter2"]
        {
            for read in [DockerConfig::from_json, DockerConfig::from_dockercfg] {
                match read(text.as_bytes()) {
                    Err(error) => assert!(error.to_string().starts_with("the file: ") && !error.to_string().contains("hunter2"), "{error}"),
                    Ok(config) => assert!(config.is_empty() && !format!("{config:?}").contains("hunter2"), "{text}: {config:?}"),
                }
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_read_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64), key in any::<String>(), auth in any::<String>()) {
            let _ = (DockerConfig::from_json(&bytes), DockerConfig::from_dockercfg(&bytes));
            let entries = json!({ &key: { "auth": auth, "username": key } });
            let _ = DockerConfig::from_dockercfg(entries.to_string().as_bytes());
            let _ = of(&json!({ "auths": entries, "credHelpers": { &key: auth }, "credsStore": key }));
        }

        #[test]
        fn each_login_comes_back(user in "[^:\0]{1,12}", password in "[^\0]{1,12}") {
            prop_assume!(user != "<token>");
            let auth = BASE64.encode(format!("{user}:{password}"));
            let config = of(&json!({ "auths": { "a.b": { "auth": auth }, "c.d": { "username": user, "password": password } } }));
            let want = format!("{user}:{password}");
            prop_assert_eq!(found(&config, "a.b/x"), [want.clone()]);
            prop_assert_eq!(found(&config, "c.d/x"), [want]);
        }
    }
}
