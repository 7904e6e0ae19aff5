//! From kuik v1: its objects are there before the install, and its pods run.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kuik_e2e::images;
use kuik_e2e::kube::with_temp_ns;
use serde_json::{Value, json};

use crate::env::Env;
use crate::kuik::{Kuik, STATUS_LIMIT, copies, name_of, repository_root, rewritten};

/// v1's CRD and objects stay; its finalizers go; what v1 had cached is cached again; its pods start from its own references.
pub(crate) fn objects_and_pods_of_v1_are_taken_over(env: &Env) -> Result<()> {
    let kuik = Kuik::here(env)?;
    kuik.helm.uninstall()?;
    for crd in ["cachedimages.kuik.enix.io", "nodecaches.kuik.enix.io"] {
        kuik.kube.kubectl(&["delete", "crd", crd, "--ignore-not-found", "--wait", "--timeout=60s"])?;
    }
    let v1 = std::fs::read_to_string(repository_root().join("crd/tests/samples/v1.14-crd.yaml")).context("read v1's CRD")?;
    kuik.kube.apply(&v1)?;
    kuik.kube.kubectl(&["wait", "--for=condition=Established", "crd/cachedimages.kuik.enix.io", "--timeout=30s"])?;

    let image = kuik.push("migration/app", "1", &images::oci("cached by v1")?)?;
    let name = name_of(&image)?;
    kuik.kube.apply(&written_by_v1(&name, &image).to_string())?;
    kuik.kube.kubectl(&[
        "patch",
        "cachedimage",
        &name,
        "--subresource=status",
        "--type=merge",
        "-p",
        &json!({ "status": { "isCached": true, "phase": "Ready", "usedBy": { "count": 0 } } }).to_string(),
    ])?;

    kuik.install(&json!({}))?;
    kuik.kube.wait_json("the CRD to be ours", STATUS_LIMIT, &["get", "crd", "cachedimages.kuik.enix.io"], |crd| {
        ensure!(crd.to_string().contains("copiesReady"), "it is v1's");
        Ok(())
    })?;
    let object = kuik.wait_image("cached again", &image, |object| {
        ensure!(copies(object, "Ready").len() == 2, "{}", object["status"]);
        let finalizers = &object["metadata"]["finalizers"];
        ensure!(finalizers.is_null(), "v1's finalizer is still there: {finalizers}");
        Ok(object.clone())
    })?;
    ensure!(object["spec"]["retain"] == true && object["metadata"]["annotations"]["kept"] == "by its owner", "{object}");
    pods_of_v1_start(&kuik, &image)?;
    kuik.kube.kubectl(&["delete", "cachedimage", &name, "--wait", "--timeout=30s"]).map(drop)
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
    let v1_form = rewritten(image)?.replacen("192.0.2.254__5000", "192.0.2.254-5000", 1);
    with_temp_ns(kuik.kube, "migration", |ns| {
        let mut pod = crate::kuik::pod_on("node1", "of-v1", &v1_form);
        pod["metadata"]["labels"]["kuik.enix.io/managed"] = "true".into();
        // As a pod that v1 made before the upgrade: nobody rewrites it now.
        pod["metadata"]["annotations"] = json!({ "original-image-main": image, "kuik.enix.io/rewrite-images": "false" });
        ns.apply(&pod)?;
        let pod = ns.wait_running("of-v1")?;
        ensure!(crate::kuik::image_of(&pod) == v1_form, "{}", crate::kuik::image_of(&pod));
        kuik.wait_image("used by the pod of v1", image, |object| {
            ensure!(object["status"]["usedBy"]["count"] == 1, "{}", object["status"]);
            Ok(())
        })?;
        // Created anew, it gets our form.
        ns.delete_object("pod/of-v1")?;
        let mut pod = crate::kuik::pod_on("node1", "of-v1", &v1_form);
        pod["metadata"]["labels"]["kuik.enix.io/managed"] = "true".into();
        pod["metadata"]["annotations"] = json!({ "original-image-main": image });
        ns.apply(&pod)?;
        ns.wait_pod("of-v1", "have our form", Duration::from_secs(30), |pod| {
            ensure!(crate::kuik::image_of(pod) == rewritten(image)?, "{}", crate::kuik::image_of(pod));
            Ok(())
        })
    })
}
