//! The Secret of a namespace, as it is written and as it is read.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Value, json};

use super::signer;
use crate::pull::secret::{PullSecret, fingerprint, read, render};

const HOST: &str = "localhost:7439";

fn owner() -> OwnerReference {
    OwnerReference { kind: "ClusterRole".to_owned(), name: "x".to_owned(), uid: "u1".to_owned(), ..OwnerReference::default() }
}

fn seen(secret: &Secret) -> PullSecret {
    let (namespace, kept) = read(secret, HOST);
    assert_eq!(namespace, "team");
    kept.unwrap()
}

#[test]
fn a_kubelet_finds_the_token_under_the_address_of_the_agent() {
    let secret = render(HOST, "team", "kuik1.k.9.s", &owner());
    let text = String::from_utf8(secret.data.unwrap()[".dockerconfigjson"].0.clone()).unwrap();
    let expected =
        json!({"auths": {"localhost:7439": {"username": "team", "password": "kuik1.k.9.s", "auth": "dGVhbTprdWlrMS5rLjkucw=="}}});
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
    assert_eq!(secret.type_.as_deref(), Some("kubernetes.io/dockerconfigjson"));
}

#[test]
fn what_was_written_is_read_and_its_token_is_not_kept() {
    let signer = signer();
    let token = signer.sign("team", 1000);
    let found = seen(&render(HOST, "team", &token, &owner()));
    assert!(found.is_ours && found.is_intact && found.is_replaceable);
    assert_eq!((found.key.as_str(), found.until, found.owner.as_deref()), (signer.key().id.as_str(), 1000, Some("u1")));
    assert_eq!(found.fingerprint, fingerprint(&token));
    assert!(!format!("{found:?}").contains(&token));
}

#[test]
fn every_change_is_seen() {
    let token = signer().sign("team", 1000);
    let changed = |change: fn(&mut Secret)| {
        let mut secret = render(HOST, "team", &token, &owner());
        change(&mut secret);
        seen(&secret)
    };
    assert!(!changed(|secret| secret.metadata.labels = None).is_ours);
    assert!(!changed(|secret| drop(secret.metadata.labels.as_mut().unwrap().remove("app.kubernetes.io/name"))).is_ours);
    assert!(!changed(|secret| secret.metadata.annotations = None).is_intact);
    assert!(!changed(|secret| secret.type_ = Some("Opaque".to_owned())).is_replaceable);
    assert!(!changed(|secret| secret.immutable = Some(true)).is_replaceable);
    assert_eq!(changed(|secret| secret.metadata.owner_references = None).owner, None);
    assert_eq!(changed(|secret| secret.metadata.owner_references.as_mut().unwrap().push(OwnerReference::default())).owner, None);
    assert!(!changed(|secret| drop(secret.data.as_mut().unwrap().insert("more".to_owned(), ByteString(Vec::new())))).is_intact);
    for garbage in ["", "{}", "[]", "no json", r#"{"auths": {"localhost:7439": {"password": 7}}}"#] {
        let mut secret = render(HOST, "team", &token, &owner());
        secret.data.as_mut().unwrap().insert(".dockerconfigjson".to_owned(), ByteString(garbage.as_bytes().to_vec()));
        let found = seen(&secret);
        assert!(found.is_ours && !found.is_intact && found.until == 0, "{garbage}");
    }
    // Another namespace's, and one for another address.
    let (other, mut moved) = (render(HOST, "other", &token, &owner()), render("localhost:7440", "team", &token, &owner()));
    moved.metadata.namespace = Some("team".to_owned());
    let copied = Secret { data: other.data, ..render(HOST, "team", &token, &owner()) };
    assert!(!seen(&copied).is_intact && !seen(&moved).is_intact);
}

#[test]
fn other_secrets_are_none_of_our_business() {
    let mut secret = render(HOST, "team", "t", &owner());
    secret.metadata.name = Some("registry".to_owned());
    assert_eq!(read(&secret, HOST).1, None);
}
