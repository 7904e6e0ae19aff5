//! `controllers.credentialHelpers`: one identity for every namespace, as of a cloud.

use std::time::Duration;

use anyhow::{Result, ensure};
use kuik_crd::pull_token::SECRET_NAME;
use kuik_e2e::kube::with_temp_ns;
use kuik_e2e::{images, tools};
use serde_json::{Value, json};

use super::ask::{expect, manifest};
use super::doors::Door;
use super::tenant::{expect_proven, private_pod, pull_secrets, run, token_of};
use crate::env::Env;
use crate::kuik::{Kuik, NAMESPACE};

/// Where the helper is in the webhook's container.
const PROGRAM: &str = "/helpers/busybox";

/// Pods that bring no pull secret get what the helper's login opens, on both runtimes, and who shows nothing gets nothing.
pub(crate) fn a_credential_helper_opens_what_no_pull_secret_does(env: &Env) -> Result<()> {
    env.cluster()?;
    let door = Door::with_passwords(&Kuik::here(env)?)?;
    let kuik = Kuik::installed_with(env, &values(&door)?)?;
    // A replica of the last release may lead until it is gone, and has no helper.
    kuik.kube.wait_rollout(NAMESPACE, "deployment/kube-image-keeper-webhook", Duration::from_secs(180))?;
    let image = door.push("private/cloud", &images::oci("for the cluster as a whole")?)?;
    with_temp_ns(kuik.kube, "cloud", |ns| {
        token_of(ns)?;
        for node in ["node1", "node2"] {
            let name = format!("app-{node}");
            let pod = run(&kuik, ns, &private_pod(node, &name, &image, &[]))?;
            ensure!(pull_secrets(&pod) == [SECRET_NAME], "{:?}", pull_secrets(&pod));
            ensure!(ns.logs(&name)?.starts_with("for the cluster as a whole"), "another image runs");
        }
        expect_proven(&kuik, &image, &[ns.name()])?;
        expect(&kuik, "node1", &manifest(&image)?, None, 401, &[]).map(drop)
    })
}

/// A static program of the nodes, as the chart's README has it. It answers for the registry that it is asked about, and for no other.
fn values(door: &Door) -> Result<Value> {
    let login = door.login("private/cloud");
    let answer = json!({ "ServerURL": login.key, "Username": login.user, "Secret": login.password });
    let script = format!(r#"read server; [ "$1 $server" = "get {}" ] && echo '{answer}'"#, login.key);
    // Without `credential-helper` the `get` that is added would be the script's own name.
    let command = json!([PROGRAM, "sh", "-c", script, "credential-helper"]);
    Ok(json!({ "controllers": {
        "credentialHelpers": [{ "match": login.key, "command": command }],
        "extraVolumes": [{ "name": "helpers", "hostPath": { "path": tools::debian("busybox")?, "type": "File" } }],
        "extraVolumeMounts": [{ "name": "helpers", "mountPath": PROGRAM, "readOnly": true }],
    } }))
}
