//! The cluster itself: what every other test takes for granted.

use anyhow::{Result, ensure};
use kuik_e2e::containerd::Release;
use kuik_e2e::images;
use kuik_e2e::kube::{pod, with_temp_ns};

use crate::env::Env;

/// Both releases of containerd are in the cluster, and every node has a zone of its own.
pub(crate) fn nodes_are_ready_with_both_containerds(env: &Env) -> Result<()> {
    let cluster = env.cluster()?;
    for node in cluster.nodes() {
        let value = env.kube()?.json(&["get", "node", &node.name()])?;
        let expected = match node.release() {
            Release::V1_6 => "containerd://1.6.",
            Release::V2_2 => "containerd://2.2.",
        };
        let runtime = value["status"]["nodeInfo"]["containerRuntimeVersion"].as_str().unwrap_or_default();
        ensure!(runtime.starts_with(expected), "{} runs {runtime}, not {expected}x", node.name());
        let zone = &value["metadata"]["labels"]["topology.kubernetes.io/zone"];
        ensure!(zone.is_string(), "{} has no zone", node.name());
    }
    let releases = cluster.nodes().iter().filter(|node| matches!(node.release(), Release::V2_2)).count();
    ensure!(releases == 1, "one node has the new containerd, not {releases}");
    Ok(())
}

/// A pod on each node, from the upstream registry with nothing of ours between.
pub(crate) fn pods_run_from_the_upstream_registry(env: &Env) -> Result<()> {
    let cluster = env.cluster()?;
    let upstream = cluster.upstream();
    upstream.push("nodes/app", "v1", &images::multi_arch("straight from upstream")?)?;
    with_temp_ns(env.kube()?, "nodes", |ns| {
        for node in cluster.nodes() {
            let mut pod = pod(&format!("on-{}", node.name()), &upstream.image("nodes/app", ":v1"));
            pod["spec"]["nodeName"] = node.name().into();
            ns.apply(&pod)?;
        }
        for node in cluster.nodes() {
            let name = format!("on-{}", node.name());
            ns.wait_running(&name)?;
            let said = ns.logs(&name)?;
            ensure!(said.starts_with("straight from upstream"), "{name} said {said:?}");
        }
        Ok(())
    })
}
