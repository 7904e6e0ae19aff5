//! A Secret of our name that is somebody else's.

use anyhow::{Result, ensure};
use kuik_crd::pull_token::SECRET_NAME;
use kuik_e2e::kube::with_temp_ns;
use serde_json::json;

use super::tenant::token_of;
use crate::env::Env;
use crate::kuik::{Kuik, STATUS_LIMIT};

/// It is told by an Event and left as it is, and once it is deleted the namespace has a token again.
pub(crate) fn a_secret_kuik_pull_of_somebody_else_is_left_alone(env: &Env) -> Result<()> {
    let kuik = Kuik::installed(env)?;
    with_temp_ns(kuik.kube, "foreign", |ns| {
        token_of(ns)?;
        // In one step, in place of ours: the leader makes its own as soon as there is none.
        let theirs = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": SECRET_NAME, "namespace": ns.name(), "labels": { "team": "theirs" } },
            "type": "kubernetes.io/dockerconfigjson",
            "stringData": { ".dockerconfigjson": r#"{"auths":{}}"# },
        });
        kuik.kube.kubectl_with_input(&["replace", "-f", "-"], &theirs.to_string())?;
        let written = ns.json(&["get", "secret", SECRET_NAME])?;
        let selector = format!("reason=NotOurs,involvedObject.kind=Secret,involvedObject.name={SECRET_NAME}");
        ns.wait_json("an Event NotOurs", STATUS_LIMIT, &["get", "events", "--field-selector", &selector], |list| {
            let event = &list["items"][0];
            let message = event["message"].as_str().unwrap_or_default();
            let is_said = ["is left alone", ns.name(), "until it is deleted"].iter().all(|word| message.contains(word));
            ensure!(is_said && event["type"] == "Warning", "the Events are {}", list["items"]);
            ensure!(event["involvedObject"]["uid"] == written["metadata"]["uid"], "it is about {}", event["involvedObject"]);
            Ok(())
        })?;
        let now = ns.json(&["get", "secret", SECRET_NAME])?;
        ensure!(now["metadata"] == written["metadata"] && now["data"] == written["data"], "it was changed: {}", now["metadata"]);
        ns.delete_object(&format!("secret/{SECRET_NAME}"))?;
        token_of(ns).map(drop)
    })
}
