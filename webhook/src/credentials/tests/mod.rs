//! From a cluster and its helpers to what an agent is given.

mod helpers;
mod secrets;
mod shown;
mod time;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use http::Method;
use kuik_crd::credentials::{CredentialsAnswer, Login};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::*;
use crate::lifecycle::mock;

const SECOND: Duration = Duration::from_secs(1);

/// The objects of a cluster by their paths, and what it was asked.
#[derive(Debug, Clone, Default)]
struct World(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    pods: BTreeMap<String, Vec<Value>>,
    /// With the status to answer with.
    objects: BTreeMap<String, (u16, Value)>,
    asked: Vec<String>,
}

impl World {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// A pod on node1, running as `account`.
    fn pod(self, account: &str, secrets: &[&str]) -> Self {
        self.pod_on("node1", "Running", account, secrets)
    }

    fn pod_on(self, node: &str, phase: &str, account: &str, secrets: &[&str]) -> Self {
        let secrets: Vec<_> = secrets.iter().map(|name| json!({ "name": name })).collect();
        let pod = json!({
            "metadata": { "name": "p", "namespace": "team" },
            "spec": { "nodeName": node, "containers": [], "serviceAccountName": account, "imagePullSecrets": secrets },
            "status": { "phase": phase },
        });
        self.state().pods.entry("team".to_owned()).or_default().push(pod);
        self.account(account, &[])
    }

    fn account(self, name: &str, secrets: &[&str]) -> Self {
        let secrets: Vec<_> = secrets.iter().map(|name| json!({ "name": name })).collect();
        let account = json!({ "metadata": { "name": name, "namespace": "team" }, "imagePullSecrets": secrets });
        self.put(&format!("serviceaccounts/{name}"), 200, account)
    }

    /// A Secret with `content` under the key that its type wants.
    fn secret(self, name: &str, kind: &str, content: &str) -> Self {
        let data = k8s_openapi::ByteString(content.as_bytes().to_vec());
        let key = if kind == "dockercfg" { ".dockercfg" } else { ".dockerconfigjson" };
        let secret = json!({ "metadata": { "name": name }, "type": format!("kubernetes.io/{kind}"), "data": { key: data } });
        self.put(&format!("secrets/{name}"), 200, secret)
    }

    /// A Secret of the new type with a login for each key: the user is named as the Secret.
    fn logins(self, name: &str, keys: &[&str]) -> Self {
        let entry = json!({ "username": name, "password": "hunter2" });
        let auths: serde_json::Map<String, Value> = keys.iter().map(|key| ((*key).to_owned(), entry.clone())).collect();
        self.secret(name, "dockerconfigjson", &json!({ "auths": auths }).to_string())
    }

    fn put(self, path: &str, status: u16, object: Value) -> Self {
        self.state().objects.insert(format!("/api/v1/namespaces/team/{path}"), (status, object));
        self
    }

    fn answer(&self, method: &Method, uri: &str) -> (u16, Value) {
        assert_eq!(*method, Method::GET, "nothing is written");
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let mut state = self.state();
        state.asked.push(path.trim_start_matches("/api/v1/namespaces/").to_owned());
        if let Some((namespace, "pods")) = path.trim_start_matches("/api/v1/namespaces/").split_once('/') {
            assert!(query.contains("spec.nodeName%3Dnode1") && !query.contains("resourceVersion"), "{query}");
            if let Some((status, object)) = state.objects.get(path) {
                return (*status, object.clone());
            }
            let items = state.pods.get(namespace).cloned().unwrap_or_default();
            return (200, json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items }));
        }
        state.objects.get(path).cloned().unwrap_or((404, Value::Null))
    }

    fn desk(&self, helpers: &Scripts) -> PullSecrets {
        let world = self.clone();
        let client = mock::client(move |method, uri, _| {
            let world = world.clone();
            async move {
                // A look takes a moment, so that others can ask meanwhile.
                tokio::task::yield_now().await;
                world.answer(&method, &uri)
            }
        });
        let metrics = Metrics::default();
        PullSecrets::with(client, Clouds::new(helpers.list(), helpers.path(), metrics.clone()), metrics)
    }

    async fn ask(&self, image: &str) -> Result<CredentialsAnswer, Refused> {
        ask(&self.desk(&Scripts::default()), image).await
    }

    fn asked(&self, part: &str) -> usize {
        self.state().asked.iter().filter(|path| path.contains(part)).count()
    }
}

fn wanted(image: &str) -> Wanted {
    let (host, name) = image.split_once('/').unwrap();
    let repository = Repository::new(host.parse().unwrap(), name).unwrap();
    Wanted { namespace: "team".to_owned(), repository, node: "node1".into() }
}

async fn ask(desk: &PullSecrets, image: &str) -> Result<CredentialsAnswer, Refused> {
    let found = desk.ask(wanted(image)).await?;
    let answer: CredentialsAnswer = serde_json::from_slice(&found.json).unwrap();
    assert_eq!((found.credentials, &found.tried, &found.problems), (answer.credentials.len(), &answer.tried, &answer.problems));
    Ok(answer)
}

/// What there is to show: `from: user:password`.
fn shown(answer: &CredentialsAnswer) -> Vec<String> {
    let text = |login: &Login| match login {
        Login::Password { user, password } => format!("{user}:{}", password.expose_secret()),
        Login::Identity(token) => format!("identity {}", token.expose_secret()),
    };
    answer.credentials.iter().map(|given| format!("{}: {}", given.from, text(&given.login))).collect()
}

fn count(desk: &PullSecrets, result: &'static str) -> u64 {
    desk.metrics.requests.get_or_create(&ResultLabels { result }).get()
}

/// Helpers that are scripts in a directory of their own, each for what it is named after.
#[derive(Debug)]
struct Scripts {
    dir: tempfile::TempDir,
    list: Vec<CredentialHelper>,
}

impl Default for Scripts {
    fn default() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), list: Vec::new() }
    }
}

impl Scripts {
    /// A program that writes its arguments and the server into a file at every run.
    fn script(self, name: &str, script: &str) -> Self {
        let path = self.dir.path().join(name);
        let log = self.dir.path().join(format!("{name}.log"));
        std::fs::write(&path, format!("#!/bin/sh\nread server; echo \"$* $server\" >>{}\n{script}\n", log.display())).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    fn helper(mut self, pattern: &str, command: &[&str]) -> Self {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        self.list.push(CredentialHelper { scope: pattern.parse().unwrap(), command });
        self
    }

    fn list(&self) -> Vec<CredentialHelper> {
        self.list.clone()
    }

    fn path(&self) -> Option<std::ffi::OsString> {
        Some(format!("{}:{}", self.dir.path().display(), std::env::var("PATH").unwrap()).into())
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(format!("{name}.log"))).unwrap_or_default()
    }

    fn runs(&self, name: &str) -> usize {
        self.log(name).lines().count()
    }
}
