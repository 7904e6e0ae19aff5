//! The Secret `kuik-pull` of a namespace: what is written into it, and what is read of one.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::ResourceExt as _;
use kuik_crd::names::{MANAGED_BY, MANAGED_BY_LABEL};
use kuik_crd::pull_token::{SECRET_NAME, read_unchecked};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The type that the kubelet takes for credentials of registries, and the entry of such a Secret.
const SECRET_TYPE: &str = "kubernetes.io/dockerconfigjson";
const CONFIG: &str = ".dockerconfigjson";

/// Says which program an object is of.
const NAME_LABEL: &str = "app.kubernetes.io/name";

/// The annotation that tells people what an object is.
const DESCRIPTION: &str = "kubernetes.io/description";

const ABOUT: &str = "Shows kube-image-keeper's agents which namespace a pod is of, so that they give it the private images that this \
    namespace may pull. kube-image-keeper writes, renews and removes it: changes are undone.";

/// What is needed of a Secret named `kuik-pull`. The token itself is not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PullSecret {
    /// It has our labels. Another is not touched.
    pub(super) is_ours: bool,
    pub(super) uid: Option<String>,
    pub(super) version: Option<String>,
    /// Its type is the right one, and what it holds may be changed: a Secret that is otherwise is deleted and made anew.
    pub(super) is_replaceable: bool,
    /// It holds a token in just the form that we write, and says what it is.
    pub(super) is_intact: bool,
    /// Who takes it along at the end.
    pub(super) owner: Option<String>,
    /// The key that the token claims to be signed with.
    pub(super) key: String,
    /// Until when the token claims to be good, in seconds since 1970.
    pub(super) until: u64,
    /// The SHA-256 of the token.
    pub(super) fingerprint: [u8; 32],
}

/// What identifies a token without being one.
pub(super) fn fingerprint(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// The namespace of a Secret, and what is needed of it; `host` is what rewritten images begin with.
pub(super) fn read(secret: &Secret, host: &str) -> (String, Option<PullSecret>) {
    let namespace = secret.namespace().unwrap_or_default();
    if secret.name_any() != SECRET_NAME {
        return (namespace, None);
    }
    let config = secret.data.as_ref().and_then(|data| data.get(CONFIG));
    let token = config.and_then(|config| token(&config.0, host)).unwrap_or_default();
    let (key, until) = read_unchecked(&token).unwrap_or_default();
    let holds_it = secret.data.as_ref().is_some_and(|data| *data == self::data(host, &namespace, &token));
    let says_it = secret.annotations().get(DESCRIPTION).is_some_and(|text| text == ABOUT);
    let owners = secret.owner_references();
    let label = |key: &str, value: &str| secret.labels().get(key).is_some_and(|found| found == value);
    let kept = PullSecret {
        is_ours: label(NAME_LABEL, MANAGED_BY) && label(MANAGED_BY_LABEL, MANAGED_BY),
        uid: secret.uid(),
        version: secret.resource_version(),
        is_replaceable: secret.type_.as_deref() == Some(SECRET_TYPE) && secret.immutable != Some(true),
        is_intact: holds_it && says_it,
        owner: if owners.len() == 1 { Some(owners[0].uid.clone()) } else { None },
        key: key.to_owned(),
        until,
        fingerprint: fingerprint(&token),
    };
    (namespace, Some(kept))
}

fn token(config: &[u8], host: &str) -> Option<String> {
    let config: Value = serde_json::from_slice(config).ok()?;
    config.get("auths")?.get(host)?.get("password")?.as_str().map(str::to_owned)
}

/// The Secret of a namespace, as it should be.
pub(super) fn render(host: &str, namespace: &str, token: &str, owner: &OwnerReference) -> Secret {
    let labels = [(NAME_LABEL, MANAGED_BY), (MANAGED_BY_LABEL, MANAGED_BY)].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let metadata = ObjectMeta {
        name: Some(SECRET_NAME.to_owned()),
        namespace: Some(namespace.to_owned()),
        labels: Some(labels.into()),
        annotations: Some([(DESCRIPTION.to_owned(), ABOUT.to_owned())].into()),
        owner_references: Some(vec![owner.clone()]),
        ..ObjectMeta::default()
    };
    Secret { metadata, type_: Some(SECRET_TYPE.to_owned()), data: Some(data(host, namespace, token)), ..Secret::default() }
}

fn data(host: &str, namespace: &str, token: &str) -> BTreeMap<String, ByteString> {
    let auth = STANDARD.encode(format!("{namespace}:{token}"));
    let config = json!({ "auths": { host: { "username": namespace, "password": token, "auth": auth } } });
    BTreeMap::from([(CONFIG.to_owned(), ByteString(config.to_string().into_bytes()))])
}
