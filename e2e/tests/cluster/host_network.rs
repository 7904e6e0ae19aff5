//! Agents in the nodes' own network, for clusters whose CNI has no portmap.

use anyhow::{Context as _, Result, ensure};
use kuik_e2e::images;
use kuik_e2e::kube::with_temp_ns;
use serde_json::json;

use crate::env::Env;
use crate::kuik::{Kuik, NAMESPACE, run_rewritten};

/// The agent listens at both loopback addresses of its node and at no other, pods start through it, and the way back works too.
pub(crate) fn agents_listen_at_loopback_of_both_versions(env: &Env) -> Result<()> {
    let node = env.cluster()?.node(1)?;
    let kuik = Kuik::installed(env)?;
    let image = kuik.push("host-network/app", "1", &images::oci("through the node's own loopback")?)?;
    kuik.install(&json!({ "agent": { "hostNetwork": true } }))?;
    let agent = kuik.kube.json(&["get", "pod", "-n", NAMESPACE, &kuik.agent("node1")?])?;
    ensure!(agent["spec"]["hostNetwork"] == true, "{}", agent["spec"]);
    for address in ["127.0.0.1", "[::1]"] {
        node.sh(&format!("curl --silent --show-error --fail --max-time 5 --globoff http://{address}:7439/v2/")).context(address)?;
    }
    let outside = node.sh(&format!("curl --silent --max-time 5 http://{}:7439/v2/", node.address()));
    ensure!(outside.is_err(), "pulls are answered at {}, too", node.address());
    with_temp_ns(kuik.kube, "host-network", |ns| {
        run_rewritten(ns, "node1", "app", &image)?;
        kuik.wait_cached(&image, &["node1"])?;
        kuik.install(&json!({}))?;
        ns.delete_object("pod/app")?;
        node.remove_image(&crate::kuik::rewritten(&image)?)?;
        run_rewritten(ns, "node1", "again", &image).map(drop)
    })
}
