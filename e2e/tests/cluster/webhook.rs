//! The webhook comes and goes.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kuik_e2e::images;
use kuik_e2e::kube::{deployment, pod, with_temp_ns};

use serde_json::{Value, json};

use crate::env::Env;
use crate::kuik::{Kuik, NAMESPACE, image_of, pod_on, rewritten, run_rewritten};

/// The webhook is away: pods start as they are. It comes back: they are rewritten again.
pub(crate) fn without_the_webhook_pods_start_unrewritten(env: &Env) -> Result<()> {
    let kuik = Kuik::installed(env)?;
    let image = kuik.push("webhook/app", "1", &images::oci("with or without")?)?;
    let node = kuik.node(2)?;
    with_temp_ns(kuik.kube, "webhook", |ns| {
        let scale = |replicas: &str| kuik.kube.kubectl(&["scale", "deployment", "-n", NAMESPACE, "kube-image-keeper-webhook", replicas]);
        scale("--replicas=0")?;
        let gone = kuik.kube.wait_json(
            "the webhook to be gone",
            Duration::from_secs(90),
            &["get", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=webhook"],
            |pods| {
                ensure!(pods["items"].as_array().is_some_and(Vec::is_empty), "it is there");
                Ok(())
            },
        );
        let started = gone.and_then(|()| {
            ns.apply(&pod_on(&node, "without", &image))?;
            ns.wait_running("without")
        });
        scale("--replicas=2")?;
        let pod = started?;
        ensure!(image_of(&pod) == image, "it was rewritten by nobody: {}", image_of(&pod));
        kuik.kube.wait_rollout(NAMESPACE, "deployment/kube-image-keeper-webhook", Duration::from_secs(120))?;
        kuik.wait_rewriting()?;
        run_rewritten(ns, &node, "with", &image).map(drop)
    })
}

/// Both replicas are killed without a farewell, and the API server still believes in them: a pod that is created at once is admitted and
/// runs, rewritten or not, and those created later are rewritten again.
pub(crate) fn a_pod_is_admitted_right_after_the_webhook_was_killed(env: &Env) -> Result<()> {
    let kuik = Kuik::installed(env)?;
    kuik.install(&default_timeout())?;
    let image = kuik.push("webhook/killed", "1", &images::oci("admitted anyway")?)?;
    let node = kuik.node(1)?;
    with_temp_ns(kuik.kube, "killed", |ns| {
        let component = "app.kubernetes.io/component=webhook";
        kuik.kube.kubectl(&["delete", "pod", "-n", NAMESPACE, "-l", component, "--grace-period=0", "--force"])?;
        ns.apply(&pod_on(&node, "at-once", &image))?;
        let pod = ns.wait_running("at-once")?;
        ensure!([image.clone(), rewritten(&image)?].contains(&image_of(&pod).to_owned()), "it has the image {}", image_of(&pod));
        kuik.kube.wait_rollout(NAMESPACE, "deployment/kube-image-keeper-webhook", Duration::from_secs(120))?;
        kuik.wait_rewriting()?;
        run_rewritten(ns, &node, "later", &image).map(drop)
    })
}

/// The chart's own limit to the time that a review may take, which most tests are more patient than.
pub(crate) fn default_timeout() -> Value {
    json!({ "controllers": { "webhook": { "timeoutSeconds": 5 } } })
}

/// Both replicas of the webhook are rolled while pods are created: each of them is rewritten, and no creation fails.
pub(crate) fn a_rollout_of_the_webhook_misses_no_pod(env: &Env) -> Result<()> {
    let kuik = Kuik::installed(env)?;
    kuik.install(&default_timeout())?;
    let old = webhooks(&kuik)?;
    kuik.kube.kubectl(&["rollout", "restart", "-n", NAMESPACE, "deployment/kube-image-keeper-webhook"])?;
    // Until the old ones have answered their last review: they go on for a while after they were told to stop.
    let created = admissions_until(&kuik, || {
        let now = webhooks(&kuik)?;
        Ok(now.len() == 2 && !now.iter().any(|pod| old.contains(pod)))
    })?;
    ensure!(created >= 3 * ROUND, "only {created} pods were created during the rollout");
    Ok(())
}

/// The names of the webhook's pods, those that are being stopped included.
pub(crate) fn webhooks(kuik: &Kuik<'_>) -> Result<Vec<String>> {
    let pods = kuik.kube.json(&["get", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=webhook"])?;
    let items = pods["items"].as_array().into_iter().flatten();
    Ok(items.filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect())
}

/// Pods of one question to the API server, which has each of them reviewed.
const ROUND: usize = 20;

/// Asks for admission again and again, until `done`; returns how often. An answer that is not rewritten is an error.
pub(crate) fn admissions_until(kuik: &Kuik<'_>, mut done: impl FnMut() -> Result<bool>) -> Result<usize> {
    let limit = Duration::from_secs(240);
    let start = Instant::now();
    let pods: Vec<_> = (0..ROUND).map(|number| pod(&format!("loop-{number}"), "quay.io/loop/loop:1")).collect();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": pods });
    let mut count = 0;
    loop {
        let admitted = kuik.dry_run_all("default", &list)?;
        ensure!(admitted.len() == ROUND, "{} pods of {ROUND} were admitted", admitted.len());
        for pod in &admitted {
            ensure!(image_of(pod).starts_with("localhost:7439/"), "pod {count} was admitted as it is");
            count += 1;
        }
        if done()? {
            return Ok(count);
        }
        ensure!(start.elapsed() < limit, "not done after {count} pods");
    }
}

/// A Deployment rolls to a new tag: both images are cached, and the new one runs.
pub(crate) fn a_deployment_rolls_to_a_new_tag(env: &Env) -> Result<()> {
    let kuik = Kuik::installed(env)?;
    let old = kuik.push("rolling/app", "1", &images::oci("the old one")?)?;
    let new = kuik.push("rolling/app", "2", &images::oci("the new one")?)?;
    with_temp_ns(kuik.kube, "rolling", |ns| {
        ns.apply(&deployment("app", &old, 2))?;
        kuik.kube.wait_rollout(ns.name(), "deployment/app", Duration::from_secs(90))?;
        ns.kubectl(&["set", "image", "deployment/app", &format!("main={new}")])?;
        kuik.kube.wait_rollout(ns.name(), "deployment/app", Duration::from_secs(90))?;
        let object = ns.json(&["get", "deployment", "app"])?;
        ensure!(object["spec"]["template"]["spec"]["containers"][0]["image"] == new.as_str(), "templates are not rewritten");
        kuik.wait_image("used by both pods", &new, |object| {
            ensure!(object["status"]["usedBy"]["count"] == 2, "{}", object["status"]);
            Ok(())
        })?;
        kuik.wait_image("unused", &old, |object| {
            ensure!(object["status"]["usedBy"]["count"] == 0 && object["spec"]["expiresAt"].is_string(), "{object}");
            Ok(())
        })
    })
}
