//! Kubernetes as its API shows it, through kubectl and Helm. Works on any cluster: one of [`crate::cluster`], or somebody's own.
//!
//! What a test does with it, each step failing with what was seen last:
//!
//! ```no_run
//! # use std::time::Duration;
//! # use kuik_e2e::kube::{Kube, pod, with_temp_ns};
//! # fn main() -> anyhow::Result<()> {
//! # let kube = Kube::external("kubeconfig".as_ref());
//! # let values = serde_json::json!({});
//! let kuik = kube.helm("kuik", "kuik-system", "chart".as_ref());
//! kuik.install(&values)?;                               // installs or upgrades, and waits until everything is ready
//! with_temp_ns(&kube, "rewrite", |ns| {                 // on failure: pods, events and logs; afterwards: deleted
//!     let mut app = pod("app", "192.0.2.254:5000/team/app:v1");
//!     app["spec"]["nodeName"] = "node2".into();
//!     ns.apply(&app)?;
//!     let app = ns.wait_running("app")?;
//!     assert_eq!(ns.logs("app")?, "first\n");           // the image's marker
//!     assert_eq!(app["spec"]["nodeName"], "node2");
//!     Ok(())
//! })?;
//! kube.wait_json("the image to be ready", Duration::from_secs(30), &["get", "cachedimage", "x"], |image| {
//!     anyhow::ensure!(image["status"]["ready"] == true, "{}", image["status"]);
//!     Ok(())
//! })?;
//! kuik.uninstall()
//! # }
//! ```

mod dump;
mod helm;
mod manifests;
mod namespace;

pub use dump::{dump, dumps};
pub use helm::Helm;
pub use manifests::{deployment, pod};
pub use namespace::{Namespace, with_temp_ns};

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::process::{client, run_text, run_with_input};
use crate::{tools, wait};

/// Every look costs a run of kubectl, which is a good part of a processor's attention.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// A cluster's API, with the rights of a kubeconfig.
#[derive(Clone, Debug)]
pub struct Kube {
    kubeconfig: PathBuf,
    netns: Option<PathBuf>,
}

impl Kube {
    /// A cluster that this machine reaches as it is.
    pub fn external(kubeconfig: &Path) -> Self {
        Self { kubeconfig: kubeconfig.to_owned(), netns: None }
    }

    /// A cluster that is reached from within a network namespace.
    pub fn inside(kubeconfig: &Path, netns: &Path) -> Self {
        Self { kubeconfig: kubeconfig.to_owned(), netns: Some(netns.to_owned()) }
    }

    /// A command that runs `program`, one of our tools such as `kubectl` or `helm`, against this cluster.
    pub fn command(&self, program: &str) -> Result<Command> {
        let program = tools::built(program)?;
        let mut command = match &self.netns {
            Some(netns) => {
                let mut command = client(&tools::debian("nsenter")?);
                command.arg(format!("--net={}", netns.display())).arg("--").arg(program);
                command
            }
            None => client(&program),
        };
        command.env("KUBECONFIG", &self.kubeconfig);
        Ok(command)
    }

    /// Runs kubectl and returns what it prints.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        run_text(self.command("kubectl")?.args(arguments))
    }

    /// Runs kubectl with something to read.
    pub fn kubectl_with_input(&self, arguments: &[&str], input: &str) -> Result<String> {
        run_with_input(self.command("kubectl")?.args(arguments), input)
    }

    /// Runs kubectl, and parses what it prints as JSON: `["get", "pods", "-n", "x"]`.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = run_text(self.command("kubectl")?.args(arguments).args(["-o", "json"]))?;
        serde_json::from_str(&text).with_context(|| format!("the output of kubectl {}", arguments.join(" ")))
    }

    /// Creates or changes whatever `manifest` says, YAML or JSON.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        self.kubectl_with_input(&["apply", "-f", "-"], manifest).map(drop)
    }

    /// Looks again and again until `check` is content with what [`Kube::json`] returns, and returns what `check` makes of it.
    /// Its error means "not yet"; after `limit` the last one is returned, so it should say what was seen.
    pub fn wait_json<T>(&self, what: &str, limit: Duration, arguments: &[&str], mut check: impl FnMut(&Value) -> Result<T>) -> Result<T> {
        wait::until_every(LOOK_EVERY, what, limit, || check(&self.json(arguments)?).map(Some))
    }

    /// Waits until a rollout of `kind/name` is complete.
    pub fn wait_rollout(&self, namespace: &str, workload: &str, limit: Duration) -> Result<()> {
        let timeout = format!("--timeout={}s", limit.as_secs());
        self.kubectl(&["rollout", "status", workload, "-n", namespace, &timeout]).map(drop)
    }

    /// The release `name` of a chart.
    pub fn helm(&self, name: &str, namespace: &str, chart: &Path) -> Helm {
        Helm::new(self, name, namespace, chart)
    }
}
