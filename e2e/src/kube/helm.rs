//! A release of a chart.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::Value;

use super::Kube;
use crate::process::{run_text, run_with_input};

/// Less than a client may take at most, so that Helm itself says what is not ready.
const TIMEOUT: &str = "150s";

/// A release, installed or not.
#[derive(Clone, Debug)]
pub struct Helm {
    kube: Kube,
    name: String,
    namespace: String,
    chart: PathBuf,
}

impl Helm {
    pub(super) fn new(kube: &Kube, name: &str, namespace: &str, chart: &Path) -> Self {
        Self { kube: kube.clone(), name: name.to_owned(), namespace: namespace.to_owned(), chart: chart.to_owned() }
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Installs the release, or upgrades it to exactly these values, and waits until all of it is ready.
    pub fn install(&self, values: &Value) -> Result<()> {
        self.install_with(values, &["--wait"])
    }

    /// As [`Helm::install`], with these arguments to `helm upgrade --install`, and waiting only if one of them says so.
    pub fn install_with(&self, values: &Value, more: &[&str]) -> Result<()> {
        let mut helm = self.kube.command("helm")?;
        helm.args(["upgrade", "--install", &self.name]).arg(&self.chart);
        helm.args(["--namespace", &self.namespace, "--create-namespace", "--reset-values"]);
        helm.args(["--timeout", TIMEOUT, "--values", "-"]).args(more);
        run_with_input(&mut helm, &values.to_string()).map(drop)
    }

    /// Uninstalls the release and waits until all of it is gone. No error if it is not installed.
    pub fn uninstall(&self) -> Result<()> {
        self.run(&["uninstall", &self.name, "--ignore-not-found", "--wait", "--timeout", TIMEOUT]).map(drop)
    }

    /// Runs any command of Helm in the release's namespace and returns what it prints.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        run_text(self.kube.command("helm")?.args(arguments).args(["--namespace", &self.namespace]))
    }
}
