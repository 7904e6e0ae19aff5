//! What a failed test leaves behind for who has to find out why.

use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use super::Kube;

/// Pods with this in the name of an image are ours.
const OURS: &str = "kube-image-keeper/";
const LOG_LINES: &str = "--tail=200";

static DUMPS: AtomicUsize = AtomicUsize::new(0);

/// How often [`dump`] was called, so that a failure is not told twice.
pub fn dumps() -> usize {
    DUMPS.load(Ordering::Relaxed)
}

/// Writes all pods, what is known about those of this namespace, its events, our objects, and the logs of our own components.
pub fn dump(kube: &Kube, namespace: &str, to: &mut impl Write) -> io::Result<()> {
    DUMPS.fetch_add(1, Ordering::Relaxed);
    let mut show = |arguments: &[&str]| {
        writeln!(to, "$ kubectl {}", arguments.join(" "))?;
        match kube.kubectl(arguments) {
            Ok(text) => writeln!(to, "{text}"),
            Err(error) => writeln!(to, "{error:#}"),
        }
    };
    show(&["get", "pods", "--all-namespaces", "-o", "wide"])?;
    show(&["describe", "pods", "-n", namespace])?;
    show(&["get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"])?;
    for kind in our_kinds(kube) {
        show(&["get", &kind, "--all-namespaces", "-o", "yaml"])?;
    }
    for (namespace, pod) in our_pods(kube) {
        show(&["describe", "pod", &pod, "-n", &namespace])?;
        show(&["logs", &pod, "-n", &namespace, "--all-containers", "--prefix", LOG_LINES])?;
    }
    Ok(())
}

fn our_kinds(kube: &Kube) -> Vec<String> {
    let list = kube.kubectl(&["api-resources", "--api-group=kuik.enix.io", "-o", "name"]).unwrap_or_default();
    list.lines().map(str::to_owned).collect()
}

fn our_pods(kube: &Kube) -> Vec<(String, String)> {
    let pods = kube.json(&["get", "pods", "--all-namespaces"]).unwrap_or_default();
    let pods = pods["items"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    pods.iter()
        .filter(|pod| pod["spec"]["containers"].to_string().contains(OURS))
        .map(|pod| (text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"])))
        .collect()
}
