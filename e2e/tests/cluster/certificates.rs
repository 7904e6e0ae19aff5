//! The webhook's own certificates.

use std::time::Duration;

use anyhow::{Result, ensure};
use kuik_e2e::wait;
use serde_json::json;

use crate::env::Env;
use crate::kuik::{Kuik, NAMESPACE, STATUS_LIMIT};
use crate::webhook::{admissions_until, default_timeout, webhooks};

/// Certificates of a minute's life are renewed twice during a loop of creations: each pod is rewritten, and no webhook is restarted.
pub(crate) fn a_rotation_misses_no_pod(env: &Env) -> Result<()> {
    let kuik = Kuik::installed(env)?;
    let mut values = default_timeout();
    values["controllers"]["webhook"]["certificates"] = json!({ "lifetime": "1m" });
    kuik.install(&values)?;
    let certificate = || {
        let secret = kuik.kube.json(&["get", "secret", "-n", NAMESPACE, "kube-image-keeper-tls"])?;
        Ok::<_, anyhow::Error>(secret["data"]["tls.crt"].as_str().unwrap_or_default().to_owned())
    };
    // Those of before the upgrade are gone, or they would be missed afterwards.
    let before = wait::until_every(Duration::from_secs(1), "two webhooks to be left", STATUS_LIMIT, || {
        let pods = webhooks(&kuik)?;
        ensure!(pods.len() == 2, "{pods:?}");
        Ok(Some(pods))
    })?;
    let (mut last, mut seen) = (certificate()?, 0);
    let created = admissions_until(&kuik, || {
        let now = certificate()?;
        if now != last {
            (last, seen) = (now, seen + 1);
        }
        // Two renewals, and every replica has served with the second for a while.
        Ok(seen >= 3)
    })?;
    ensure!(created >= 200, "only {created} pods were created");
    ensure!(webhooks(&kuik)? == before, "webhooks were replaced: {before:?}, {:?}", webhooks(&kuik)?);
    let restarts = kuik.kube.json(&["get", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=webhook"])?;
    let restarted =
        restarts["items"].as_array().into_iter().flatten().any(|pod| pod["status"]["containerStatuses"][0]["restartCount"] != 0);
    ensure!(!restarted, "a webhook was restarted: {restarts}");
    kuik.install(&json!({}))
}
