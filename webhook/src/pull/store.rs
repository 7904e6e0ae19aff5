//! The Secret that keeps the keys between leaders. Each entry is a JSON object, so that a damaged one takes no other along.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::PostParams;
use kube::{Api, Client};
use kuik_crd::PullKey;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::keys::{Current, Found, Pair, Retired, State};
use crate::naming::Names;

const CURRENT: &str = "current";
const NEXT: &str = "next";
const PREVIOUS: &str = "previous";

/// A type of our own: no other program takes it for something that it may use.
const SECRET_TYPE: &str = "kuik.enix.io/pull-keys";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PairEntry {
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pkcs8: Vec<u8>,
    made_at: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CurrentEntry {
    #[serde(flatten)]
    pair: PairEntry,
    signs_from: u64,
    longest_token_seconds: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RetiredEntry {
    id: String,
    public_key: String,
    retired_at: u64,
    longest_token_seconds: u64,
}

fn to_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    // No word of the text: an error may be logged.
    STANDARD.decode(String::deserialize(deserializer)?).map_err(|_| D::Error::custom("no base64"))
}

/// What a Secret holds, and the entries of it that cannot be read.
pub(super) fn read(secret: &Secret) -> (Found, Vec<&'static str>) {
    let mut damaged = Vec::new();
    let pair = |PairEntry { pkcs8, made_at }| Pair { pkcs8, made_at };
    let current: Option<CurrentEntry> = entry(secret, CURRENT, &mut damaged);
    let next: Option<PairEntry> = entry(secret, NEXT, &mut damaged);
    let previous: Option<RetiredEntry> = entry(secret, PREVIOUS, &mut damaged);
    let current =
        current.map(|entry| Current { pair: pair(entry.pair), signs_from: entry.signs_from, longest_token: entry.longest_token_seconds });
    let previous = previous.map(|RetiredEntry { id, public_key, retired_at, longest_token_seconds }| Retired {
        key: PullKey { id, public_key },
        retired_at,
        longest_token: longest_token_seconds,
    });
    (Found { current, next: next.map(pair), previous }, damaged)
}

fn entry<T: DeserializeOwned>(secret: &Secret, key: &'static str, damaged: &mut Vec<&'static str>) -> Option<T> {
    let bytes = secret.data.as_ref()?.get(key)?;
    let read = serde_json::from_slice(&bytes.0).ok();
    if read.is_none() {
        damaged.push(key);
    }
    read
}

/// Writes the state, over what was read or as a new Secret. Fails with a conflict if somebody else has written meanwhile.
pub(super) async fn write(
    client: &Client,
    names: &Names,
    was: Option<Secret>,
    state: &State,
    owner: &OwnerReference,
) -> Result<(), kube::Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &names.namespace);
    let params = PostParams::default();
    match was {
        Some(mut secret) => {
            secret.data = Some(data(state));
            secret.metadata.owner_references = Some(vec![owner.clone()]);
            api.replace(&names.pull_keys_secret(), &params, &secret).await?;
        }
        None => {
            let mut metadata = names.metadata(names.pull_keys_secret());
            metadata.owner_references = Some(vec![owner.clone()]);
            let secret = Secret { metadata, type_: Some(SECRET_TYPE.to_owned()), data: Some(data(state)), ..Secret::default() };
            api.create(&params, &secret).await?;
        }
    }
    Ok(())
}

fn data(state: &State) -> BTreeMap<String, ByteString> {
    let State { current, next, previous } = state;
    let pair = |pair: &Pair| PairEntry { pkcs8: pair.pkcs8.clone(), made_at: pair.made_at };
    let entry = |value: serde_json::Result<Vec<u8>>| ByteString(value.expect("an entry must serialise: it holds only numbers and strings"));
    let signing = CurrentEntry { pair: pair(&current.pair), signs_from: current.signs_from, longest_token_seconds: current.longest_token };
    let mut data = BTreeMap::from([(CURRENT.to_owned(), entry(serde_json::to_vec(&signing)))]);
    if let Some(next) = next {
        data.insert(NEXT.to_owned(), entry(serde_json::to_vec(&pair(next))));
    }
    if let Some(Retired { key: PullKey { id, public_key }, retired_at, longest_token }) = previous {
        let retired =
            RetiredEntry { id: id.clone(), public_key: public_key.clone(), retired_at: *retired_at, longest_token_seconds: *longest_token };
        data.insert(PREVIOUS.to_owned(), entry(serde_json::to_vec(&retired)));
    }
    data
}
