//! The life of a `CachedImage`: unused, expiring, gone; used again; retained; asked for by hand; refreshed.

use anyhow::{Result, ensure};
use kuik_e2e::images;
use kuik_e2e::kube::with_temp_ns;
use serde_json::{Value, json};

use crate::env::Env;
use crate::kuik::{Kuik, STATUS_LIMIT, copies, name_of, run_rewritten};

/// Unused for the delay: gone from the API and from the node's disk. Used again in time, or retained: kept.
pub(crate) fn what_is_unused_expires_unless_used_again_or_retained(env: &Env) -> Result<()> {
    let kuik = Kuik::here(env)?;
    // On somebody else's cluster it would delete what is theirs.
    kuik.cluster()?;
    kuik.install(&json!({ "cachedImagesExpiryDelay": "60s" }))?;
    let [gone, again, retained] = ["gone", "again", "retained"].map(|name| {
        let content = images::oci(&format!("to be {name}"))?;
        kuik.push(&format!("expiry/{name}"), "1", &content)
    });
    let (gone, again, retained) = (gone?, again?, retained?);
    with_temp_ns(kuik.kube, "expiry", |ns| {
        for (name, image) in [("gone", &gone), ("again", &again), ("retained", &retained)] {
            run_rewritten(ns, "node1", name, image)?;
        }
        for image in [&gone, &again, &retained] {
            kuik.wait_cached(image, &["node1"])?;
        }
        kuik.kube.kubectl(&["patch", "cachedimage", &name_of(&retained)?, "--type=merge", "-p", r#"{"spec":{"retain":true}}"#])?;
        ns.kubectl(&["delete", "pod", "again", "--wait=false"])?;
        kuik.wait_image("expiring", &again, expires)?;
        run_rewritten(ns, "node1", "once-more", &again)?;
        kuik.wait_image("used again", &again, |object| {
            ensure!(object["spec"]["expiresAt"].is_null(), "{}", object["spec"]);
            Ok(())
        })?;
        ns.kubectl(&["delete", "pod", "gone", "retained"])?;
        kuik.wait_image_gone(&gone)?;
        kuik_e2e::wait::until("the node to have deleted what expired", STATUS_LIMIT, || {
            let held = kuik.held("node1")?;
            ensure!(!held.contains(&gone), "{held:?}");
            ensure!(held.contains(&again) && held.contains(&retained), "{held:?}");
            Ok(Some(()))
        })?;
        for image in [&again, &retained] {
            kuik.wait_cached(image, &["node1"])?;
        }
        kuik.wait_image("retained", &retained, |object| {
            ensure!(object["spec"]["expiresAt"].is_null() && object["status"]["usedBy"]["count"] == 0, "{object}");
            Ok(())
        })
    })?;
    // What this test left unused would go on expiring during the next ones; the values of all tests say 30 days.
    kuik.install(&json!({}))
}

fn expires(object: &Value) -> Result<()> {
    ensure!(object["spec"]["expiresAt"].is_string(), "{}", object["spec"]);
    Ok(())
}

/// A `CachedImage` made by hand, by any name, is renamed as kuik did, and kept by two nodes although no pod uses it.
pub(crate) fn an_image_asked_for_by_hand_is_kept_by_two_nodes(env: &Env) -> Result<()> {
    let kuik = Kuik::installed(env)?;
    kuik.node(2)?;
    let image = kuik.push("by-hand/app", "1", &images::multi_arch("fetched before anybody asks")?)?;
    let name = format!("by-hand-{}", name_of(&image)?.len());
    let object = json!({ "apiVersion": "kuik.enix.io/v1alpha1", "kind": "CachedImage", "metadata": { "name": name }, "spec": { "sourceImage": image } });
    kuik.kube.apply(&object.to_string())?;
    let object = kuik.wait_image("cached on two nodes", &image, |object| {
        ensure!(copies(object, "Ready").len() == 2 && object["status"]["copiesWanted"] == 2, "{}", object["status"]);
        Ok(object.clone())
    })?;
    ensure!(object["spec"]["expiresAt"].is_string(), "nothing uses it, so it expires one day: {}", object["spec"]);
    let wrong = kuik.kube.kubectl(&["get", "cachedimage", &name, "--ignore-not-found", "-o", "name"])?;
    ensure!(wrong.is_empty(), "{wrong} should have been renamed");
    kuik.kube.kubectl(&["delete", "cachedimage", &name_of(&image)?])?;
    kuik_e2e::wait::until("the nodes to have deleted what was deleted by hand", STATUS_LIMIT, || {
        for node in kuik.nodes()? {
            let held = kuik.held(&node)?;
            ensure!(!held.contains(&image), "{node} holds {held:?}");
        }
        Ok(Some(()))
    })
}

/// The tag moved: `forceUpdate` has the nodes that hold it fetch what it means now.
pub(crate) fn force_update_follows_a_tag_that_moved(env: &Env) -> Result<()> {
    let kuik = Kuik::installed(env)?;
    let node = kuik.node(1)?;
    let image = kuik.push("force/app", "1", &images::oci("as it was")?)?;
    let moved = images::oci("as it is")?;
    with_temp_ns(kuik.kube, "force", |ns| {
        run_rewritten(ns, &node, "app", &image)?;
        kuik.wait_cached(&image, &[&node])?;
        kuik.push("force/app", "1", &moved)?;
        kuik.kube.kubectl(&["annotate", "cachedimage", &name_of(&image)?, "cachedimage.kuik.enix.io/forceUpdate=true"])?;
        let digest = moved.root().digest.trim_start_matches("sha256:");
        kuik.wait_image("refreshed", &image, |object| {
            ensure!(object["status"]["digest"] == digest, "{}", object["status"]);
            let annotation = &object["metadata"]["annotations"]["cachedimage.kuik.enix.io/forceUpdate"];
            ensure!(annotation.is_null(), "the annotation is still there");
            Ok(())
        })?;
        kuik.wait_cached(&image, &[&node]).map(drop)
    })
}
