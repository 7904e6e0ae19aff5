//! etcd, the API server, the controllers and the scheduler, all in the hub.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::enter;
use super::layout::{HUB, Layout, Place};
use super::service::Service;
use crate::process::run_text;
use crate::tools;

const START_LIMIT: Duration = Duration::from_secs(60);
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Defines everything, and starts what the API server needs and itself.
pub(super) fn start_api(layout: &Layout) -> Result<()> {
    define(layout, "etcd", &tools::debian("etcd")?.display().to_string(), &etcd(layout))?;
    define(layout, "kube-apiserver", &built("kube-apiserver")?, &api_server(layout))?;
    define(layout, "kube-controller-manager", &built("kube-controller-manager")?, &controllers(layout))?;
    define(layout, "kube-scheduler", &built("kube-scheduler")?, &scheduler(layout))?;
    service(layout, "etcd").start()?;
    service(layout, "kube-apiserver").start()
}

/// Waits for the API server, and starts what needs it.
pub(super) fn start_rest(layout: &Layout) -> Result<()> {
    wait_api(layout)?;
    service(layout, "kube-controller-manager").start()?;
    service(layout, "kube-scheduler").start()
}

/// Waits until the API server says that it is ready.
pub(super) fn wait_api(layout: &Layout) -> Result<()> {
    let kubectl = tools::built("kubectl")?;
    service(layout, "kube-apiserver").wait_ready(START_LIMIT, || {
        let mut probe = enter::command(layout, Place::Hub, &kubectl);
        Ok(run_text(probe.args(["get", "--raw=/readyz", "--request-timeout=5s"]))? == "ok")
    })
}

/// A process of the control plane.
pub(super) fn service(layout: &Layout, name: &str) -> Service {
    Service::new(layout, Place::Hub, name)
}

/// The version of Kubernetes that was built.
pub(super) fn version() -> Result<String> {
    let said = run_text(Command::new(tools::built("kubelet")?).arg("--version"))?;
    Ok(said.trim().rsplit(' ').next().context("kubelet must tell its version")?.to_owned())
}

fn built(name: &str) -> Result<String> {
    Ok(tools::built(name)?.display().to_string())
}

fn define(layout: &Layout, name: &str, program: &str, arguments: &[String]) -> Result<()> {
    let argv: Vec<String> = std::iter::once(program.to_owned()).chain(arguments.iter().cloned()).collect();
    service(layout, name).define(PATH, &argv)
}

/// Nothing here outlives the power: nothing is synced.
fn etcd(layout: &Layout) -> Vec<String> {
    vec![
        format!("--data-dir={}", layout.path("etcd").display()),
        "--listen-client-urls=http://127.0.0.1:2379".to_owned(),
        "--advertise-client-urls=http://127.0.0.1:2379".to_owned(),
        "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
        "--unsafe-no-fsync".to_owned(),
    ]
}

/// Aggregator routing lets it reach a webhook's Service without a kube-proxy beside it; addresses of nodes are used as they
/// are, because there is no DNS.
fn api_server(layout: &Layout) -> Vec<String> {
    let pki = layout.path("pki").display().to_string();
    vec![
        "--etcd-servers=http://127.0.0.1:2379".to_owned(),
        "--bind-address=0.0.0.0".to_owned(),
        format!("--advertise-address={HUB}"),
        "--secure-port=6443".to_owned(),
        format!("--tls-cert-file={pki}/apiserver.crt"),
        format!("--tls-private-key-file={pki}/apiserver.key"),
        format!("--client-ca-file={pki}/ca.crt"),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={pki}/accounts.pub"),
        format!("--service-account-signing-key-file={pki}/accounts.key"),
        format!("--token-auth-file={pki}/tokens.csv"),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--allow-privileged=true".to_owned(),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        "--enable-aggregator-routing=true".to_owned(),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        "--shutdown-delay-duration=0s".to_owned(),
    ]
}

fn controllers(layout: &Layout) -> Vec<String> {
    let pki = layout.path("pki").display().to_string();
    vec![
        format!("--kubeconfig={}", layout.kubeconfig().display()),
        format!("--service-account-private-key-file={pki}/accounts.key"),
        format!("--root-ca-file={pki}/ca.crt"),
        format!("--cluster-signing-cert-file={pki}/ca.crt"),
        format!("--cluster-signing-key-file={pki}/ca.key"),
        "--use-service-account-credentials=true".to_owned(),
        "--leader-elect=false".to_owned(),
    ]
}

fn scheduler(layout: &Layout) -> Vec<String> {
    vec![format!("--kubeconfig={}", layout.kubeconfig().display()), "--leader-elect=false".to_owned()]
}
