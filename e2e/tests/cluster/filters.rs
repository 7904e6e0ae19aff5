//! Which pods are left alone.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kuik_e2e::images;
use kuik_e2e::kube::{pod, with_temp_ns};
use serde_json::{Value, json};

use crate::env::Env;
use crate::kuik::{IGNORED_LABEL, IGNORED_NAMESPACE, Kuik, NAMESPACE, image_of, pod_on, rewritten};

const IMAGE: &str = "quay.io/team/app:1";

/// Each of the three filters alone leaves a pod as it is, and so do the namespaces that are always left alone.
pub(crate) fn each_filter_leaves_pods_alone(env: &Env) -> Result<()> {
    let kuik = Kuik::installed(env)?;
    let existing = kuik.kube.kubectl(&["get", "namespace", IGNORED_NAMESPACE, "--ignore-not-found", "-o", "name"])?;
    if existing.is_empty() {
        kuik.kube.kubectl(&["create", "namespace", IGNORED_NAMESPACE])?;
    }
    kuik.kube.wait_json(
        "its service account",
        Duration::from_secs(30),
        &["get", "serviceaccount", "default", "-n", IGNORED_NAMESPACE],
        |_| Ok(()),
    )?;
    let labelled = |key: &str, value: &str| {
        let mut pod = pod("app", IMAGE);
        pod["metadata"]["labels"][key] = value.into();
        pod
    };
    let (key, value) = IGNORED_LABEL;
    let left_alone = [
        ("the label", "default", labelled("kube-image-keeper.enix.io/image-caching-policy", "ignore")),
        ("objectSelector", "default", labelled(key, value)),
        ("ignoredNamespaces", IGNORED_NAMESPACE, pod("app", IMAGE)),
        ("kube-system", "kube-system", pod("app", IMAGE)),
        ("the release's namespace", NAMESPACE, pod("app", IMAGE)),
    ];
    for (filter, namespace, pod) in left_alone {
        let admitted = kuik.dry_run(namespace, &pod)?;
        ensure!(image_of(&admitted) == IMAGE, "{filter} did not keep the pod from being rewritten: {}", image_of(&admitted));
        let touched = admitted["metadata"]["annotations"].to_string().contains("original-image-");
        ensure!(!touched, "{filter}: {}", admitted["metadata"]);
    }
    // The same pods without what the filters look at.
    for pod in [pod("app", IMAGE), labelled(key, "other"), labelled("kube-image-keeper.enix.io/image-caching-policy", "keep")] {
        let admitted = kuik.dry_run("default", &pod)?;
        ensure!(image_of(&admitted) == rewritten(IMAGE)?, "{} should have been rewritten", image_of(&admitted));
    }
    Ok(())
}

/// Policy `Never`, the annotation that turns rewriting off, and what cannot be parsed.
pub(crate) fn some_containers_are_left_alone(env: &Env) -> Result<()> {
    let kuik = Kuik::installed(env)?;
    let mut two = pod("app", IMAGE);
    let mut never = two["spec"]["containers"][0].clone();
    never["name"] = "never".into();
    never["imagePullPolicy"] = "Never".into();
    two["spec"]["containers"].as_array_mut().context("containers")?.push(never);
    two["spec"]["initContainers"] = json!([{ "name": "first", "image": "busybox" }]);
    let admitted = kuik.dry_run("default", &two)?;
    let images = |pod: &Value, kind: &str| -> Vec<String> {
        let containers = pod["spec"][kind].as_array().into_iter().flatten();
        containers.map(|container| container["image"].as_str().unwrap_or_default().to_owned()).collect()
    };
    ensure!(images(&admitted, "containers") == [rewritten(IMAGE)?, IMAGE.to_owned()], "{}", admitted["spec"]);
    ensure!(images(&admitted, "initContainers") == ["localhost:7439/docker.io/library/busybox:latest"], "{}", admitted["spec"]);
    ensure!(admitted["metadata"]["annotations"]["original-init-image-first"] == "busybox", "{}", admitted["metadata"]);

    let mut off = pod("app", IMAGE);
    off["metadata"]["annotations"] = json!({ "kuik.enix.io/rewrite-images": "false" });
    let admitted = kuik.dry_run("default", &off)?;
    ensure!(image_of(&admitted) == IMAGE, "{}", image_of(&admitted));
    Ok(())
}

/// A static pod's mirror in the API is the kubelet's, not ours.
pub(crate) fn mirror_pods_are_left_alone(env: &Env) -> Result<()> {
    let kuik = Kuik::installed(env)?;
    let mut mirror = pod_on("node1", "app", IMAGE);
    mirror["metadata"]["annotations"] = json!({ "kubernetes.io/config.mirror": "0123456789abcdef" });
    let admitted = kuik.dry_run("default", &mirror)?;
    ensure!(image_of(&admitted) == IMAGE, "{}", image_of(&admitted));
    Ok(())
}

/// `kubectl debug` adds a container to a running pod: its image is rewritten too, and starts.
pub(crate) fn a_debug_container_is_rewritten(env: &Env) -> Result<()> {
    let kuik = Kuik::installed(env)?;
    let image = kuik.push("debug/app", "1", &images::oci("to be debugged")?)?;
    let tools = kuik.push("debug/tools", "1", &images::running(&["sleep", "600"])?)?;
    let node = kuik.node(1)?;
    with_temp_ns(kuik.kube, "debug", |ns| {
        crate::kuik::run_rewritten(ns, &node, "app", &image)?;
        ns.kubectl(&[
            "debug",
            "app",
            &format!("--image={tools}"),
            "--container=debugger",
            "--profile=general",
            "--",
            "/bin/busybox",
            "sleep",
            "600",
        ])?;
        let expected = rewritten(&tools)?;
        ns.wait_pod("app", "have its debugger running", Duration::from_secs(60), |pod| {
            let spec = &pod["spec"]["ephemeralContainers"][0];
            ensure!(spec["image"] == expected.as_str(), "{spec}");
            let status = &pod["status"]["ephemeralContainerStatuses"][0];
            ensure!(status["state"]["running"].is_object(), "{status}");
            Ok(())
        })?;
        kuik.wait_cached(&tools, &[&node]).map(drop)
    })
}
