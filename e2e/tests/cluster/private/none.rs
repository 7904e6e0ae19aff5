//! `auth.mode: none`, the way back to kuik v1.

use anyhow::{Result, ensure};
use kuik_crd::pull_token::SECRET_NAME;
use kuik_e2e::images;
use kuik_e2e::kube::with_temp_ns;
use serde_json::json;

use super::ask::{expect, manifest};
use super::doors::Door;
use super::tenant::{forget, give, private_pod, run, token_of};
use crate::env::Env;
use crate::kuik::{Kuik, NAMESPACE, STATUS_LIMIT, image_of, pod_on, run_rewritten};

/// A private image that was cached for its owner is everybody's from then on; tokens and their keys go; and pods with pull secrets are left
/// alone, for agents cannot pull in their name.
pub(crate) fn without_rights_of_namespaces_what_is_cached_is_everybodys(env: &Env) -> Result<()> {
    env.cluster()?;
    let kuik = Kuik::installed(env)?;
    let door = Door::with_passwords(&kuik)?;
    let image = door.push("private/none", &images::oci("private once")?)?;
    with_temp_ns(kuik.kube, "none", |ns| {
        give(ns, "regcred", &[&door.login("private/none")])?;
        token_of(ns)?;
        run(&kuik, ns, &private_pod("node1", "app", &image, &["regcred"]))?;
        expect(&kuik, "node1", &manifest(&image)?, None, 401, &[])?;

        kuik.install(&json!({ "auth": { "mode": "none" } }))?;
        let rollout = std::time::Duration::from_secs(180);
        kuik.kube.wait_rollout(NAMESPACE, "daemonset/kube-image-keeper-agent", rollout)?;
        expect(&kuik, "node1", &manifest(&image)?, None, 200, &[])?;
        for of in [SECRET_NAME, "kube-image-keeper-pull-keys"] {
            let selector = format!("--field-selector=metadata.name={of}");
            kuik.kube.wait_json(&format!("the Secrets {of} to go"), STATUS_LIMIT, &["get", "secrets", "-A", &selector], |list| {
                let left = list["items"].as_array().map_or(0, Vec::len);
                ensure!(left == 0, "{left} are left");
                Ok(())
            })?;
        }
        let admitted = kuik.dry_run(ns.name(), &private_pod("node1", "left-alone", &image, &["regcred"]))?;
        ensure!(image_of(&admitted) == image, "{} was rewritten", image_of(&admitted));
        let admitted = kuik.dry_run(ns.name(), &pod_on("node1", "rewritten", &image))?;
        ensure!(admitted["spec"]["imagePullSecrets"].is_null(), "{}", admitted["spec"]["imagePullSecrets"]);
        with_temp_ns(kuik.kube, "none-stranger", |stranger| {
            forget(&kuik, "node1", &image)?;
            run_rewritten(stranger, "node1", "stranger", &image).map(drop)
        })
    })
}
