//! Digests stay what they are.

use anyhow::{Result, ensure};
use kuik_e2e::images::{self, Image};
use kuik_e2e::kube::with_temp_ns;

use crate::env::Env;
use crate::kuik::{Kuik, repository_of_this_run, run_rewritten};

/// Images of one and of several platforms, by tag, by digest and by both: what runs has the digest that was pushed, on both runtimes.
pub(crate) fn digests_are_unchanged(env: &Env) -> Result<()> {
    let kuik = Kuik::installed(env)?;
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
            let bare = kuik.upstream()?.image(&repository_of_this_run(&repository), "");
            let references = [("tag", tagged.clone()), ("digest", format!("{bare}@{digest}")), ("both", format!("{tagged}@{digest}"))];
            for (number, (kind, reference)) in references.iter().enumerate() {
                let name = format!("{shape}-{kind}");
                let node = ["node1", "node2", "node3"][number];
                let pod = run_rewritten(ns, node, &name, reference)?;
                let running = pod["status"]["containerStatuses"][0]["imageID"].as_str().unwrap_or_default();
                ensure!(running.ends_with(digest.as_str()), "{name} runs {running}, not {digest}");
            }
            kuik.wait_cached(&references[1].1, &["node2"])?;
        }
        Ok(())
    })
}
