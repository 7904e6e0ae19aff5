//! Keys that sign pull tokens come and go.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kuik_crd::pull_token::read_unchecked;
use kuik_e2e::http::{self, ACCEPT_MANIFESTS};
use kuik_e2e::images;
use kuik_e2e::kube::{Namespace, with_temp_ns};
use kuik_e2e::wait;
use serde_json::{Value, json};

use super::ask::{RUNTIME_ADDRESS, ask, manifest};
use super::doors::Door;
use super::tenant::{Shown, give, private_pod, run, token_of};
use crate::env::Env;
use crate::kuik::{Kuik, NAMESPACE};

/// Requests between two looks at the namespace's token.
const BURST: usize = 200;

/// What the leader keeps the keys in.
const KEYS: &str = "kube-image-keeper-pull-keys";

/// What pods are called whose first pull may come before agents know the new keys.
const WARM: &str = "warm";

/// A key is replaced in a little more than 2 minutes.
const LIMIT: Duration = Duration::from_secs(300);

/// Keys live 2 minutes and tokens one, and both runtimes pull without a pause while a key is replaced: no pull fails, and no request that
/// shows the namespace's token of the moment. The first token is not taken any more afterwards.
pub(crate) fn keys_are_replaced_under_load_without_a_failed_pull(env: &Env) -> Result<()> {
    env.cluster()?;
    let kuik = Kuik::installed_with(env, &json!({ "auth": { "tokens": { "lifetime": "1m", "keyLifetime": "2m" } } }))?;
    kuik.kube.wait_rollout(NAMESPACE, "deployment/kube-image-keeper-webhook", Duration::from_secs(180))?;
    begin_with_new_keys(&kuik)?;
    let door = Door::with_tokens(&kuik)?;
    let image = door.push("private/rotation", &images::oci("pulled again and again")?)?;
    with_temp_ns(kuik.kube, "rotation", |ns| {
        give(ns, "regcred", &[&door.login("private/rotation")])?;
        let first = wait_short_token(ns)?;
        for node in ["node1", "node2"] {
            run(&kuik, ns, &private_pod(node, &format!("{WARM}-{node}"), &image, &["regcred"]))?;
        }
        let (mut key, mut keys, mut pulls) = (key_of(&first)?, 1, 0);
        let start = Instant::now();
        while keys < 2 {
            ensure!(start.elapsed() < LIMIT, "only {keys} keys after {pulls} pulls");
            for node in ["node1", "node2"] {
                let name = format!("app-{pulls}");
                run(&kuik, ns, &private_pod(node, &name, &image, &["regcred"]))?;
                ns.delete_object(&format!("pod/{name}"))?;
                pulls += 1;
                let shown = token_of(ns)?;
                burst(&kuik, node, &image, &shown)?;
                let now = key_of(&shown)?;
                if now != key {
                    (key, keys) = (now, keys + 1);
                }
            }
        }
        ensure!(pulls >= 10, "only {pulls} pulls");
        no_pull_failed(ns)?;
        wait::until_every(Duration::from_secs(1), "the first token to be refused", Duration::from_secs(120), || {
            let reply = ask(&kuik, "node1", &manifest(&image)?, Some(&first))?;
            ensure!(reply.status == 401, "it is answered with {}", reply.status);
            Ok(Some(()))
        })
    })
}

/// Ends all keys and tokens, as SECURITY.md says. The next key would else have to wait until the last token of another release has expired.
fn begin_with_new_keys(kuik: &Kuik<'_>) -> Result<()> {
    kuik.kube.kubectl(&["delete", "secret", "-n", NAMESPACE, KEYS])?;
    kuik.kube.wait_json("new keys", Duration::from_secs(120), &["get", "secret", "-n", NAMESPACE, KEYS], |_| Ok(()))
}

/// A token of a minute's life: one that an earlier release signed may be good for a week.
fn wait_short_token(ns: &Namespace) -> Result<Shown> {
    let limit = Duration::from_secs(120);
    wait::until_every(Duration::from_secs(1), "a token of a minute's life", limit, || {
        let shown = token_of(ns)?;
        let (_, until) = read_unchecked(&shown.token).context("it must be a token")?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        ensure!(until <= now + 60, "it is good for {} s", until.saturating_sub(now));
        Ok(Some(shown))
    })
}

fn key_of(shown: &Shown) -> Result<String> {
    Ok(read_unchecked(&shown.token).context("it must be a token")?.0.to_owned())
}

/// Many requests with one token, each of which must be answered.
fn burst(kuik: &Kuik<'_>, node: &str, image: &str, shown: &Shown) -> Result<()> {
    let (url, header) = (format!("http://{RUNTIME_ADDRESS}{}", manifest(image)?), shown.header());
    kuik.cluster()?.node_named(node)?.inside(|| {
        for number in 0..BURST {
            let reply = http::send("GET", &url, &[("accept", ACCEPT_MANIFESTS), ("authorization", &header)], &[])?;
            let body = String::from_utf8_lossy(&reply.body);
            ensure!(reply.status == 200, "request {number} with the token of the moment: {} {body}", reply.status);
        }
        Ok(())
    })
}

/// What the kubelet says of a failed pull, and of one that it puts off.
fn no_pull_failed(ns: &Namespace) -> Result<()> {
    let events = ns.json(&["get", "events", "--field-selector", "type=Warning"])?;
    let events = events["items"].as_array().into_iter().flatten();
    let is_failure = |event: &&Value| {
        let is_warm = event["involvedObject"]["name"].as_str().is_some_and(|name| name.starts_with(WARM));
        !is_warm && ["Failed", "BackOff", "PullRefused"].iter().any(|reason| event["reason"] == *reason)
    };
    let failed: Vec<&Value> = events.filter(is_failure).collect();
    ensure!(failed.is_empty(), "pulls failed: {failed:?}");
    Ok(())
}
