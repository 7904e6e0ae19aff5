//! How long what a namespace has proven counts: until it is too old and the registry refuses, and beyond that while there is no registry.

use std::time::Duration;

use anyhow::{Result, ensure};
use kuik_e2e::images;
use kuik_e2e::kube::{Namespace, with_temp_ns};
use kuik_e2e::metrics::Metrics;
use kuik_e2e::wait;
use serde_json::{Value, json};

use super::ask::{agent_address, ask, expect, manifest};
use super::doors::{Door, Login};
use super::tenant::{Shown, begin, expect_refused, give, private_pod, run, token_of};
use crate::env::Env;
use crate::kuik::{Kuik, NAMESPACE};

/// Long enough for a few pods, and short enough to wait for its end.
const PROOF: Duration = Duration::from_secs(30);

/// The end of a proof, what agent and webhook remember of pull secrets (40 s), and a slow machine.
const ENDED_LIMIT: Duration = Duration::from_secs(180);

const LOOK_EVERY: Duration = Duration::from_secs(1);

fn short_proofs(on_upstream_down: &str) -> Value {
    json!({ "auth": { "proofTTL": format!("{}s", PROOF.as_secs()), "onUpstreamDown": on_upstream_down } })
}

fn installed<'a>(env: &'a Env, on_upstream_down: &str) -> Result<Kuik<'a>> {
    let kuik = Kuik::installed_with(env, &short_proofs(on_upstream_down))?;
    kuik.kube.wait_rollout(NAMESPACE, "daemonset/kube-image-keeper-agent", Duration::from_secs(180))?;
    Ok(kuik)
}

/// One way to lose a right.
struct Loss {
    name: &'static str,
    image: String,
    login: Login,
}

/// The registry forgets a user, by password and by token, or the Secret is deleted: what was proven counts until it is too old, and then the
/// namespace is refused what is cached on its node.
pub(crate) fn a_right_that_was_withdrawn_ends_with_its_proof(env: &Env) -> Result<()> {
    env.cluster()?;
    let kuik = installed(env, "lastProven")?;
    let (password, token) = (Door::with_passwords(&kuik)?, Door::with_tokens(&kuik)?);
    let loss = |door: &Door, name: &'static str| {
        let repository = format!("private/withdrawn-{name}");
        let image = door.push(&repository, &images::oci(&format!("withdrawn: {name}"))?)?;
        Ok::<_, anyhow::Error>(Loss { name, image, login: door.login(&repository) })
    };
    let losses = [loss(&password, "password")?, loss(&token, "token")?, loss(&token, "secret")?];
    let outcome = with_temp_ns(kuik.kube, "withdrawn", |ns| {
        let shown = token_of(ns)?;
        for Loss { name, image, login } in &losses {
            give(ns, name, &[login])?;
            run(&kuik, ns, &private_pod("node1", name, image, &[name]))?;
        }
        password.withdraw(&losses[0].login)?;
        token.withdraw(&losses[1].login)?;
        ns.delete_object("secret/secret")?;
        still_proven(&kuik, ns, &shown, &losses)?;
        for Loss { name, image, .. } in &losses {
            wait_refused(&kuik, &shown, image)?;
            begin(&kuik, ns, &private_pod("node1", &format!("{name}-late"), image, &[name]))?;
        }
        for Loss { name, .. } in &losses {
            expect_refused(ns, &format!("{name}-late"), &[ns.name()])?;
        }
        password.upstream.know_user(true)?;
        ns.wait_running_within("password-late", Duration::from_secs(330)).map(drop)
    });
    password.upstream.know_user(true)?;
    outcome
}

/// All of them are answered, and the one that was proven last starts a pod.
fn still_proven(kuik: &Kuik<'_>, ns: &Namespace, shown: &Shown, losses: &[Loss]) -> Result<()> {
    let Some(last) = losses.last() else { return Ok(()) };
    expect(kuik, "node1", &manifest(&last.image)?, Some(shown), 200, &[])?;
    run(kuik, ns, &private_pod("node1", "proven-still", &last.image, &[last.name])).map(drop)
}

/// Waits until a namespace is refused on `node1`.
fn wait_refused(kuik: &Kuik<'_>, shown: &Shown, image: &str) -> Result<()> {
    let path = manifest(image)?;
    wait::until_every(LOOK_EVERY, &format!("{image} to be refused"), ENDED_LIMIT, || {
        let reply = ask(kuik, "node1", &path, Some(shown))?;
        let body = String::from_utf8_lossy(&reply.body);
        ensure!(reply.status == 403, "it was answered with {}: {body}", reply.status);
        ensure!(body.contains(&shown.namespace), "the refusal does not name {}: {body}", shown.namespace);
        Ok(Some(()))
    })
}

