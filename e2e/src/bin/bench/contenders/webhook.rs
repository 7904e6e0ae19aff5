//! kuik-webhook, as it comes, with what the chart makes for it: a service account, the definitions, the webhook's configuration.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use kuik_e2e::kube::Kube;
use kuik_e2e::{http, wait};
use serde_json::{Value, json};

use crate::control_plane::ControlPlane;
use crate::lab::Lab;
use crate::process::Process;

/// The namespace of the release.
pub(crate) const NAMESPACE: &str = "kuik-system";
/// What the release's names begin with.
pub(crate) const NAME: &str = "kube-image-keeper";
/// The webhook's service account; it has every right, for what it may do is the chart's matter.
pub(crate) const ACCOUNT: &str = "kube-image-keeper-webhook";

const START_LIMIT: Duration = Duration::from_secs(60);
const METRICS: &str = "http://127.0.0.1:8080";

/// A release without a running program.
pub(crate) struct Release {
    program: PathBuf,
    folder: PathBuf,
    kubeconfig: PathBuf,
    kube: Kube,
}

impl Release {
    /// Makes the objects.
    pub(crate) fn install(lab: &Lab, plane: &ControlPlane) -> Result<Self> {
        let program = lab.webhook.clone().context("no webhook to measure: build it, or set KUIK_WEBHOOK_BIN")?;
        let kube = plane.kube();
        kube.kubectl(&["apply", "--server-side", "-f", &lab.repository.join("chart/crds").display().to_string()])?;
        kube.apply(&objects().to_string())?;
        let token = kube.kubectl(&["create", "token", ACCOUNT, "--namespace", NAMESPACE, "--duration=12h"])?;
        let folder = lab.folder("webhook")?;
        let kubeconfig = folder.join("kubeconfig");
        let text = fs::read_to_string(plane.kubeconfig()).context("cannot read the administrator's kubeconfig")?;
        let mut config: Value = serde_json::from_str(&text).context("the administrator's kubeconfig must be JSON")?;
        config["users"][0]["user"]["token"] = token.trim().into();
        fs::write(&kubeconfig, config.to_string()).context("cannot write the webhook's kubeconfig")?;
        Ok(Self { program, folder, kubeconfig, kube })
    }

    /// Starts it where the calling thread is, and does not wait.
    pub(crate) fn launch(&self) -> Result<Process> {
        let arguments = [
            "serve".to_owned(),
            format!("--namespace={NAMESPACE}"),
            format!("--pod-name={NAME}-webhook-0"),
            format!("--pod-ip={}", Ipv4Addr::LOCALHOST),
        ];
        let kubeconfig = self.kubeconfig.display().to_string();
        Process::start(&self.program, &arguments, &[("KUBECONFIG", &kubeconfig)], &self.log())
    }

    /// Starts it and waits until it is ready.
    pub(crate) fn start(&self) -> Result<Process> {
        let mut process = self.launch()?;
        self.wait_ready(&mut process)?;
        Ok(process)
    }

    pub(crate) fn wait_ready(&self, process: &mut Process) -> Result<()> {
        wait::until("the webhook to be ready", START_LIMIT, || {
            process.check()?;
            let answer = http::get(&format!("{METRICS}/readyz"))?;
            Ok((answer.status == 200).then_some(()))
        })
        .with_context(|| self.log_tail())
    }

    /// The file of the authority that signs its certificates.
    pub(crate) fn authority(&self) -> Result<PathBuf> {
        let file = self.folder.join("ca.crt");
        let map = format!("{NAME}-ca");
        let arguments = ["get", "configmap", &map, "--namespace", NAMESPACE, "--output=jsonpath={.data.ca\\.crt}"];
        let text = wait::until("the authority's certificate", START_LIMIT, || {
            let text = self.kube.kubectl(&arguments)?;
            Ok(text.contains("BEGIN CERTIFICATE").then_some(text))
        })?;
        fs::write(&file, text).context("cannot write the authority's certificate")?;
        Ok(file)
    }

    /// The last lines of what it wrote.
    pub(crate) fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(30)..).unwrap_or_default();
        format!("the end of the webhook's log:\n{}", tail.join("\n"))
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }
}

/// A host name of the serving certificate: that of the Service `NAME-service`.
pub(crate) fn host(service: &str) -> String {
    format!("{NAME}-{service}.{NAMESPACE}.svc")
}

/// The sum of the samples of a counter whose labels hold `label`.
pub(crate) fn counted(metrics: &str, name: &str, label: &str) -> u64 {
    let samples = metrics.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    let values = samples.filter(|line| line.contains(label)).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    // Counters of whole numbers, which some write with a dot.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a counter is a whole number far below 2^53")]
    let sum = values.sum::<f64>() as u64;
    sum
}

/// The webhook's own metrics.
pub(crate) fn metrics() -> Result<String> {
    String::from_utf8(http::get(&format!("{METRICS}/metrics"))?.body).context("metrics must be text")
}

/// The webhook's configuration selects nothing: nobody is to be in the way of the API server while pods are made.
fn objects() -> Value {
    let account =
        |name: &str| json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name, "namespace": NAMESPACE } });
    json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } },
        account(ACCOUNT),
        account(&format!("{NAME}-agent")),
        {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": ACCOUNT },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
            "subjects": [{ "kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE }],
        },
        {
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration", "metadata": { "name": NAME },
            "webhooks": [{
                "name": "mpod.kuik.enix.io", "failurePolicy": "Ignore", "sideEffects": "None", "admissionReviewVersions": ["v1"],
                "clientConfig": { "service": { "name": format!("{NAME}-webhook"), "namespace": NAMESPACE, "path": "/mutate-core-v1-pod" } },
                "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"] }],
                "objectSelector": { "matchLabels": { "bench": "nothing" } },
            }],
        },
    ] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_summed_over_the_samples_that_have_the_label() {
        let metrics = "# HELP taken_total Calls.\ntaken_total{who=\"a\"} 3\ntaken_total{who=\"b\"} 4e+00\ntaken_total_since{who=\"a\"} 9\n";
        assert_eq!(counted(metrics, "taken_total", "who=\"a\""), 3);
        assert_eq!(counted(metrics, "taken_total", ""), 7);
        assert_eq!(counted(metrics, "given_total", ""), 0);
    }
}
