//! Pods that have the right secret, the wrong one, and none.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kuik_crd::pull_token::SECRET_NAME;
use kuik_e2e::images;
use kuik_e2e::kube::with_temp_ns;
use serde_json::json;

use super::doors::Door;
use super::tenant::{begin, expect_proven, expect_refused, give, give_old, private_pod, pull_secrets, run, token_of};
use crate::env::Env;
use crate::kuik::Kuik;

/// Behind a password and behind a token server, on both runtimes.
pub(crate) fn the_right_secret_starts_a_pod(env: &Env) -> Result<()> {
    env.cluster()?;
    let kuik = Kuik::installed(env)?;
    for door in [Door::with_passwords(&kuik)?, Door::with_tokens(&kuik)?] {
        let image = door.push("private/right", &images::oci("for those with the secret")?)?;
        with_temp_ns(kuik.kube, "right", |ns| {
            give(ns, "regcred", &[&door.login("private/right")])?;
            token_of(ns)?;
            for node in ["node1", "node2"] {
                let name = format!("app-{node}");
                let pod = run(&kuik, ns, &private_pod(node, &name, &image, &["regcred"]))?;
                ensure!(pull_secrets(&pod) == ["regcred", SECRET_NAME], "{:?}", pull_secrets(&pod));
                ensure!(ns.logs(&name)?.starts_with("for those with the secret"), "another image runs");
            }
            expect_proven(&kuik, &image, &[ns.name()])
        })?;
    }
    Ok(())
}

/// Neither a copy on the pod's own node nor one on another helps who has no secret, a wrong one, or one for something else.
pub(crate) fn without_a_right_secret_a_cached_image_is_refused(env: &Env) -> Result<()> {
    env.cluster()?;
    let kuik = Kuik::installed(env)?;
    let door = Door::with_tokens(&kuik)?;
    let image = door.push("private/cached", &images::oci("cached for its owner")?)?;
    let repository = image.strip_suffix(":1").context("the tag is 1")?;
    let (right, other) = (door.login("private/cached"), door.login("private/elsewhere"));
    with_temp_ns(kuik.kube, "owner", |owner| {
        give(owner, "regcred", &[&right])?;
        token_of(owner)?;
        run(&kuik, owner, &private_pod("node1", "app", &image, &["regcred"]))?;
        kuik.wait_cached(&image, &["node1"])?;
        with_temp_ns(kuik.kube, "stranger", |stranger| {
            token_of(stranger)?;
            for node in ["node1", "node2"] {
                begin(&kuik, stranger, &private_pod(node, &format!("without-{node}"), &image, &[]))?;
            }
            for node in ["node1", "node2"] {
                let words = [stranger.name(), repository, "no pull secret"];
                expect_refused(stranger, &format!("without-{node}"), &words)?;
            }
            kuik.wait_image("refused", &image, |object| {
                let refusal = &object["status"]["lastRefusal"];
                ensure!(refusal["namespace"] == stranger.name() && refusal["reason"] == "no_secret", "it says {refusal}");
                Ok(())
            })
        })?;
        with_temp_ns(kuik.kube, "mistaken", |mistaken| {
            token_of(mistaken)?;
            give(mistaken, "for-another", &[&other])?;
            begin(&kuik, mistaken, &private_pod("node1", "for-another", &image, &["for-another"]))?;
            expect_refused(mistaken, "for-another", &[mistaken.name(), "for-another", "is for this repository"])
        })?;
        with_temp_ns(kuik.kube, "wrong", |wrong| {
            token_of(wrong)?;
            give(wrong, "mistyped", &[&right.wrong()])?;
            begin(&kuik, wrong, &private_pod("node1", "wrong", &image, &["mistyped"]))?;
            expect_refused(wrong, "wrong", &[wrong.name(), repository, "Secret mistyped"])
        })?;
        run(&kuik, owner, &private_pod("node1", "again", &image, &["regcred"])).map(drop)
    })
}