/// Without its registry a private image starts where its namespace has proven its right, also when that was long ago and after a restart of
/// the agent; and nobody else gets it.
pub(crate) fn an_outage_does_not_stop_who_has_proven(env: &Env) -> Result<()> {
    env.cluster()?;
    let kuik = installed(env, "lastProven")?;
    let door = Door::with_passwords(&kuik)?;
    let image = door.push("private/outage", &images::oci("private, and kept")?)?;
    let outcome = with_temp_ns(kuik.kube, "outage", |ns| {
        let shown = token_of(ns)?;
        give(ns, "regcred", &[&door.login("private/outage")])?;
        run(&kuik, ns, &private_pod("node1", "app", &image, &["regcred"]))?;
        door.upstream.stop()?;
        run(&kuik, ns, &private_pod("node1", "proven", &image, &["regcred"]))?;
        wait_last_proof(&kuik, &shown, &image)?;
        run(&kuik, ns, &private_pod("node1", "proven-long-ago", &image, &["regcred"]))?;
        let agent = kuik.agent("node1")?;
        kuik.kube.kubectl(&["delete", "pod", "-n", NAMESPACE, &agent, "--wait", "--timeout=90s"])?;
        kuik.kube.wait_rollout(NAMESPACE, "daemonset/kube-image-keeper-agent", Duration::from_secs(120))?;
        ensure!(kuik.agent("node1")? != agent, "the agent was not restarted");
        run(&kuik, ns, &private_pod("node1", "restarted", &image, &["regcred"]))?;
        with_temp_ns(kuik.kube, "outage-stranger", |stranger| {
            let theirs = token_of(stranger)?;
            let reply = ask(&kuik, "node1", &manifest(&image)?, Some(&theirs))?;
            ensure!(reply.status >= 400, "a stranger was answered with {}", reply.status);
            Ok(())
        })
    });
    door.upstream.start()?;
    outcome
}

/// Waits until the last proof of a namespace is too old, and counts because its registry is away; every answer until then is good.
fn wait_last_proof(kuik: &Kuik<'_>, shown: &Shown, image: &str) -> Result<()> {
    let (path, before) = (manifest(image)?, last_proofs(kuik)?);
    let mut asked = 0;
    let bad = wait::until_every(LOOK_EVERY, "the last proof to count", ENDED_LIMIT, || {
        let reply = ask(kuik, "node1", &path, Some(shown))?;
        asked += 1;
        if reply.status != 200 {
            return Ok(Some(Some(reply)));
        }
        Ok((last_proofs(kuik)? > before).then_some(None))
    })?;
    if let Some(reply) = bad {
        anyhow::bail!("answer {asked} was {}: {}", reply.status, String::from_utf8_lossy(&reply.body));
    }
    Ok(())
}

/// How often the agent of `node1` went by the last proof.
fn last_proofs(kuik: &Kuik<'_>) -> Result<f64> {
    let url = format!("http://{}:8080/metrics", agent_address(kuik, "node1")?);
    let metrics = kuik.cluster()?.in_hub(|| Metrics::get(&url))?;
    Ok(metrics.of("kuik_agent_access_proofs_total").filter(|(labels, _)| labels.contains("\"last\"")).map(|(_, count)| count).sum())
}

/// With `deny` an outage that outlives the proof stops a private image, and its end lets it go again. Public ones are not concerned.
pub(crate) fn an_outage_stops_private_images_if_told_so(env: &Env) -> Result<()> {
    env.cluster()?;
    let kuik = installed(env, "deny")?;
    let door = Door::with_passwords(&kuik)?;
    let image = door.push("private/deny", &images::oci("private, and denied")?)?;
    let public = kuik.push("private/public", "1", &images::oci("public, and kept")?)?;
    let outcome = with_temp_ns(kuik.kube, "deny", |ns| {
        let shown = token_of(ns)?;
        give(ns, "regcred", &[&door.login("private/deny")])?;
        run(&kuik, ns, &private_pod("node1", "app", &image, &["regcred"]))?;
        expect(&kuik, "node1", &manifest(&public)?, None, 200, &[])?;
        door.upstream.stop()?;
        kuik.upstream()?.stop()?;
        let path = manifest(&image)?;
        expect(&kuik, "node1", &path, Some(&shown), 200, &[])?;
        wait::until_every(LOOK_EVERY, "the proof to end", ENDED_LIMIT, || {
            let reply = ask(&kuik, "node1", &path, Some(&shown))?;
            ensure!(reply.status >= 500, "it was answered with {}", reply.status);
            Ok(Some(()))
        })?;
        expect(&kuik, "node1", &manifest(&public)?, None, 200, &[])?;
        door.upstream.start()?;
        wait::until_every(LOOK_EVERY, "the right to be proven again", Duration::from_secs(60), || {
            let reply = ask(&kuik, "node1", &path, Some(&shown))?;
            ensure!(reply.status == 200, "{}: {}", reply.status, String::from_utf8_lossy(&reply.body));
            Ok(Some(()))
        })
    });
    door.upstream.start()?;
    kuik.upstream()?.start()?;
    outcome
}
