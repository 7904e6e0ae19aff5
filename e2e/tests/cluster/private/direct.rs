//! Asking around the runtime: with tokens of others, from a container, and in the name of an agent.

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kuik_crd::pull_token::PullSigner;
use kuik_e2e::images;
use kuik_e2e::kube::{Namespace, with_temp_ns};
use serde_json::Value;
use std::time::{SystemTime, UNIX_EPOCH};

use super::ask::{RUNTIME_ADDRESS, agent_address, expect, manifest, path};
use super::doors::Door;
use super::tenant::{Shown, give, private_pod, run, token_of};
use crate::env::Env;
use crate::kuik::{Kuik, NAMESPACE, pod_on, run_rewritten};

const HOUR: u64 = 3600;

/// Nothing, and every kind of token that is not the asking namespace's good one, opens neither manifest nor layer nor list; the message says
/// what is wrong with it. What is public needs none.
pub(crate) fn tokens_that_are_not_ones_own_open_nothing(env: &Env) -> Result<()> {
    env.cluster()?;
    let kuik = Kuik::installed(env)?;
    let door = Door::with_tokens(&kuik)?;
    let content = images::oci("for its owner alone")?;
    let image = door.push("private/direct", &content)?;
    let public = kuik.push("private/open", "1", &images::oci("for everybody")?)?;
    let signer = signer_of_the_cluster(&kuik)?;
    with_temp_ns(kuik.kube, "owner", |owner| {
        with_temp_ns(kuik.kube, "stranger", |stranger| {
            let (own, theirs) = (token_of(owner)?, token_of(stranger)?);
            give(owner, "regcred", &[&door.login("private/direct")])?;
            run(&kuik, owner, &private_pod("node1", "app", &image, &["regcred"]))?;
            let asked = |shown: Option<&Shown>, status, words: &[&str]| expect(&kuik, "node1", &manifest(&image)?, shown, status, words);
            asked(Some(&own), 200, &[])?;
            asked(Some(&own.with(&signer.sign(owner.name(), now()? + HOUR))), 200, &[])?;
            asked(Some(&theirs), 403, &[stranger.name()])?;
            let challenged = asked(None, 401, &["kuik-pull"])?;
            let challenge = challenged.header("www-authenticate").unwrap_or_default();
            ensure!(challenge.starts_with("Basic"), "the challenge is {challenge:?}");

            for (token, words) in bad_tokens(&own, &theirs, &signer)? {
                asked(Some(&own.with(&token)), 401, &words.iter().map(String::as_str).collect::<Vec<_>>())?;
            }
            for blob in &content.blobs {
                let blob = format!("blobs/{}", blob.digest);
                expect(&kuik, "node1", &path(&image, &blob)?, Some(&own), 200, &[])?;
                expect(&kuik, "node1", &path(&image, &blob)?, None, 401, &[])?;
                expect(&kuik, "node1", &path(&image, &blob)?, Some(&theirs), 403, &[])?;
                expect(&kuik, "node1", &path(&public, &blob)?, Some(&theirs), 404, &[])?;
            }
            let by_digest = format!("manifests/{}", content.root().digest);
            expect(&kuik, "node1", &path(&image, &by_digest)?, None, 401, &[])?;
            // Whether it is not there or hidden is only known of a repository that is known to be open.
            expect(&kuik, "node1", &path(&public, &by_digest)?, None, 401, &[])?;
            expect(&kuik, "node1", &path(&image, "tags/list")?, None, 401, &[])?;
            expect(&kuik, "node1", &path(&image, "tags/list")?, Some(&theirs), 403, &[])?;
            expect(&kuik, "node1", &manifest(&public)?, None, 200, &[])?;
            expect(&kuik, "node1", &path(&public, &by_digest)?, None, 404, &[])?;
            expect(&kuik, "node1", &manifest(&public)?, Some(&own.with("nonsense")), 200, &[]).map(drop)
        })
    })
}

