//! From kuik v1: its objects are there before the install, and its pods run.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kuik_e2e::images;
use kuik_e2e::kube::with_temp_ns;
use kuik_e2e::wait;
use serde_json::{Value, json};

use crate::env::Env;
use crate::kuik::{Kuik, STATUS_LIMIT, copies, image_of, name_of, pod_on, repository_root, rewritten};
use crate::readme;

const V1_CRD: &str = "cachedimages.kuik.enix.io";

/// v1's CRD and objects stay; its finalizers go; what v1 had cached is cached again; its pods start from its own references.
pub(crate) fn objects_and_pods_of_v1_are_taken_over(env: &Env) -> Result<()> {
    let kuik = Kuik::here(env)?;
    leave_v1_alone(&kuik, "v1.14-crd.yaml")?;
    let image = kuik.push("migration/app", "1", &images::oci("cached by v1")?)?;
    let name = name_of(&image)?;
    kuik.kube.apply(&written_by_v1(&name, &image).to_string())?;
    let status = json!({ "status": { "isCached": true, "phase": "Ready", "usedBy": { "count": 0 } } }).to_string();
    kuik.kube.kubectl(&["patch", "cachedimage", &name, "--subresource=status", "--type=merge", "-p", &status])?;
    kuik.kube.apply(&repositories_of_v1().to_string())?;
    kuik.kube.kubectl(&["wait", "--for=condition=Established", "crd/repositories.kuik.enix.io", "--timeout=30s"])?;
    kuik.kube.apply(&repository_of_v1().to_string())?;

    kuik.install(&json!({}))?;
    wait_our_crd(&kuik)?;
    let object = kuik.wait_image("cached again", &image, |object| {
        ensure!(copies(object, "Ready").len() == 2, "{}", object["status"]);
        let finalizers = &object["metadata"]["finalizers"];
        ensure!(finalizers.is_null(), "v1's finalizer is still there: {finalizers}");
        Ok(object.clone())
    })?;
    ensure!(object["spec"]["retain"] == true && object["metadata"]["annotations"]["kept"] == "by its owner", "{object}");
    pods_of_v1_start(&kuik, &image)?;
    kuik.kube.kubectl(&["delete", "cachedimage", &name, "--wait", "--timeout=30s"])?;
    readme::run(kuik.kube, "repository\\.kuik")?;
    let left = kuik.kube.json(&["get", "repository", "app"])?;
    ensure!(left["metadata"]["finalizers"] == json!(["example.com/not-v1-s"]), "{}", left["metadata"]);
    kuik.kube.kubectl(&["patch", "repository", "app", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#])?;
    kuik.kube.kubectl(&["delete", "crd", "repositories.kuik.enix.io", "--wait", "--timeout=60s"]).map(drop)
}

/// v1.0 had other fields and another label, and put a finalizer on every pod: the README says how that goes.
pub(crate) fn what_kuik_v1_0_left_is_taken_over(env: &Env) -> Result<()> {
    let kuik = Kuik::here(env)?;
    leave_v1_alone(&kuik, "v1.0-crd.yaml")?;
    let image = kuik.push("migration/old", "1", &images::oci("cached by v1.0")?)?;
    let name = name_of(&image)?;
    let mut object = written_by_v1(&name, &image);
    object["spec"] = json!({ "sourceImage": image, "pullSecretNames": ["registry"], "pullSecretsNamespace": "team" });
    kuik.kube.apply(&object.to_string())?;
    with_temp_ns(kuik.kube, "migration-v1-0", |ns| {
        let mut pod = pod_on("node1", "of-v1", &v1_form(&image)?);
        pod["metadata"]["labels"]["kuik.enix.io/images-rewritten"] = "true".into();
        pod["metadata"]["annotations"] = json!({ "original-image-main": image });
        pod["metadata"]["finalizers"] = json!(["pod.kuik.enix.io/finalizer", "example.com/not-v1-s"]);
        ns.apply(&pod)?;

        kuik.install(&json!({}))?;
        wait_our_crd(&kuik)?;
        ns.wait_running("of-v1")?;
        let object = kuik.wait_image("taken over", &image, |object| {
            ensure!(object["metadata"]["finalizers"].is_null(), "v1's finalizer is still there: {}", object["metadata"]);
            let status = &object["status"];
            ensure!(status["phase"] == "Ready" && status["usedBy"]["count"] == 1, "{status}");
            Ok(object.clone())
        })?;
        ensure!(object["spec"]["pullSecretNames"][0] == "registry" && object["spec"]["pullSecretsNamespace"] == "team", "{object}");

        ns.kubectl(&["delete", "pod", "of-v1", "--wait=false"])?;
        // It changes while it ends, and then the command says that it is to be run again.
        wait::until("v1's finalizer to be taken off", STATUS_LIMIT, || readme::run(kuik.kube, "pod\\.kuik").map(Some))?;
        let left = ns.json(&["get", "pod", "of-v1"])?;
        ensure!(left["metadata"]["finalizers"] == json!(["example.com/not-v1-s"]), "{}", left["metadata"]);
        ns.kubectl(&["patch", "pod", "of-v1", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#])?;
        ns.kubectl(&["wait", "--for=delete", "pod/of-v1", "--timeout=60s"])?;
        kuik.kube.kubectl(&["delete", "cachedimage", &name, "--wait", "--timeout=30s"]).map(drop)
    })
}

/// A cluster as v1 leaves it when it is uninstalled: with its CRD, and nothing of ours.
fn leave_v1_alone(kuik: &Kuik<'_>, crd: &str) -> Result<()> {
    kuik.cluster()?;
    kuik.helm.uninstall()?;
    for crd in [V1_CRD, "nodecaches.kuik.enix.io", "repositories.kuik.enix.io"] {
        kuik.kube.kubectl(&["delete", "crd", crd, "--ignore-not-found", "--wait", "--timeout=60s"])?;
    }
    let v1 = std::fs::read_to_string(repository_root().join("crd/tests/samples").join(crd)).context("read v1's CRD")?;
    kuik.kube.apply(&v1)?;
    kuik.kube.kubectl(&["wait", "--for=condition=Established", &format!("crd/{V1_CRD}"), "--timeout=30s"]).map(drop)
}

fn wait_our_crd(kuik: &Kuik<'_>) -> Result<()> {
    kuik.kube.wait_json("the CRD to be ours", STATUS_LIMIT, &["get", "crd", V1_CRD], |crd| {
        ensure!(crd.to_string().contains("copiesReady"), "it is v1's");
        Ok(())
    })
}

/// A reference as v1 rewrote it: with `host:port` as `host-port`.
fn v1_form(image: &str) -> Result<String> {
    Ok(rewritten(image)?.replacen("192.0.2.254__5000", "192.0.2.254-5000", 1))
}

/// v1.14's second definition, as far as it matters here.
fn repositories_of_v1() -> Value {
    let schema = json!({ "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "repositories.kuik.enix.io" },
        "spec": {
            "group": "kuik.enix.io",
            "scope": "Cluster",
            "names": { "kind": "Repository", "plural": "repositories", "singular": "repository", "shortNames": ["repo"] },
            "versions": [{ "name": "v1alpha1", "served": true, "storage": true, "schema": schema }],
        },
    })
}

fn repository_of_v1() -> Value {
    json!({
        "apiVersion": "kuik.enix.io/v1alpha1",
        "kind": "Repository",
        "metadata": { "name": "app", "finalizers": ["repository.kuik.enix.io/finalizer", "example.com/not-v1-s"] },
        "spec": { "name": "192.0.2.254:5000/migration/app" },
    })
}

/// A `CachedImage` as v1.14 wrote it.
fn written_by_v1(name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "kuik.enix.io/v1alpha1",
        "kind": "CachedImage",
        "metadata": {
            "name": name,
            "labels": { "kuik.enix.io/repository": "192.0.2.254-5000-migration-app" },
            "annotations": { "kept": "by its owner" },
            "finalizers": ["cachedimage.kuik.enix.io/finalizer"],
        },
        "spec": { "sourceImage": image, "retain": true },
    })
}

/// v1 wrote `host:port` as `host-port`. Such a pod exists, and starts anew on a node that has to pull.
fn pods_of_v1_start(kuik: &Kuik<'_>, image: &str) -> Result<()> {
    let v1_form = v1_form(image)?;
    with_temp_ns(kuik.kube, "migration", |ns| {
        let mut pod = pod_on("node1", "of-v1", &v1_form);
        pod["metadata"]["labels"]["kuik.enix.io/managed"] = "true".into();
        // As a pod that v1 made before the upgrade: nobody rewrites it now.
        pod["metadata"]["annotations"] = json!({ "original-image-main": image, "kuik.enix.io/rewrite-images": "false" });
        ns.apply(&pod)?;
        let pod = ns.wait_running("of-v1")?;
        ensure!(image_of(&pod) == v1_form, "{}", image_of(&pod));
        kuik.wait_image("used by the pod of v1", image, |object| {
            ensure!(object["status"]["usedBy"]["count"] == 1, "{}", object["status"]);
            Ok(())
        })?;
        // Created anew, it gets our form.
        ns.delete_object("pod/of-v1")?;
        let mut pod = pod_on("node1", "of-v1", &v1_form);
        pod["metadata"]["labels"]["kuik.enix.io/managed"] = "true".into();
        pod["metadata"]["annotations"] = json!({ "original-image-main": image });
        ns.apply(&pod)?;
        ns.wait_pod("of-v1", "have our form", Duration::from_secs(30), |pod| {
            ensure!(image_of(pod) == rewritten(image)?, "{}", image_of(pod));
            Ok(())
        })
    })
}
