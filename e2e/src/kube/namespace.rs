//! A namespace for one test.

use std::io::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{Kube, dump};
use crate::cluster::{PASSWORD, USER, Upstream};

/// Long enough for two back-offs of the kubelet.
const RUNNING_LIMIT: Duration = Duration::from_secs(120);
const ACCOUNT_LIMIT: Duration = Duration::from_secs(30);
const DELETED_LIMIT: Duration = Duration::from_secs(60);

/// Makes a namespace whose name begins with `name`, and deletes it after `test`. If that fails, by an error or a panic,
/// everything that may tell why is first written to standard error.
pub fn with_temp_ns<T>(kube: &Kube, name: &str, test: impl FnOnce(&Namespace) -> Result<T>) -> Result<T> {
    let namespace = Namespace::create(kube, name, &json!({}))?;
    let result = catch_unwind(AssertUnwindSafe(|| test(&namespace)));
    if !matches!(result, Ok(Ok(_))) {
        let mut stderr = io::stderr().lock();
        // There is nowhere left to say that this failed.
        drop(writeln!(stderr, "---- what the cluster looks like after the failure in namespace {}", namespace.name));
        drop(dump(kube, &namespace.name, &mut stderr));
    }
    let deleted = namespace.delete();
    let value = result.unwrap_or_else(|panic| resume_unwind(panic))?;
    deleted.map(|()| value)
}

/// A namespace, and what tests do in one.
#[derive(Clone, Debug)]
pub struct Namespace {
    kube: Kube,
    name: String,
}

impl Namespace {
    /// Makes a namespace whose name begins with `name`, with these labels, and waits until pods can be made in it.
    pub fn create(kube: &Kube, name: &str, labels: &Value) -> Result<Self> {
        let manifest = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": { "generateName": format!("{name}-"), "labels": labels },
        });
        let created = kube.kubectl_with_input(&["create", "-f", "-", "-o", "name"], &manifest.to_string())?;
        let name = created.trim().strip_prefix("namespace/").context("kubectl must print the name of what it made")?.to_owned();
        kube.wait_json("the namespace's service account", ACCOUNT_LIMIT, &["get", "serviceaccount", "default", "-n", &name], |_| Ok(()))?;
        Ok(Self { kube: kube.clone(), name })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster that it is in.
    pub fn kube(&self) -> &Kube {
        &self.kube
    }

    /// Runs kubectl in this namespace.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kube.kubectl(&self.here(arguments))
    }

    /// As [`Kube::json`], in this namespace.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        self.kube.json(&self.here(arguments))
    }

    /// Creates or changes one object, such as a [`super::pod`].
    pub fn apply(&self, manifest: &Value) -> Result<()> {
        self.kube.kubectl_with_input(&self.here(&["apply", "-f", "-"]), &manifest.to_string()).map(drop)
    }

    /// As [`Kube::wait_json`], in this namespace.
    pub fn wait_json<T>(&self, what: &str, limit: Duration, arguments: &[&str], check: impl FnMut(&Value) -> Result<T>) -> Result<T> {
        self.kube.wait_json(what, limit, &self.here(arguments), check)
    }

    /// Waits until all containers of a pod are ready, and returns the pod.
    pub fn wait_running(&self, pod: &str) -> Result<Value> {
        self.wait_running_within(pod, RUNNING_LIMIT)
    }

    /// As [`Namespace::wait_running`], with a limit of the caller's.
    pub fn wait_running_within(&self, pod: &str, limit: Duration) -> Result<Value> {
        self.wait_pod(pod, "run", limit, |value| {
            let containers = value["status"]["containerStatuses"].as_array();
            let ready = containers.is_some_and(|all| !all.is_empty() && all.iter().all(|one| one["ready"] == true));
            ensure!(ready, "it does not run");
            Ok(value.clone())
        })
    }

    /// Waits until the pod waits for an image in vain.
    pub fn wait_pull_failure(&self, pod: &str) -> Result<Value> {
        self.wait_pod(pod, "fail to pull", RUNNING_LIMIT, |value| {
            let containers = value["status"]["containerStatuses"].as_array();
            let reasons = containers.into_iter().flatten().filter_map(|one| one["state"]["waiting"]["reason"].as_str());
            let failed = reasons.into_iter().any(|reason| matches!(reason, "ErrImagePull" | "ImagePullBackOff"));
            ensure!(failed, "no pull has failed");
            Ok(value.clone())
        })
    }

    /// Waits until `check` is content with a pod; the error says in what state it was last.
    pub fn wait_pod<T>(&self, pod: &str, what: &str, limit: Duration, mut check: impl FnMut(&Value) -> Result<T>) -> Result<T> {
        let what = format!("pod {pod} in {} to {what}", self.name);
        self.wait_json(&what, limit, &["get", "pod", pod], |value| check(value).with_context(|| state(value)))
    }

    /// Makes a pull secret for a private registry.
    pub fn create_pull_secret(&self, name: &str, registry: &Upstream) -> Result<()> {
        let server = format!("--docker-server={}", registry.host());
        let (user, password) = (format!("--docker-username={USER}"), format!("--docker-password={PASSWORD}"));
        self.kubectl(&["create", "secret", "docker-registry", name, &server, &user, &password]).map(drop)
    }

    /// What the first container of a pod has printed.
    pub fn logs(&self, pod: &str) -> Result<String> {
        self.kubectl(&["logs", pod])
    }

    /// Deletes an object such as `pod/app` and waits until it is gone.
    pub fn delete_object(&self, object: &str) -> Result<()> {
        let timeout = format!("--timeout={}s", DELETED_LIMIT.as_secs());
        self.kubectl(&["delete", object, "--wait", &timeout]).map(drop)
    }

    /// Deletes the namespace with all that is in it. That happens after this returns.
    pub fn delete(&self) -> Result<()> {
        self.kube.kubectl(&["delete", "namespace", &self.name, "--wait=false"]).map(drop)
    }

    fn here<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        ["--namespace", &self.name].into_iter().chain(arguments.iter().copied()).collect()
    }
}

/// The state of a pod in a line.
fn state(pod: &Value) -> String {
    let status = &pod["status"];
    let mut line =
        format!("{} on {}", status["phase"].as_str().unwrap_or("no phase"), pod["spec"]["nodeName"].as_str().unwrap_or("no node"));
    let containers = [&status["initContainerStatuses"], &status["containerStatuses"]];
    for container in containers.into_iter().filter_map(Value::as_array).flatten() {
        let image = container["image"].as_str().unwrap_or_default();
        line.push_str(&format!("; {image}: {}", container["state"]));
    }
    for condition in status["conditions"].as_array().into_iter().flatten().filter(|condition| condition["message"].is_string()) {
        line.push_str(&format!("; {}: {}", condition["type"], condition["message"]));
    }
    line
}