/// Tokens that the owner's namespace may not be taken for, and words of the message.
fn bad_tokens(own: &Shown, theirs: &Shown, signer: &PullSigner) -> Result<Vec<(String, Vec<String>)>> {
    let foreign = PullSigner::read(&PullSigner::generate()?)?;
    let later = now()? + HOUR;
    let of_a_stranger = vec![format!("not one for the namespace {}", own.namespace)];
    let forged = foreign.sign(&own.namespace, later).replace(&foreign.key().id, &signer.key().id);
    let longer = own.token.splitn(4, '.').enumerate().map(|(number, part)| if number == 2 { later.to_string() } else { part.to_owned() });
    Ok(vec![
        ("nonsense".to_owned(), vec!["no pull token".to_owned()]),
        (String::new(), vec!["no pull token".to_owned()]),
        (theirs.token.clone(), of_a_stranger.clone()),
        (tampered(&own.token), of_a_stranger.clone()),
        (longer.collect::<Vec<_>>().join("."), of_a_stranger.clone()),
        (forged, of_a_stranger),
        (foreign.sign(&own.namespace, later), vec!["does not know".to_owned(), foreign.key().id.clone()]),
        (signer.sign(&own.namespace, now()? - HOUR), vec!["expired".to_owned()]),
    ])
}

/// The token with another letter at the beginning of its signature.
fn tampered(token: &str) -> String {
    let (rest, signature) = token.rsplit_once('.').expect("a token must have dots");
    let other = if signature.starts_with('A') { "B" } else { "A" };
    format!("{rest}.{other}{}", &signature[1..])
}

/// What the leader signs with, which only who may read Secrets in the release's namespace can know.
fn signer_of_the_cluster(kuik: &Kuik<'_>) -> Result<PullSigner> {
    let secret = kuik.kube.json(&["get", "secret", "-n", NAMESPACE, "kube-image-keeper-pull-keys"])?;
    let entry = STANDARD.decode(secret["data"]["current"].as_str().context("there must be a key in use")?)?;
    let entry: Value = serde_json::from_slice(&entry)?;
    let pair = STANDARD.decode(entry["pkcs8"].as_str().context("it must have a key pair")?)?;
    Ok(PullSigner::read(&pair)?)
}

fn now() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}

/// A container that asks its node's agent gets what is public, and what the token that it shows opens: its own namespace's, which opens
/// nothing that its pull secrets do not, or another's that it has come by.
pub(crate) fn a_container_that_asks_gets_no_more_than_its_token_opens(env: &Env) -> Result<()> {
    env.cluster()?;
    let kuik = Kuik::installed(env)?;
    let door = Door::with_passwords(&kuik)?;
    let image = door.push("private/container", &images::oci("not for containers")?)?;
    let public = kuik.push("private/tools", "1", &images::oci("tools of a container")?)?;
    with_temp_ns(kuik.kube, "owner", |owner| {
        with_temp_ns(kuik.kube, "curious", |curious| {
            let (right, own) = (token_of(owner)?, token_of(curious)?);
            give(owner, "regcred", &[&door.login("private/container")])?;
            run(&kuik, owner, &private_pod("node1", "app", &image, &["regcred"]))?;
            run_rewritten(curious, "node1", "pod", &public)?;
            let mut host = pod_on("node1", "host", &public);
            host["spec"]["hostNetwork"] = true.into();
            curious.apply(&host)?;
            curious.wait_running("host")?;

            let private = manifest(&image)?;
            let answer = wget(curious, "pod", RUNTIME_ADDRESS, &private, Some(&own))?;
            ensure!(answer.is_none(), "a pod's own loopback answers with {answer:?}");
            let in_pod_network = format!("{}:7439", agent_address(&kuik, "node1")?);
            for (pod, address) in [("pod", in_pod_network.as_str()), ("host", RUNTIME_ADDRESS)] {
                let stolen_name = Shown { namespace: right.namespace.clone(), token: own.token.clone() };
                let expected = [
                    (manifest(&public)?, None, 200),
                    (private.clone(), None, 401),
                    (private.clone(), Some(&own), 403),
                    (private.clone(), Some(&stolen_name), 401),
                    (private.clone(), Some(&right), 200),
                ];
                for (path, shown, status) in expected {
                    let answer = wget(curious, pod, address, &path, shown)?;
                    let who = shown.map_or("nobody", |shown| &shown.namespace);
                    ensure!(answer == Some(status), "{pod} asked {address} for {path} as {who}: {answer:?} instead of {status}");
                }
            }
            Ok(())
        })
    })
}

