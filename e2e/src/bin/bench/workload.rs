//! Pods as teams write them: an init container, the program, its proxy and its exporter, with the fields that make them long.

use serde_json::{Value, json};

/// The images of a pod: init container, program, proxy, exporter.
pub(crate) type Images = [String; 4];

const ADDRESS: &str = "localhost:7439";
/// Containers, and the beginning of the annotations that keep their original images.
const LISTS: [(&str, &str); 2] = [("initContainers", "original-init-image-"), ("containers", "original-image-")];

/// A pod before admission, as the API server's own defaults leave it.
pub(crate) fn pod(namespace: &str, name: &str, images: &Images) -> Value {
    let [init, program, proxy, exporter] = images;
    let app = name.rsplit_once('-').map_or(name, |(app, _)| app);
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {
                "app.kubernetes.io/name": app, "app.kubernetes.io/instance": namespace, "app.kubernetes.io/version": "1.4.2",
                "app.kubernetes.io/component": "server", "app.kubernetes.io/managed-by": "Helm", "pod-template-hash": "7c9d5f6b48",
            },
            "annotations": {
                "checksum/config": "4ba9c58b4c3bf1c0e7b0f3ce4a1f0a3a0d1c8b8d2b1d7a0a4d5e2f6a9c3b7e81",
                "prometheus.io/scrape": "true", "prometheus.io/port": "9113",
                "kubectl.kubernetes.io/restartedAt": "2026-03-01T08:15:00Z",
            },
        },
        "spec": {
            "serviceAccountName": "default", "restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
            "terminationGracePeriodSeconds": 30, "enableServiceLinks": true,
            "securityContext": { "runAsNonRoot": true, "runAsUser": 10001, "fsGroup": 10001, "seccompProfile": { "type": "RuntimeDefault" } },
            "volumes": [
                { "name": "config", "configMap": { "name": format!("{app}-config"), "defaultMode": 420 } },
                { "name": "tls", "secret": { "secretName": format!("{app}-tls"), "defaultMode": 420 } },
                { "name": "scratch", "emptyDir": { "sizeLimit": "256Mi" } },
            ],
            "initContainers": [container("migrate", init, app)],
            "containers": [server("server", program, app), server("proxy", proxy, app), server("exporter", exporter, app)],
            "tolerations": [
                { "key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300 },
                { "key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300 },
            ],
        },
    })
}

/// With the probes that an init container must not have.
fn server(name: &str, image: &str, app: &str) -> Value {
    let probe =
        |path: &str| json!({ "httpGet": { "path": path, "port": "http", "scheme": "HTTP" }, "periodSeconds": 10, "timeoutSeconds": 3 });
    let mut server = container(name, image, app);
    server["livenessProbe"] = probe("/healthz");
    server["readinessProbe"] = probe("/readyz");
    server
}

fn container(name: &str, image: &str, app: &str) -> Value {
    json!({
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["--listen=:8080", "--config=/etc/app/config.yaml", format!("--service={app}"), "--log-format=json"],
        "ports": [{ "name": "http", "containerPort": 8080, "protocol": "TCP" }],
        "env": [
            { "name": "POD_IP", "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": "status.podIP" } } },
            { "name": "POD_NAME", "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.name" } } },
            { "name": "DATABASE_URL", "valueFrom": { "secretKeyRef": { "name": format!("{app}-database"), "key": "url" } } },
            { "name": "SERVICE_NAME", "value": app },
        ],
        "resources": { "requests": { "cpu": "100m", "memory": "128Mi" }, "limits": { "memory": "256Mi" } },
        "volumeMounts": [
            { "name": "config", "mountPath": "/etc/app", "readOnly": true },
            { "name": "tls", "mountPath": "/etc/tls", "readOnly": true },
            { "name": "scratch", "mountPath": "/var/tmp" },
        ],
        "securityContext": { "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] } },
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
    })
}

/// Makes of a pod what admission makes of it. Every image must name its registry.
pub(crate) fn rewrite(pod: &mut Value) {
    pod["metadata"]["labels"]["kuik.enix.io/managed"] = "true".into();
    pod["metadata"]["annotations"]["kuik.enix.io/rewrite-images"] = "true".into();
    for (list, annotation) in LISTS {
        let containers = pod["spec"][list].as_array().cloned().unwrap_or_default();
        for (index, container) in containers.iter().enumerate() {
            let (name, image) = (container["name"].as_str().unwrap_or_default(), container["image"].as_str().unwrap_or_default());
            pod["metadata"]["annotations"][format!("{annotation}{name}")] = image.into();
            pod["spec"][list][index]["image"] = local(image).into();
        }
    }
}

fn local(image: &str) -> String {
    let (registry, repository) = image.split_once('/').unwrap_or(("docker.io/library", image));
    format!("{ADDRESS}/{}/{repository}", registry.replace(':', "__"))
}
