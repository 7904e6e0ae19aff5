//! The registry of metrics: each part of the program registers a struct of its own, under one prefix. No label holds an image, a pod or a node.

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// What all names of metrics begin with.
const PREFIX: &str = "kuik_webhook";

/// A registry that knows the program's version, and nothing else yet.
#[must_use]
pub fn registry() -> Registry {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register("build", "The version of the webhook", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
    registry
}
