//! The workloads of tests, as JSON that a test changes as it likes before it applies it.

use serde_json::{Value, json};

/// Prints the image's marker and stays until it is killed. It says nothing about when to pull, so that Kubernetes decides.
fn spec(image: &str) -> Value {
    json!({
        "terminationGracePeriodSeconds": 0,
        "containers": [{
            "name": "main",
            "image": image,
            "command": ["/bin/busybox", "sh", "-c", "/bin/busybox cat /marker; exec /bin/busybox sleep infinity"],
        }],
    })
}

/// A pod with one container `main` of an image that [`crate::images`] made.
pub fn pod(name: &str, image: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "app": name } }, "spec": spec(image) })
}

/// As many of them.
pub fn deployment(name: &str, image: &str, replicas: u32) -> Value {
    let labels = json!({ "app": name });
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": name, "labels": labels },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": spec(image) },
        },
    })
}