/// The status that a container is answered with, if anybody answers.
fn wget(ns: &Namespace, pod: &str, address: &str, path: &str, shown: Option<&Shown>) -> Result<Option<u16>> {
    let header = shown.map_or_else(String::new, |shown| format!("--header 'Authorization: {}'", shown.header()));
    let accept = kuik_e2e::http::ACCEPT_MANIFESTS;
    let script = format!(
        "/bin/busybox wget -S -O /dev/null {header} --header 'Accept: {accept}' http://{address}{path} 2>&1 \
         | /bin/busybox grep -o 'HTTP/1.1 [0-9]*'; true"
    );
    let said = ns.kubectl(&["exec", pod, "--", "/bin/busybox", "sh", "-c", &script])?;
    said.lines().next().and_then(|line| line.split(' ').nth(1)).map(|status| status.parse().context(said.clone())).transpose()
}

/// An agent's token is good for the secrets of namespaces with a pod on its node, and of no others.
pub(crate) fn a_node_gets_no_secrets_of_namespaces_without_a_pod_there(env: &Env) -> Result<()> {
    env.cluster()?;
    let kuik = Kuik::installed(env)?;
    let door = Door::with_passwords(&kuik)?;
    let image = door.push("private/control", &images::oci("its secret stays on its node")?)?;
    let repository = image.strip_suffix(":1").context("the tag is 1")?;
    with_temp_ns(kuik.kube, "control", |ns| {
        token_of(ns)?;
        let login = door.login("private/control");
        give(ns, "regcred", &[&login])?;
        run(&kuik, ns, &private_pod("node1", "app", &image, &["regcred"]))?;
        let ask = |agent: &str| credentials(&kuik, agent, ns.name(), repository);
        let (status, answer) = ask("node1")?;
        ensure!(status == 200 && answer.contains(&login.password), "node1, where the pod is: {status} {answer}");
        ensure!(answer.contains("Secret regcred") && !answer.contains("kuik-pull"), "{answer}");
        let (status, answer) = ask("node2")?;
        ensure!(status == 403 && !answer.contains(&login.password), "node2, without a pod: {status} {answer}");
        ensure!(answer.contains("node2") && answer.contains(ns.name()), "the refusal names neither: {answer}");
        let (status, _) = credentials(&kuik, "node1", "kube-public", repository)?;
        ensure!(status == 403, "a namespace without pods: {status}");
        ns.delete_object("pod/app")?;
        let limit = std::time::Duration::from_secs(60);
        kuik_e2e::wait::until_every(std::time::Duration::from_secs(1), "node1 to be refused", limit, || {
            let (status, answer) = ask("node1")?;
            ensure!(status == 403 && !answer.contains(&login.password), "after the pod has gone: {status}");
            Ok(Some(()))
        })
    })
}

/// Asks the control API for pull secrets as the agent of a node would: the status and the answer.
fn credentials(kuik: &Kuik<'_>, agent: &str, namespace: &str, repository: &str) -> Result<(u16, String)> {
    let pod = kuik.agent(agent)?;
    let bound = ["--bound-object-kind=Pod", &format!("--bound-object-name={pod}"), "--audience=kuik"];
    let create = ["create", "token", "-n", NAMESPACE, "kube-image-keeper-agent"];
    let token = kuik.kube.kubectl(&create.into_iter().chain(bound).collect::<Vec<_>>())?;
    let service = kuik.kube.json(&["get", "service", "-n", NAMESPACE, "kube-image-keeper-control"])?;
    let address = service["spec"]["clusterIP"].as_str().context("the control API must have an address")?;
    let authority = kuik.kube.json(&["get", "configmap", "-n", NAMESPACE, "kube-image-keeper-ca"])?;
    let dir = tempfile::tempdir().context("make a folder")?;
    let file = |name: &str, content: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).map(|()| path.display().to_string()).with_context(|| format!("write {name}"))
    };
    let ca = file("ca.crt", authority["data"]["ca.crt"].as_str().context("there must be an authority")?)?;
    let header = file("header", &format!("Authorization: Bearer {}\n", token.trim()))?;
    let body = file("body", &serde_json::json!({ "namespace": namespace, "repository": repository }).to_string())?;
    let host = format!("kube-image-keeper-control.{NAMESPACE}.svc:9443");
    let said = kuik.cluster()?.node(1)?.sh(&format!(
        "curl --silent --show-error --max-time 20 --cacert {ca} --resolve {host}:{address} --header @{header} \
         --header 'content-type: application/json' --data @{body} --write-out '\\n%{{http_code}}' https://{host}/v1/credentials"
    ))?;
    let (answer, status) = said.trim_end().rsplit_once('\n').context("curl must print the status")?;
    Ok((status.parse().context(said.clone())?, answer.to_owned()))
}
