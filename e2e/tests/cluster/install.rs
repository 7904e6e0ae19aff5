//! What a fresh install shows.

use anyhow::{Context as _, Result, ensure};
use kuik_e2e::images;
use kuik_e2e::kube::with_temp_ns;
use serde_json::{Value, json};

use crate::env::Env;
use crate::kuik::{Kuik, NAMESPACE, STATUS_LIMIT, name_of, repository_root, run_rewritten};

/// One command without a value, and everything is ready: an agent on every node, two webhooks, and a `NodeCache` for every node.
pub(crate) fn one_command_makes_everything_ready(env: &Env) -> Result<()> {
    let kuik = Kuik::here(env)?;
    kuik.cluster()?;
    kuik.install_anew_without_values()?;
    let agents = kuik.kube.json(&["get", "daemonset", "-n", NAMESPACE, "kube-image-keeper-agent"])?;
    let nodes = kuik.kube.json(&["get", "nodes"])?["items"].as_array().context("a list of nodes")?.len();
    ensure!(agents["status"]["numberReady"] == nodes, "{}", agents["status"]);
    let webhooks = kuik.kube.json(&["get", "deployment", "-n", NAMESPACE, "kube-image-keeper-webhook"])?;
    ensure!(webhooks["status"]["readyReplicas"] == 2, "{}", webhooks["status"]);
    kuik.kube.wait_json("every node to have a NodeCache that is reported", STATUS_LIMIT, &["get", "nodecaches"], |list| {
        let items = list["items"].as_array().context("a list")?;
        let reported = items.iter().filter(|cache| cache["status"]["agentVersion"].as_str().is_some_and(|version| !version.is_empty()));
        ensure!(reported.count() == nodes, "{list}");
        let owned = items.iter().all(|cache| cache["metadata"]["ownerReferences"][0]["kind"] == "Node");
        ensure!(owned, "a NodeCache must go with its node: {list}");
        Ok(())
    })?;
    let tested = kuik.helm.run(&["test", "kube-image-keeper", "--timeout", "120s"])?;
    ensure!(tested.contains("Succeeded"), "{tested}");
    kuik.install(&json!({}))
}

/// A pod's image is rewritten, pulled through the node's agent, and shown as a `CachedImage` that says all there is to know.
pub(crate) fn a_pod_is_rewritten_starts_and_its_image_is_shown(env: &Env) -> Result<()> {
    let kuik = Kuik::installed(env)?;
    let image = kuik.push("install/app", "1", &images::multi_arch("hello through the agent")?)?;
    let node = kuik.node(2)?;
    with_temp_ns(kuik.kube, "install", |ns| {
        let pod = run_rewritten(ns, &node, "app", &image)?;
        ensure!(ns.logs("app")?.starts_with("hello through the agent"), "another image runs");
        ensure!(pod["metadata"]["annotations"]["original-image-main"] == image.as_str(), "{}", pod["metadata"]);
        ensure!(pod["metadata"]["labels"]["kuik.enix.io/managed"] == "true", "{}", pod["metadata"]);

        let object = kuik.wait_cached(&image, &[&node])?;
        let status = &object["status"];
        ensure!(object["spec"]["sourceImage"] == image.as_str(), "{object}");
        ensure!(status["usedBy"]["count"] == 1, "{status}");
        ensure!(status["usedBy"]["pods"][0]["namespacedName"] == format!("{}/app", ns.name()), "{status}");
        ensure!(status["sizeBytes"].as_u64().is_some_and(|bytes| bytes > 500_000), "{status}");
        ensure!(status["availableUpstream"] == true && status["upToDate"] == true, "{status}");
        ensure!(object["spec"]["expiresAt"].is_null(), "an image in use does not expire: {object}");

        let shown = kuik.kube.kubectl(&["get", "cachedimages"])?;
        let head = shown.lines().next().unwrap_or_default();
        for column in ["STATUS", "CACHED", "RETAIN", "EXPIRES AT", "PODS COUNT", "COPIES", "SIZE", "AGE"] {
            ensure!(head.contains(column), "no column {column} in: {head}");
        }
        described(&kuik, &image)
    })
}

/// `kubectl describe` has these keys and events; the file is the snapshot.
fn described(kuik: &Kuik<'_>, image: &str) -> Result<()> {
    let expected_path = repository_root().join("e2e/tests/cluster/described.txt");
    let expected = std::fs::read_to_string(&expected_path).with_context(|| format!("read {}", expected_path.display()))?;
    let name = name_of(image)?;
    kuik_e2e::wait::until("kubectl describe to have its shape", STATUS_LIMIT, || {
        let text = kuik.kube.kubectl(&["describe", "cachedimage", &name])?;
        let shape = shape(&text);
        ensure!(shape == expected, "the shape of kubectl describe is not that of {}:\n{shape}\nfrom:\n{text}", expected_path.display());
        Ok(Some(()))
    })
}

/// The keys of what `kubectl describe` prints, and the reasons of the events; not what differs from run to run.
fn shape(text: &str) -> String {
    let (object, events) = text.split_once("\nEvents:").unwrap_or((text, ""));
    let mut lines: Vec<String> = Vec::new();
    for line in object.lines().filter(|line| !line.trim().is_empty()) {
        let indent = line.len() - line.trim_start().len();
        let key = line.trim_start().split_once(':').map_or(line.trim(), |(key, _)| key);
        let depth = " ".repeat(indent);
        if indent == 0 || !key.contains('/') {
            lines.push(format!("{depth}{key}:"));
        }
    }
    // Whether there was time to say that it is being fetched, or to fail once, differs.
    let reasons = events.lines().skip(3).filter_map(|line| line.split_whitespace().nth(1));
    let mut reasons: Vec<&str> = reasons.filter(|reason| !["Caching", "CacheFailed"].contains(reason)).collect();
    reasons.sort_unstable();
    reasons.dedup();
    format!("{}\nEvents: {}\n", lines.join("\n"), reasons.join(" "))
}

/// The agents may do nothing at all in the API.
pub(crate) fn agents_have_no_rights(env: &Env) -> Result<()> {
    let kuik = Kuik::installed(env)?;
    let account = format!("--as=system:serviceaccount:{NAMESPACE}:kube-image-keeper-agent");
    let rights = kuik.kube.json(&["get", "clusterrolebindings,rolebindings", "--all-namespaces"])?;
    let bound = rights["items"].as_array().into_iter().flatten().any(|binding| {
        let subjects = binding["subjects"].as_array();
        subjects.into_iter().flatten().any(|subject: &Value| subject["name"] == "kube-image-keeper-agent")
    });
    ensure!(!bound, "a role is bound to the agents");
    for question in [["list", "pods"], ["get", "secrets"], ["list", "cachedimages"], ["get", "nodes"]] {
        let answer = kuik.kube.kubectl(&["auth", "can-i", question[0], question[1], &account, "-A"]);
        ensure!(!answer.is_ok_and(|text| text.trim() == "yes"), "agents may {question:?}");
    }
    Ok(())
}
