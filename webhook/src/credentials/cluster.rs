//! What the API server is asked: the pods of a namespace on a node, service accounts, Secrets. Each by itself, and none is watched: this
//! program holds no secret that nobody asks for.

use std::fmt;

use http::Request;
use http::header::{ACCEPT, CONTENT_LENGTH};
use http_body_util::BodyExt as _;
use k8s_openapi::api::core::v1::{LocalObjectReference, Pod, ServiceAccount};
use kube::api::ListParams;
use kube::client::Body;
use kube::{Api, Client};
use kuik_crd::pull_token::SECRET_NAME;
use secrecy::zeroize::Zeroizing;

use super::secret::PullSecret;

/// Pods of one namespace on one node that are looked at. A node has some hundreds of all namespaces.
const PODS_MAX: u32 = 500;

/// The largest Secret, in bytes of JSON: 1 MiB of data in base64, the same in an annotation, and names.
const SECRET_BYTES_MAX: usize = 4 << 20;

/// Room for a Secret whose size is not told before it comes.
const SECRET_BYTES_USUAL: usize = 64 << 10;

/// Why the API server did not say what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClusterError {
    #[error("the API server did not say which pods of the namespace are on the node")]
    Pods(#[source] kube::Error),
    #[error("the API server did not give the service account {0}")]
    ServiceAccount(String, #[source] kube::Error),
    #[error("the API server did not give the Secret {0}")]
    Secret(String, #[source] kube::Error),
    #[error("the API server did not give the Secret {0}: it answered with status {1}")]
    Status(String, u16),
    /// The parser's own text may quote a secret.
    #[error("what the API server gave for the Secret {0} is none, or is too large")]
    Foreign(String),
}

/// One object, as far as it may be seen.
#[derive(Debug)]
pub(super) enum Seen<T> {
    Object(T),
    /// It does not exist.
    Missing,
    /// We may not see it.
    Denied,
}

/// What the pods of a namespace on a node name, each once, in the order of the pods.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) secrets: Vec<String>,
    pub(super) service_accounts: Vec<String>,
}

/// The API server.
pub(super) struct Cluster {
    client: Client,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").finish_non_exhaustive()
    }
}

impl Cluster {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    /// What pods that are not finished name. `None` if there are no such pods.
    pub(super) async fn pods(&self, namespace: &str, node: &str) -> Result<Option<Named>, ClusterError> {
        // Without a resource version the answer is no older than the question: a pod that was scheduled just now is in it.
        let selector = format!("spec.nodeName={node},status.phase!=Succeeded,status.phase!=Failed");
        let wanted = ListParams::default().fields(&selector).limit(PODS_MAX);
        let pods = Api::<Pod>::namespaced(self.client.clone(), namespace).list(&wanted).await.map_err(ClusterError::Pods)?;
        let mut named = None;
        for pod in pods.items.into_iter().filter(|pod| is_active(pod, node)) {
            named.get_or_insert_with(Named::default).take(pod);
        }
        Ok(named)
    }

    /// The Secrets that a service account names.
    pub(super) async fn service_account(&self, namespace: &str, name: &str) -> Result<Seen<Vec<String>>, ClusterError> {
        match Api::<ServiceAccount>::namespaced(self.client.clone(), namespace).get(name).await {
            Ok(account) => Ok(Seen::Object(names(account.image_pull_secrets))),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Seen::Missing),
            Err(kube::Error::Api(status)) if status.code == 403 => Ok(Seen::Denied),
            Err(error) => Err(ClusterError::ServiceAccount(name.to_owned(), error)),
        }
    }

    /// A Secret. Read by hand: where kube cannot read an answer, it logs it.
    pub(super) async fn secret(&self, namespace: &str, name: &str) -> Result<Seen<PullSecret>, ClusterError> {
        let failed = |error| ClusterError::Secret(name.to_owned(), error);
        let request = Request::get(format!("/api/v1/namespaces/{namespace}/secrets/{name}"))
            .header(ACCEPT, "application/json")
            .body(Body::empty())
            .map_err(|error| failed(kube::Error::HttpError(error)))?;
        let response = self.client.send(request).await.map_err(failed)?;
        match response.status().as_u16() {
            200 => {}
            404 => return Ok(Seen::Missing),
            403 => return Ok(Seen::Denied),
            status => return Err(ClusterError::Status(name.to_owned(), status)),
        }
        let foreign = || ClusterError::Foreign(name.to_owned());
        let said = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        // With room for all of it from the start, no copy is left behind in memory that was given back.
        let mut bytes = Zeroizing::new(Vec::with_capacity(said.unwrap_or(SECRET_BYTES_USUAL).min(SECRET_BYTES_MAX)));
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            let data = frame.map_err(failed)?.into_data().unwrap_or_default();
            if bytes.len() + data.len() > SECRET_BYTES_MAX {
                return Err(foreign());
            }
            bytes.extend_from_slice(&data);
        }
        PullSecret::read(&bytes).map(Seen::Object).ok_or_else(foreign)
    }
}

impl Named {
    fn take(&mut self, pod: Pod) {
        let spec = pod.spec.unwrap_or_default();
        let account = spec.service_account_name.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".to_owned());
        add(&mut self.service_accounts, [account]);
        add(&mut self.secrets, names(spec.image_pull_secrets));
    }
}

/// Adds what is not there yet.
pub(super) fn add(known: &mut Vec<String>, names: impl IntoIterator<Item = String>) {
    for name in names {
        if !known.contains(&name) {
            known.push(name);
        }
    }
}

/// The names but for our own Secret, which is for nobody but the agents.
fn names(references: Option<Vec<LocalObjectReference>>) -> Vec<String> {
    let names = references.unwrap_or_default().into_iter().map(|reference| reference.name);
    names.filter(|name| !name.is_empty() && name != SECRET_NAME).collect()
}

/// Whether it may still have something to pull there, whatever the selector came to.
fn is_active(pod: &Pod, node: &str) -> bool {
    let is_there = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node);
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    is_there && !matches!(phase, Some("Succeeded" | "Failed"))
}
