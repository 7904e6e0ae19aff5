//! Asking an agent without a container runtime.

use anyhow::{Context as _, Result, ensure};
use kuik_e2e::http::{self, ACCEPT_MANIFESTS, Reply};
use serde_json::Value;

use super::tenant::Shown;
use crate::kuik::{Kuik, NAMESPACE, rewritten};

/// Where the runtime asks, seen from its node.
pub(super) const RUNTIME_ADDRESS: &str = "127.0.0.1:7439";

/// The path of something of an image's repository, as agents know it, such as `manifests/1`.
pub(super) fn path(image: &str, below: &str) -> Result<String> {
    Ok(format!("/v2/{}/{below}", parts(image)?.0))
}

/// The path of the manifest that an image's tag stands for.
pub(super) fn manifest(image: &str) -> Result<String> {
    let (repository, tag) = parts(image)?;
    Ok(format!("/v2/{repository}/manifests/{tag}"))
}

fn parts(image: &str) -> Result<(String, String)> {
    let local = rewritten(image)?;
    let rest = local.strip_prefix("localhost:7439/").with_context(|| local.clone())?;
    let (repository, tag) = rest.rsplit_once(':').with_context(|| format!("{image} must have a tag"))?;
    Ok((repository.to_owned(), tag.to_owned()))
}

/// What the agent of a node answers to its runtime.
pub(super) fn ask(kuik: &Kuik<'_>, node: &str, path: &str, shown: Option<&Shown>) -> Result<Reply> {
    let (url, authorization) = (format!("http://{RUNTIME_ADDRESS}{path}"), shown.map(Shown::header));
    let mut headers = vec![("accept", ACCEPT_MANIFESTS)];
    headers.extend(authorization.as_deref().map(|value| ("authorization", value)));
    kuik.cluster()?.node_named(node)?.inside(|| http::send("GET", &url, &headers, &[]))
}

/// Expects this status, and all these words in the message of an error.
pub(super) fn expect(kuik: &Kuik<'_>, node: &str, path: &str, shown: Option<&Shown>, status: u16, words: &[&str]) -> Result<Reply> {
    let reply = ask(kuik, node, path, shown)?;
    let body = String::from_utf8_lossy(&reply.body);
    ensure!(reply.status == status, "GET {path}: {} instead of {status}: {body}", reply.status);
    if !words.is_empty() {
        let error: Value = serde_json::from_slice(&reply.body).with_context(|| format!("GET {path}: {body}"))?;
        let message = error["errors"][0]["message"].as_str().unwrap_or_default();
        ensure!(words.iter().all(|word| message.contains(word)), "GET {path} says {message:?}, without {words:?}");
    }
    Ok(reply)
}

/// The address of the agent of a node in the pod network.
pub(super) fn agent_address(kuik: &Kuik<'_>, node: &str) -> Result<String> {
    let pod = kuik.kube.json(&["get", "pod", "-n", NAMESPACE, &kuik.agent(node)?])?;
    Ok(pod["status"]["podIP"].as_str().context("an agent must have an address")?.to_owned())
}
