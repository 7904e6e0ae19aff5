//! The leader, the Secret and those who are told, on a fake API server.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::api::FakeApi;
use super::{mk_names, provider};
use crate::certs::leader::{Leader, LeaderError, Origin};
use crate::certs::{Certificates, Lifetimes};

const SECRET: &str = "/api/v1/namespaces/kuik-system/secrets/kuik-tls";
const CONFIG_MAP: &str = "/api/v1/namespaces/kuik-system/configmaps/kuik-ca";
const CONFIGURATION: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/kuik";
const AGENT: &str = "/api/v1/namespaces/kuik-system/pods/agent";
const NOW: u64 = 1_800_000_000;

fn mk_leader(api: &FakeApi) -> Leader {
    provider();
    Leader {
        client: api.client(),
        names: Arc::new(mk_names()),
        origin: Origin::Own(Lifetimes::default()),
        certificates: Certificates::new(),
    }
}

fn mk_api() -> FakeApi {
    let api = FakeApi::new();
    let webhook = json!({
        "name": "mpod.kuik.enix.io", "admissionReviewVersions": ["v1"], "sideEffects": "None",
        "clientConfig": { "service": { "name": "kuik-webhook", "namespace": "kuik-system", "path": "/mutate-core-v1-pod" } },
    });
    api.put(CONFIGURATION, json!({ "metadata": { "name": "kuik" }, "webhooks": [webhook] }));
    api.put(AGENT, mk_agent("True"));
    api
}

fn mk_agent(ready: &str) -> Value {
    json!({ "metadata": { "name": "agent" }, "status": { "conditions": [{ "type": "Ready", "status": ready }] } })
}

fn decoded(value: &Value) -> String {
    let bytes: k8s_openapi::ByteString = serde_json::from_value(value.clone()).unwrap();
    String::from_utf8(bytes.0).unwrap()
}

#[tokio::test]
async fn the_first_round_makes_and_publishes_and_the_second_does_nothing() {
    let api = mk_api();
    let leader = mk_leader(&api);
    leader.round(NOW).await.unwrap();
    let secret = api.get(SECRET).unwrap();
    assert_eq!(secret["type"], "kubernetes.io/tls");
    assert_eq!(secret["metadata"]["labels"]["app.kubernetes.io/instance"], "kuik");
    let authority = decoded(&secret["data"]["ca.crt"]);
    assert_eq!(api.get(CONFIG_MAP).unwrap()["data"]["ca.crt"], authority);
    assert_eq!(decoded(&api.get(CONFIGURATION).unwrap()["webhooks"][0]["clientConfig"]["caBundle"]), authority);
    assert_eq!(api.writes().len(), 3);
    let next = leader.round(NOW + 1).await.unwrap();
    assert_eq!(api.writes(), [] as [String; 0]);
    assert!(next > Duration::from_secs(86_400));
}

#[tokio::test]
async fn nothing_is_rewritten_before_an_agent_is_ready() {
    let api = mk_api();
    api.put(AGENT, mk_agent("False"));
    let leader = mk_leader(&api);
    let bundle = || api.get(CONFIGURATION).unwrap()["webhooks"][0]["clientConfig"]["caBundle"].clone();
    let soon = leader.round(NOW).await.unwrap();
    assert!(bundle().is_null() && soon < Duration::from_secs(10), "{soon:?}");
    assert!(api.get(CONFIG_MAP).is_some(), "agents need it to become ready");
    api.put(AGENT, mk_agent("True"));
    leader.round(NOW + 2).await.unwrap();
    assert!(bundle().is_string());
    // From then on what the API server trusts is kept up to date, whatever becomes of the agents.
    api.put(AGENT, mk_agent("False"));
    let mut configuration = api.get(CONFIGURATION).unwrap();
    configuration["webhooks"][0]["clientConfig"]["caBundle"] = json!("b2xk");
    api.put(CONFIGURATION, configuration);
    leader.round(NOW + 4).await.unwrap();
    assert_ne!(bundle(), "b2xk");
}

#[tokio::test]
async fn another_leader_takes_over_what_is_there() {
    let api = mk_api();
    mk_leader(&api).round(NOW).await.unwrap();
    let secret = api.get(SECRET);
    api.writes();
    mk_leader(&api).round(NOW + 60).await.unwrap();
    assert_eq!((api.get(SECRET), api.writes()), (secret, vec![]));
}

#[tokio::test]
async fn a_damaged_secret_is_repaired_in_place() {
    let api = mk_api();
    let leader = mk_leader(&api);
    leader.round(NOW).await.unwrap();
    let mut secret = api.get(SECRET).unwrap();
    let before = secret["data"]["ca.crt"].clone();
    secret["data"] = json!({ "tls.crt": "bm9uc2Vuc2U=", "tls.key": "/w==" });
    secret["metadata"]["annotations"] = json!({ "of": "others" });
    api.put(SECRET, secret);
    leader.round(NOW + 1).await.unwrap();
    let after = api.get(SECRET).unwrap();
    assert_ne!(after["data"]["ca.crt"], before);
    assert_eq!(after["metadata"]["annotations"]["of"], "others");
    assert_eq!(decoded(&api.get(CONFIGURATION).unwrap()["webhooks"][0]["clientConfig"]["caBundle"]), decoded(&after["data"]["ca.crt"]));
}

#[tokio::test]
async fn what_others_take_out_is_put_back() {
    let api = mk_api();
    let leader = mk_leader(&api);
    leader.round(NOW).await.unwrap();
    api.writes();
    let mut configuration = api.get(CONFIGURATION).unwrap();
    configuration["webhooks"][0]["clientConfig"].as_object_mut().unwrap().remove("caBundle");
    configuration["webhooks"][0]["timeoutSeconds"] = json!(7);
    api.put(CONFIGURATION, configuration);
    let mut map = api.get(CONFIG_MAP).unwrap();
    map["data"] = json!({ "ca.crt": "", "other": "kept" });
    api.put(CONFIG_MAP, map);
    leader.round(NOW + 10).await.unwrap();
    assert_eq!(api.writes(), [format!("PATCH {CONFIGURATION}"), format!("PUT {CONFIG_MAP}")]);
    assert!(api.get(CONFIGURATION).unwrap()["webhooks"][0]["clientConfig"]["caBundle"].is_string());
    assert_eq!(api.get(CONFIGURATION).unwrap()["webhooks"][0]["timeoutSeconds"], 7);
    assert_eq!(api.get(CONFIG_MAP).unwrap()["data"]["other"], "kept");
}

#[tokio::test]
async fn agents_are_told_even_if_the_webhook_configuration_is_missing() {
    let api = FakeApi::new();
    let error = mk_leader(&api).round(NOW).await.unwrap_err();
    assert!(matches!(error, LeaderError::WebhookConfiguration(_)), "{error}");
    assert!(api.get(SECRET).is_some());
    assert!(api.get(CONFIG_MAP).is_some());
}

#[tokio::test]
async fn with_files_only_agents_are_told() {
    let api = mk_api();
    let leader = Leader { origin: Origin::Files, ..mk_leader(&api) };
    leader.round(NOW).await.unwrap();
    assert_eq!(api.writes(), [] as [String; 0], "there is nothing to tell yet");
    let other = mk_api();
    let own = mk_leader(&other);
    own.round(NOW).await.unwrap();
    let secret = serde_json::from_value(other.get(SECRET).unwrap()).unwrap();
    crate::certs::load(&secret, &leader.certificates);
    leader.round(NOW).await.unwrap();
    assert_eq!(api.writes(), ["POST /api/v1/namespaces/kuik-system/configmaps"]);
}
