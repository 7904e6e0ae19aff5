//! The Secret that keeps the authority and the serving certificate between leaders.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::{Api, Client};

use super::plan::{Found, State};
use super::x509::Pair;
use crate::naming::Names;

const AUTHORITY: &str = "ca.crt";
const AUTHORITY_KEY: &str = "ca.key";
const NEXT: &str = "next-ca.crt";
const NEXT_KEY: &str = "next-ca.key";
const PREVIOUS: &str = "previous-ca.crt";
const SERVING: &str = "tls.crt";
const SERVING_KEY: &str = "tls.key";

/// A type that other programs know; a Secret's type cannot be changed afterwards.
const SECRET_TYPE: &str = "kubernetes.io/tls";

/// What a Secret holds.
pub(super) fn read(secret: &Secret) -> Found {
    let text = |key: &str| secret.data.as_ref()?.get(key).and_then(|bytes| String::from_utf8(bytes.0.clone()).ok());
    let pair = |certificate, key| Some(Pair { certificate: text(certificate)?, key: text(key).unwrap_or_default() });
    Found {
        authority: pair(AUTHORITY, AUTHORITY_KEY),
        serving: pair(SERVING, SERVING_KEY),
        next: pair(NEXT, NEXT_KEY),
        previous: text(PREVIOUS),
    }
}

/// Writes the state, over what was read or as a new Secret. Fails with a conflict if somebody else has written meanwhile.
pub(super) async fn write(client: &Client, names: &Names, was: Option<Secret>, state: &State) -> Result<(), kube::Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &names.namespace);
    let params = PostParams::default();
    match was {
        Some(mut secret) => {
            secret.data = Some(data(state));
            api.replace(&names.tls_secret(), &params, &secret).await?;
        }
        None => {
            let metadata = names.metadata(names.tls_secret());
            let secret = Secret { metadata, type_: Some(SECRET_TYPE.to_owned()), data: Some(data(state)), ..Secret::default() };
            api.create(&params, &secret).await?;
        }
    }
    Ok(())
}

fn data(state: &State) -> BTreeMap<String, ByteString> {
    let State { authority, serving, next, previous } = state;
    let mut data = vec![
        (AUTHORITY, &authority.certificate),
        (AUTHORITY_KEY, &authority.key),
        (SERVING, &serving.certificate),
        (SERVING_KEY, &serving.key),
    ];
    if let Some(next) = next {
        data.extend([(NEXT, &next.certificate), (NEXT_KEY, &next.key)]);
    }
    if let Some(previous) = previous {
        data.push((PREVIOUS, previous));
    }
    data.into_iter().map(|(key, text)| (key.to_owned(), ByteString(text.clone().into_bytes()))).collect()
}
