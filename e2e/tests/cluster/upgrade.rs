//! The release itself comes, changes, goes, and comes again.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kuik_e2e::images;
use kuik_e2e::kube::with_temp_ns;
use serde_json::json;

use crate::env::Env;
use crate::kuik::{Kuik, NAMESPACE, RELEASE, STATUS_LIMIT, pod_on, rewritten, run_rewritten};
use crate::readme;

/// An upgrade that changes values takes effect; without a release running pods run on; the next one serves what the last one cached.
pub(crate) fn upgrade_uninstall_and_install_again_lose_nothing(env: &Env) -> Result<()> {
    env.cluster()?;
    let kuik = Kuik::installed(env)?;
    let image = kuik.push("upgrade/app", "1", &images::oci("survives the release")?)?;
    let rewritten = rewritten(&image)?;
    with_temp_ns(kuik.kube, "upgrade", |ns| {
        run_rewritten(ns, "node1", "app", &image)?;
        kuik.wait_cached(&image, &["node1"])?;

        let before = kuik.agent("node1")?;
        kuik.install(&json!({ "agent": { "tags": { "freshFor": "2s" } }, "controllers": { "replicas": 1 } }))?;
        kuik.kube.wait_rollout(NAMESPACE, "daemonset/kube-image-keeper-agent", Duration::from_secs(180))?;
        ensure!(kuik.agent("node1")? != before, "the agent does not run with the new values");
        let webhooks = kuik.kube.json(&["get", "deployment", "-n", NAMESPACE, "kube-image-keeper-webhook"])?;
        ensure!(webhooks["status"]["replicas"] == 1, "{}", webhooks["status"]);
        run_rewritten(ns, "node1", "upgraded", &image)?;

        kuik.helm.uninstall()?;
        ns.wait_running("app").context("pods run on without the release")?;
        let tokens = ["get", "secrets", "-A", "--field-selector=metadata.name=kuik-pull"];
        kuik.kube.wait_json("pull tokens to go with the release", STATUS_LIMIT, &tokens, |list| {
            let left = list["items"].as_array().map_or(0, Vec::len);
            ensure!(left == 0, "{left} are left");
            Ok(())
        })?;
        let listed = readme::run(kuik.kube, "grep localhost:7439/")?;
        ensure!(listed.lines().any(|line| line.starts_with(&format!("{}/app ", ns.name())) && line.contains(&rewritten)), "{listed}");
        ns.apply(&pod_on("node1", "later", &image))?;
        ns.wait_running("later").context("pods start without the release, from their own registry")?;
        let listed = readme::run(kuik.kube, "grep localhost:7439/")?;
        ensure!(!listed.contains(&format!("{}/later ", ns.name())), "{listed}");
        kuik.cluster()?.node_named("node1")?.remove_image(&rewritten)?;

        kuik.upstream()?.stop()?;
        let again = kuik.install(&json!({})).and_then(|()| run_rewritten(ns, "node1", "again", &image));
        kuik.upstream()?.start()?;
        again?;
        ensure!(ns.logs("again")?.starts_with("survives the release"), "another image runs");
        kuik.wait_cached(&image, &["node1"]).map(drop)
    })?;
    let released = kuik.helm.run(&["list", "--short"])?;
    ensure!(released.lines().any(|name| name == RELEASE), "{released}");
    Ok(())
}
