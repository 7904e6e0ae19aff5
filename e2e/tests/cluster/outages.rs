//! What the other tests break is really broken, and whole again afterwards.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kuik_e2e::cluster::{Cluster, Upstream};
use kuik_e2e::images;
use kuik_e2e::kube::{Namespace, pod, with_temp_ns};

use crate::env::Env;

const AGAIN_LIMIT: Duration = Duration::from_secs(90);

/// Once a node has forgotten an image, a pod there waits for as long as upstream is gone, and runs when it is back.
pub(crate) fn a_pod_waits_for_an_upstream_that_is_gone(env: &Env) -> Result<()> {
    let cluster = env.cluster()?;
    let upstream = cluster.upstream();
    upstream.push("outages/app", "v1", &images::oci("after the outage")?)?;
    with_temp_ns(env.kube()?, "outages", |ns| {
        start_on_node2(cluster, &upstream, ns, "before")?;
        ns.wait_running("before")?;
        ns.delete_object("pod/before")?;

        upstream.stop()?;
        start_on_node2(cluster, &upstream, ns, "during")?;
        let failed = ns.wait_pull_failure("during").context("upstream is stopped");
        upstream.start()?;
        failed?;
        ns.wait_running_within("during", AGAIN_LIMIT)?;
        ensure!(ns.logs("during")? == "after the outage\n", "it must run what was pushed");
        ensure!(upstream.requests("/v2/outages/app/manifests/v1")? >= 2, "both pods must have asked upstream");
        Ok(())
    })
}

/// The registry falls silent while the API server, at the same address, answers.
pub(crate) fn a_cut_upstream_is_silent(env: &Env) -> Result<()> {
    let cluster = env.cluster()?;
    let upstream = cluster.upstream();
    let probe = format!("curl --silent --show-error --max-time 2 http://{}/v2/", upstream.host());
    let node = cluster.node(1)?;
    node.sh(&probe)?;
    upstream.cut()?;
    let silent = node.sh(&probe);
    let api = env.kube()?.kubectl(&["get", "nodes"]);
    upstream.restore()?;
    let error = silent.err().context("a registry that is cut off must not answer")?.to_string();
    ensure!(error.contains("timed out"), "it was not silent: {error}");
    api.context("the API server must not be cut off")?;
    node.sh(&probe).map(drop)
}

/// A node is taken off the network and put back.
pub(crate) fn an_unplugged_node_reaches_nobody(env: &Env) -> Result<()> {
    let node = env.cluster()?.node(3)?;
    let probe = format!("curl --silent --show-error --max-time 2 http://{}/v2/", env.cluster()?.upstream().host());
    node.unplug()?;
    let alone = node.sh(&probe);
    node.plug()?;
    ensure!(alone.is_err(), "a node without a cable must reach nobody");
    node.sh(&probe).map(drop)
}

/// Without the API server running pods stay, and it comes back as it was.
pub(crate) fn the_api_server_stops_and_starts(env: &Env) -> Result<()> {
    let cluster = env.cluster()?;
    cluster.stop_api_server()?;
    let refused = env.kube()?.kubectl(&["get", "nodes"]);
    cluster.start_api_server()?;
    ensure!(refused.is_err(), "a stopped API server must not answer");
    env.kube()?.kubectl(&["get", "nodes"]).map(drop)
}

/// The private registry wants a name and a password, which the kubelet takes from a secret.
pub(crate) fn a_private_image_needs_its_secret(env: &Env) -> Result<()> {
    let upstream = env.cluster()?.private_upstream();
    upstream.start()?;
    ensure!(upstream.get("/v2/")?.status == 401, "the private registry must refuse strangers");
    upstream.push("outages/secret", "v1", &images::oci("a secret")?)?;
    let outcome = with_temp_ns(env.kube()?, "private", |ns| {
        ns.apply(&pod("stranger", &upstream.image("outages/secret", ":v1")))?;
        ns.wait_pull_failure("stranger")?;
        ns.create_pull_secret("upstream", &upstream)?;
        let mut friend = pod("friend", &upstream.image("outages/secret", ":v1"));
        friend["spec"]["imagePullSecrets"] = serde_json::json!([{ "name": "upstream" }]);
        ns.apply(&friend)?;
        ns.wait_running("friend").map(drop)
    });
    upstream.stop()?;
    outcome
}

fn start_on_node2(cluster: &Cluster, upstream: &Upstream, ns: &Namespace, name: &str) -> Result<()> {
    let image = upstream.image("outages/app", ":v1");
    let node = cluster.node(2)?;
    node.remove_image(&image)?;
    ensure!(!node.images()?.contains(&image), "node2 must have forgotten {image}");
    let mut pod = pod(name, &image);
    pod["spec"]["nodeName"] = node.name().into();
    ns.apply(&pod)
}
