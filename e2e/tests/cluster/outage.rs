//! What goes on when something is away: the registry, the API server, an agent.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kuik_e2e::images;
use kuik_e2e::kube::with_temp_ns;
use kuik_e2e::wait;
use serde_json::json;

use crate::env::Env;
use crate::kuik::{Kuik, NAMESPACE, copies, pod_on, repository_of_this_run, rewritten, run_rewritten};

/// The registry is stopped, and the runtime has forgotten the image: it starts all the same.
pub(crate) fn an_image_starts_again_without_its_registry(env: &Env) -> Result<()> {
    env.cluster()?;
    let kuik = Kuik::installed(env)?;
    let image = kuik.push("outage/app", "1", &images::oci("kept by the node")?)?;
    with_temp_ns(kuik.kube, "outage", |ns| {
        for node in ["node1", "node2"] {
            run_rewritten(ns, node, &format!("before-{node}"), &image)?;
            ns.delete_object(&format!("pod/before-{node}"))?;
            let node = kuik.cluster()?.node_named(node)?;
            node.remove_image(&rewritten(&image)?)?;
            ensure!(!node.images()?.contains(&rewritten(&image)?), "containerd still has the image");
        }
        kuik.upstream()?.stop()?;
        let started = ["node1", "node2"].into_iter().try_for_each(|node| {
            let name = format!("after-{node}");
            run_rewritten(ns, node, &name, &image)?;
            ensure!(ns.logs(&name)?.starts_with("kept by the node"), "another image runs");
            Ok(())
        });
        kuik.upstream()?.start()?;
        started
    })
}

/// The tag is deleted upstream: it starts all the same, and the `CachedImage` says that it is gone.
pub(crate) fn an_image_that_upstream_deleted_starts_and_says_so(env: &Env) -> Result<()> {
    env.cluster()?;
    let kuik = Kuik::installed(env)?;
    let content = images::oci("deleted upstream")?;
    let image = kuik.push("outage/deleted", "1", &content)?;
    with_temp_ns(kuik.kube, "deleted", |ns| {
        run_rewritten(ns, "node3", "before", &image)?;
        kuik.wait_cached(&image, &["node3"])?;
        ns.delete_object("pod/before")?;
        kuik.upstream()?.delete_manifest(&repository_of_this_run("outage/deleted"), &content.root().digest)?;
        kuik.cluster()?.node_named("node3")?.remove_image(&rewritten(&image)?)?;
        run_rewritten(ns, "node3", "after", &image)?;
        kuik.wait_image("gone upstream", &image, |object| {
            ensure!(object["status"]["availableUpstream"] == false, "{}", object["status"]);
            Ok(())
        })
    })
}

/// A minute without the API server: nodes pull what they have and what they do not have yet, and the status catches up.
pub(crate) fn pulls_go_on_without_the_api_server(env: &Env) -> Result<()> {
    env.cluster()?;
    let kuik = Kuik::installed(env)?;
    let known = kuik.push("api/known", "1", &images::oci("known before")?)?;
    let new = kuik.push("api/new", "1", &images::oci("new during the outage")?)?;
    with_temp_ns(kuik.kube, "api", |ns| {
        run_rewritten(ns, "node1", "before", &known)?;
        kuik.wait_cached(&known, &["node1"])?;
        let (node1, node2) = (kuik.cluster()?.node_named("node1")?, kuik.cluster()?.node_named("node2")?);
        let agents: Vec<String> = ["node1", "node2"].into_iter().map(|node| kuik.agent(node)).collect::<Result<_>>()?;
        node1.remove_image(&rewritten(&known)?)?;

        kuik.cluster()?.stop_api_server()?;
        let since = Instant::now();
        let pulled = wait::until_every(Duration::from_secs(5), "a minute of pulls without an API server", Duration::from_secs(120), || {
            for image in [&known, &new] {
                for node in [&node1, &node2] {
                    node.ctr(&["images", "pull", "--plain-http", &rewritten(image)?])?;
                    node.remove_image(&rewritten(image)?)?;
                }
            }
            Ok((since.elapsed() >= Duration::from_secs(60)).then_some(()))
        });
        kuik.cluster()?.start_api_server()?;
        pulled?;

        let after: Vec<String> = ["node1", "node2"].into_iter().map(|node| kuik.agent(node)).collect::<Result<_>>()?;
        ensure!(agents == after, "the agents were replaced: {agents:?}, {after:?}");
        kuik.wait_image("cached on both nodes", &known, |object| {
            ensure!(copies(object, "Ready").len() >= 2, "{}", object["status"]);
            Ok(())
        })?;
        kuik.wait_rewriting()?;
        run_rewritten(ns, "node2", "after", &new)?;
        kuik.wait_cached(&new, &["node1", "node2"]).map(drop)
    })
}

/// An agent's pod is deleted while nodes pull through it: the kubelet's next try succeeds, and what is stored is sound.
pub(crate) fn an_agent_that_is_deleted_under_load_costs_a_retry(env: &Env) -> Result<()> {
    const PODS: usize = 6;
    let kuik = Kuik::installed(env)?;
    let node = kuik.node(1)?;
    let images: Vec<String> = (0..PODS)
        .map(|number| kuik.push(&format!("load/app{number}"), "1", &images::big(&format!("load {number}"), 48 << 20)?))
        .collect::<Result<_>>()?;
    with_temp_ns(kuik.kube, "load", |ns| {
        let before = kuik.agent(&node)?;
        let pods: Vec<_> = images.iter().enumerate().map(|(number, image)| pod_on(&node, &format!("app{number}"), image)).collect();
        ns.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": pods }))?;
        // The kubelet pulls one after another, so that the last is waiting still.
        ns.wait_pod("app0", "be taken up by the kubelet", Duration::from_secs(60), |pod| {
            ensure!(pod["status"]["containerStatuses"].is_array(), "{}", pod["status"]);
            Ok(())
        })?;
        kuik.kube.kubectl(&["delete", "pod", "-n", NAMESPACE, &before, "--grace-period=0", "--force"])?;
        for number in 0..PODS {
            ns.wait_running_within(&format!("app{number}"), Duration::from_secs(180))?;
        }
        ensure!(kuik.agent(&node)? != before, "the agent was not replaced");
        let report = kuik.on_agent(&node, &["verify"])?;
        ensure!(report.contains(": 0 quarantined"), "{report}");
        Ok(())
    })
}