/// A pod that was refused starts at one of the kubelet's next tries, once its secret is there.
pub(crate) fn a_secret_that_is_added_starts_the_pod(env: &Env) -> Result<()> {
    env.cluster()?;
    let kuik = Kuik::installed(env)?;
    let door = Door::with_passwords(&kuik)?;
    let image = door.push("private/later", &images::oci("the secret comes later")?)?;
    with_temp_ns(kuik.kube, "later", |ns| {
        token_of(ns)?;
        begin(&kuik, ns, &private_pod("node2", "app", &image, &["later"]))?;
        expect_refused(ns, "app", &[ns.name(), "later", "does not exist"])?;
        give(ns, "later", &[&door.login("private/later")])?;
        // The kubelet's tries are at most 300 s apart.
        ns.wait_running_within("app", Duration::from_secs(330)).map(drop)
    })
}

/// The secret is the service account's, and of the type of old.
pub(crate) fn the_secret_of_a_service_account_is_enough(env: &Env) -> Result<()> {
    env.cluster()?;
    let kuik = Kuik::installed(env)?;
    let door = Door::with_passwords(&kuik)?;
    let image = door.push("private/account", &images::oci("for a service account")?)?;
    with_temp_ns(kuik.kube, "account", |ns| {
        token_of(ns)?;
        give_old(ns, "of-the-account", &door.login("private/account"))?;
        ns.apply(&json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": { "name": "puller" },
            "imagePullSecrets": [{ "name": "of-the-account" }],
        }))?;
        let mut pod = private_pod("node1", "app", &image, &[]);
        pod["spec"]["serviceAccountName"] = "puller".into();
        let running = run(&kuik, ns, &pod)?;
        ensure!(pull_secrets(&running) == ["of-the-account", SECRET_NAME], "{:?}", pull_secrets(&running));
        // The account by itself, where a pod brings another secret than the account's.
        give(ns, "of-no-use", &[])?;
        let mut pod = private_pod("node2", "both", &image, &["of-no-use"]);
        pod["spec"]["serviceAccountName"] = "puller".into();
        run(&kuik, ns, &pod).map(drop)
    })
}

/// One host, two paths, two namespaces: each has its own, and the longer path counts before the host.
pub(crate) fn two_namespaces_have_a_path_of_one_host_each(env: &Env) -> Result<()> {
    env.cluster()?;
    let kuik = Kuik::installed(env)?;
    let door = Door::with_tokens(&kuik)?;
    let (ours, theirs) = ("private-a/app", "private-b/app");
    let image_a = door.push(ours, &images::oci("of team a")?)?;
    let image_b = door.push(theirs, &images::oci("of team b")?)?;
    let (login_a, login_b) = (door.login("private-a"), door.login("private-b"));
    // The host as a whole, with somebody whom the registry does not know.
    let mut of_the_host = login_a.wrong();
    of_the_host.key = door.upstream.host();
    with_temp_ns(kuik.kube, "team-a", |a| {
        with_temp_ns(kuik.kube, "team-b", |b| {
            give(a, "regcred", &[&of_the_host, &login_a])?;
            give(b, "regcred", &[&login_b])?;
            token_of(a)?;
            token_of(b)?;
            run(&kuik, a, &private_pod("node1", "own", &image_a, &["regcred"]))?;
            run(&kuik, b, &private_pod("node1", "own", &image_b, &["regcred"]))?;
            expect_proven(&kuik, &image_a, &[a.name()])?;
            expect_proven(&kuik, &image_b, &[b.name()])?;
            begin(&kuik, a, &private_pod("node1", "other", &image_b, &["regcred"]))?;
            expect_refused(a, "other", &[a.name(), "Secret regcred"])?;
            begin(&kuik, b, &private_pod("node1", "other", &image_a, &["regcred"]))?;
            expect_refused(b, "other", &[b.name(), "regcred", "is for this repository"])
        })
    })
}
