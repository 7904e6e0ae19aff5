//! What is in a Secret: the logins for a repository, or why there are none. Pure.

use k8s_openapi::ByteString;
use kuik_crd::Repository;
use kuik_crd::credentials::{DockerConfig, Login, Malformed, Precision};
use secrecy::zeroize::Zeroizing;
use serde::Deserialize;

/// The type of a Secret with docker's `config.json`.
const CONFIG_TYPE: &str = "kubernetes.io/dockerconfigjson";

/// The type of a Secret with the older `.dockercfg`.
const OLD_TYPE: &str = "kubernetes.io/dockercfg";

/// Malformed entries of one Secret that are told.
const MALFORMED_MAX: usize = 3;

/// What is repeated of somebody else's words.
const WORD_CHARS_MAX: usize = 80;

/// A Secret, as far as it is about pulling. Helpers that it may name are not run: whoever may write a Secret may not choose our programs.
pub(super) struct PullSecret {
    kind: String,
    config: Option<Zeroizing<Vec<u8>>>,
    old: Option<Zeroizing<Vec<u8>>>,
}

#[derive(Deserialize)]
struct Wire {
    #[serde(rename = "type", default)]
    kind: String,
    data: Option<Data>,
}

#[derive(Deserialize, Default)]
struct Data {
    #[serde(rename = ".dockerconfigjson")]
    config: Option<ByteString>,
    #[serde(rename = ".dockercfg")]
    old: Option<ByteString>,
}

/// What one Secret gives for a repository.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) logins: Vec<(Precision, Login)>,
    /// For people; without any value.
    pub(super) problems: Vec<String>,
}

impl PullSecret {
    /// Reads the object's JSON. `None` if it is none.
    pub(super) fn read(json: &[u8]) -> Option<Self> {
        let Wire { kind, data } = serde_json::from_slice(json).ok()?;
        let Data { config, old } = data.unwrap_or_default();
        let hide = |data: Option<ByteString>| data.map(|ByteString(bytes)| Zeroizing::new(bytes));
        Some(Self { kind, config: hide(config), old: hide(old) })
    }

    /// What it has for a repository.
    pub(super) fn logins(&self, repository: &Repository) -> Read {
        let config = match self.parse() {
            Ok(config) => config,
            Err(problem) => return Read { logins: Vec::new(), problems: vec![problem] },
        };
        let found = config.logins(&repository.registry, &repository.name);
        let logins = found.map(|(scope, login)| (scope.precision(), login.clone())).collect();
        let problems = config.malformed.iter().take(MALFORMED_MAX).map(told).collect();
        Read { logins, problems }
    }

    fn parse(&self) -> Result<DockerConfig, String> {
        let lacks = |key: &str| format!("it has no {key}");
        let parsed = match self.kind.as_str() {
            CONFIG_TYPE => DockerConfig::from_json(self.config.as_ref().ok_or_else(|| lacks(".dockerconfigjson"))?),
            OLD_TYPE => DockerConfig::from_dockercfg(self.old.as_ref().ok_or_else(|| lacks(".dockercfg"))?),
            kind => return Err(format!("its type is {}: expected {CONFIG_TYPE} or {OLD_TYPE}", shortened(kind))),
        };
        parsed.map_err(|malformed| told(&malformed))
    }
}

fn told(Malformed { key, detail }: &Malformed) -> String {
    format!("{}: {detail}", shortened(key))
}

/// Words of others: a piece of them that fits into a line.
pub(super) fn shortened(text: &str) -> String {
    let is_plain = |c: &char| !c.is_control();
    let mut shortened: String = text.chars().filter(is_plain).take(WORD_CHARS_MAX).collect();
    if text.chars().filter(is_plain).count() > WORD_CHARS_MAX {
        shortened.push('…');
    }
    shortened
}
