//! What tests do in a namespace that wants private images.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kuik_crd::pull_token::SECRET_NAME;
use kuik_e2e::kube::Namespace;
use serde_json::{Map, Value, json};

use super::doors::Login;
use crate::kuik::{Kuik, STATUS_LIMIT, image_of, pod_on, rewritten};

/// The leader writes a namespace's token at once; a machine that is busy with tests may be slow.
const TOKEN_LIMIT: Duration = Duration::from_secs(60);

/// Several of the kubelet's tries: 10, 20, 40 and 80 s apart.
const TRIES_LIMIT: Duration = Duration::from_secs(180);

/// What a namespace shows to agents.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub(super) namespace: String,
    pub(super) token: String,
}

impl Shown {
    /// The value of an `Authorization` header.
    pub(super) fn header(&self) -> String {
        let Self { namespace, token } = self;
        format!("Basic {}", STANDARD.encode(format!("{namespace}:{token}")))
    }

    /// The same with another token.
    pub(super) fn with(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }
}

/// What the namespace shows, once the leader has written it.
pub(super) fn token_of(ns: &Namespace) -> Result<Shown> {
    ns.wait_json("its pull token", TOKEN_LIMIT, &["get", "secret", SECRET_NAME], |secret| {
        let encoded = secret["data"][".dockerconfigjson"].as_str().context("it must hold a config.json")?;
        let config: Value = serde_json::from_slice(&STANDARD.decode(encoded)?)?;
        let entry = &config["auths"]["localhost:7439"];
        let text = |key: &str| entry[key].as_str().map(str::to_owned).with_context(|| format!("there is no {key} for localhost:7439"));
        Ok(Shown { namespace: text("username")?, token: text("password")? })
    })
}

/// Makes a pull secret of today's type.
pub(super) fn give(ns: &Namespace, name: &str, logins: &[&Login]) -> Result<()> {
    let auths: Map<String, Value> = logins.iter().map(|login| (login.key.clone(), login.entry())).collect();
    give_as(ns, name, ("kubernetes.io/dockerconfigjson", ".dockerconfigjson"), &json!({ "auths": auths }))
}

/// Makes a pull secret of the type of old.
pub(super) fn give_old(ns: &Namespace, name: &str, login: &Login) -> Result<()> {
    give_as(ns, name, ("kubernetes.io/dockercfg", ".dockercfg"), &json!({ &login.key: login.entry() }))
}

fn give_as(ns: &Namespace, name: &str, (kind, key): (&str, &str), content: &Value) -> Result<()> {
    ns.apply(&json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": name },
        "type": kind,
        "stringData": { key: content.to_string() },
    }))
}

/// A pod on a node with these pull secrets.
pub(super) fn private_pod(node: &str, name: &str, image: &str, secrets: &[&str]) -> Value {
    let mut pod = pod_on(node, name, image);
    pod["spec"]["imagePullSecrets"] = secrets.iter().map(|name| json!({ "name": name })).collect();
    pod
}

/// Has the runtime of a node forget an image, so that the next pod there pulls it.
pub(super) fn forget(kuik: &Kuik<'_>, node: &str, image: &str) -> Result<()> {
    let (node, local) = (kuik.cluster()?.node_named(node)?, rewritten(image)?);
    node.remove_image(&local)?;
    ensure!(!node.images()?.contains(&local), "containerd still has {local}");
    Ok(())
}

/// Makes a pod that has to pull, and does not wait for it.
pub(super) fn begin(kuik: &Kuik<'_>, ns: &Namespace, pod: &Value) -> Result<()> {
    let node = pod["spec"]["nodeName"].as_str().context("a pod of these tests must name its node")?;
    forget(kuik, node, image_of(pod))?;
    ns.apply(pod)
}

/// Makes a pod that has to pull, and expects it to run from the agent, with the namespace's token.
pub(super) fn run(kuik: &Kuik<'_>, ns: &Namespace, pod: &Value) -> Result<Value> {
    begin(kuik, ns, pod)?;
    let name = pod["metadata"]["name"].as_str().context("a pod of these tests must have a name")?;
    let running = ns.wait_running_within(name, TRIES_LIMIT)?;
    ensure!(image_of(&running) == rewritten(image_of(pod))?, "{name} has the image {}", image_of(&running));
    let secrets = pull_secrets(&running);
    ensure!(secrets.last() == Some(&SECRET_NAME), "{name} has the pull secrets {secrets:?}");
    Ok(running)
}

/// The names of a pod's pull secrets.
pub(super) fn pull_secrets(pod: &Value) -> Vec<&str> {
    let secrets = pod["spec"]["imagePullSecrets"].as_array().into_iter().flatten();
    secrets.filter_map(|secret| secret["name"].as_str()).collect()
}

/// Expects a pod to wait for its image in vain, and an Event about it that has all these words in its message.
pub(super) fn expect_refused(ns: &Namespace, pod: &str, words: &[&str]) -> Result<()> {
    ns.wait_pull_failure(pod)?;
    let selector = format!("reason=PullRefused,involvedObject.name={pod}");
    let what = format!("an Event about {pod} that says {words:?}");
    ns.wait_json(&what, STATUS_LIMIT, &["get", "events", "--field-selector", &selector], |list| {
        let events = list["items"].as_array().into_iter().flatten();
        let messages: Vec<&str> = events.filter_map(|event| event["message"].as_str()).collect();
        let is_said = messages.iter().any(|message| words.iter().all(|word| message.contains(word)));
        ensure!(is_said, "the Events say {messages:?}");
        Ok(())
    })?;
    let now = ns.json(&["get", "pod", pod])?;
    ensure!(now["status"]["phase"] == "Pending", "{pod} runs after all: {}", now["status"]);
    Ok(())
}

/// Waits until the `CachedImage` says that these namespaces have proven their right.
pub(super) fn expect_proven(kuik: &Kuik<'_>, image: &str, namespaces: &[&str]) -> Result<()> {
    kuik.wait_image("proven", image, |object| {
        let proven = &object["status"]["provenNamespaces"];
        let names: Vec<&str> = proven["names"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        ensure!(namespaces.iter().all(|namespace| names.contains(namespace)), "it says {proven}");
        ensure!(proven["count"] == names.len(), "it says {proven}");
        Ok(())
    })
}
