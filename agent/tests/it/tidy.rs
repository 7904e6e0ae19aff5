//! The shape of the source tree: who may name what, which way arrows point, how long a file may be.
//!
//! ARCHITECTURE.md draws the picture, and this holds us to it. A failure names the file, the line and the rule.

mod rules;
mod source;

use std::path::Path;

use rules::{Broken, Home, Layer};
use source::{Source, read_all};

/// The crate's modules in the order of their layers, each with what it may use of those before it. `lib.rs` and `main.rs` stand outside.
const LAYERS: [Layer; 17] = [
    ("oci", &[]),
    ("requester", &[]),
    ("shutdown", &[]),
    ("readiness", &[]),
    ("telemetry", &[]),
    ("config", &["oci", "telemetry"]),
    ("args", &["config", "telemetry"]),
    ("store", &["oci", "config", "telemetry"]),
    ("upstream", &["oci", "requester", "config", "telemetry"]),
    ("metrics", &["oci", "store", "upstream::Observer"]),
    ("cache", &["oci", "requester", "config", "telemetry", "store", "upstream", "metrics"]),
    ("access", &["oci", "requester", "config", "telemetry", "store", "upstream", "metrics", "cache"]),
    ("disk", &["oci", "config", "telemetry", "store", "metrics", "cache"]),
    ("control", &["oci", "config", "telemetry", "store", "metrics", "cache", "access", "disk"]),
    ("http", &["oci", "requester", "config", "telemetry", "store", "upstream", "metrics", "cache", "access", "disk", "readiness"]),
    (
        "app",
        &[
            "oci",
            "config",
            "telemetry",
            "store",
            "upstream",
            "metrics",
            "cache",
            "access",
            "disk",
            "control",
            "readiness",
            "http",
            "shutdown",
        ],
    ),
    ("cli", &["oci", "config", "telemetry", "args", "app"]),
];

/// Arrows that point the wrong way today. The list only ever gets shorter.
const TO_TURN: [(&str, &str); 3] = [
    // `LogConfig`, which is telemetry's own.
    ("telemetry", "config"),
    // `ServeArgs`: what the flags say is a source of the configuration.
    ("config", "args"),
    // `AdminAddress`, `ImageRef` and `Platform`: words that the arguments are made of.
    ("args", "cli"),
];

const HOMES: [Home; 5] = [
    Home { names: &["axum"], places: &["agent/src/http/"], rule: "only http/ does" },
    Home { names: &["sled"], places: &["agent/src/store/index.rs"], rule: "only store/index.rs does" },
    Home {
        names: &["reqwest"],
        places: &["agent/src/upstream/", "agent/src/control/client.rs", "agent/src/cli/client.rs"],
        rule: "only upstream/, control/client.rs and cli/client.rs do",
    },
    Home {
        names: &["prometheus_client"],
        places: &["agent/src/metrics.rs", "agent/src/metrics/", "agent/src/app.rs", "agent/src/http/"],
        rule: "only metrics.rs, and app.rs and http/ that hand it out, do",
    },
    Home { names: &["kube", "k8s_openapi"], places: &[], rule: "the agent knows no Kubernetes" },
];

/// Where files that the configuration names are read: the configuration itself, authorities, credentials, tokens.
const READERS: [&str; 7] = [
    "agent/src/config/file.rs",
    "agent/src/config/load.rs",
    "agent/src/config/reload.rs",
    "agent/src/control/client.rs",
    "agent/src/upstream/client.rs",
    "agent/src/upstream/credentials.rs",
    "agent/src/upstream/docker_config.rs",
];

/// Files that allow a lint from their first line to their last. The list only ever gets shorter.
const WHOLE_FILES: [&str; 0] = [];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate must be in the workspace")
}

fn agent() -> Vec<Source> {
    read_all(root(), "agent/src")
}

fn everything() -> Vec<Source> {
    ["crd/src", "crd/tests", "agent/src", "agent/tests", "e2e/src", "e2e/tests"].iter().flat_map(|dir| read_all(root(), dir)).collect()
}

#[track_caller]
fn hold(broken: &Broken) {
    assert!(broken.is_empty(), "{} broken:\n{}", broken.len(), broken.join("\n"));
}

#[test]
fn each_library_has_its_home() {
    hold(&rules::homes(&agent(), &HOMES));
}

#[test]
fn the_agent_depends_on_no_kubernetes_library() {
    let manifest = std::fs::read_to_string(root().join("agent/Cargo.toml")).unwrap();
    let named = manifest.lines().enumerate().filter(|(_, line)| line.starts_with("kube") || line.starts_with("k8s-openapi"));
    hold(&named.map(|(nth, line)| format!("agent/Cargo.toml:{}: {line}: the agent knows no Kubernetes", nth + 1)).collect());
}

#[test]
fn only_the_store_touches_files_and_few_read_them() {
    hold(&rules::files(&agent(), &READERS, "agent/src/store/"));
}

#[test]
fn the_vocabulary_is_pure() {
    // Programs that print the vocabulary are not part of it, and credential helpers are programs that both sides run in the same way.
    let is_word = |source: &Source| !source.path.starts_with("crd/src/bin/") && source.path != "crd/src/credentials/helper.rs";
    let vocabulary = read_all(root(), "crd/src").into_iter().filter(is_word);
    let sources: Vec<Source> = agent().into_iter().chain(vocabulary).collect();
    hold(&rules::pure(&sources, &["agent/src/oci/", "crd/src/"]));
}

#[test]
fn arrows_point_one_way() {
    hold(&rules::one_way(&rules::arrows(&agent(), "agent/src/"), &LAYERS, &TO_TURN));
}

#[test]
fn files_are_short() {
    hold(&rules::short(&everything()));
}

#[test]
fn every_exception_to_a_lint_has_its_place_and_its_reason() {
    hold(&rules::lints(&everything(), &WHOLE_FILES));
}

#[test]
fn every_file_says_what_it_is_for() {
    hold(&rules::introduced(&everything()));
}

#[test]
fn nothing_is_left_to_do() {
    hold(&rules::finished(&everything()));
}
