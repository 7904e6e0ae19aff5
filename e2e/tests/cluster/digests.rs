//! Digests stay what they are.

use anyhow::{Result, ensure};
use kuik_e2e::images::{self, Image};
use kuik_e2e::kube::with_temp_ns;

use crate::env::Env;
use crate::kuik::{Kuik, run_rewritten};

/// Images of one and of several platforms, by tag, by digest and by both: what runs has the digest that was pushed, on both runtimes.
pub(crate) fn digests_are_unchanged(env: &Env) -> Result<()> {
    let kuik = Kuik::installed(env)?;
    let nodes = [kuik.node(1)?, kuik.node(2)?, kuik.node(3)?];
    let shapes: [(&str, Image); 3] = [
        ("oci", images::oci("one platform")?),
        ("docker", images::docker("docker's format")?),
        ("index", images::multi_arch("two platforms")?),
    ];
    with_temp_ns(kuik.kube, "digests", |ns| {
        for (shape, content) in &shapes {
            let repository = format!("digests/{shape}");
            let tagged = kuik.push(&repository, "1", content)?;
            let digest = &content.root().digest;
            let bare = kuik.repository(&repository)?;
            let references = [("tag", tagged.clone()), ("digest", format!("{bare}@{digest}")), ("both", format!("{tagged}@{digest}"))];
            for (number, (kind, reference)) in references.iter().enumerate() {
                let name = format!("{shape}-{kind}");
                let pod = run_rewritten(ns, &nodes[number], &name, reference)?;
                let running = pod["status"]["containerStatuses"][0]["imageID"].as_str().unwrap_or_default();
                ensure!(running.ends_with(digest.as_str()), "{name} runs {running}, not {digest}");
            }
            kuik.wait_cached(&references[1].1, &[&nodes[1]])?;
        }
        Ok(())
    })
}

/// A pod that names one platform's digest runs on a node that holds the whole index under its tag: its `CachedImage` is ready there, and
/// stays so when nothing uses it.
pub(crate) fn a_platform_s_digest_is_ready_where_its_index_is_held_by_tag(env: &Env) -> Result<()> {
    let kuik = Kuik::installed(env)?;
    let node = kuik.node(1)?;
    let content = images::multi_arch("one of its platforms")?;
    let index = kuik.push("digests/part", "1", &content)?;
    let part = format!("{}@{}", kuik.repository("digests/part")?, content.manifests[0].digest);
    with_temp_ns(kuik.kube, "part", |ns| {
        run_rewritten(ns, &node, "index", &index)?;
        kuik.wait_cached(&index, &[&node])?;
        run_rewritten(ns, &node, "part", &part)?;
        let object = kuik.wait_cached(&part, &[&node])?;
        ensure!(object["status"]["sizeBytes"].as_u64().is_some_and(|bytes| bytes > 500_000), "{}", object["status"]);
        ns.delete_object("pod/part")?;
        kuik.wait_image("unused", &part, |object| {
            ensure!(object["spec"]["expiresAt"].is_string(), "{object}");
            Ok(())
        })?;
        kuik.wait_cached(&part, &[&node]).map(drop)
    })
}
