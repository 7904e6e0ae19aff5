//! The shape of the source tree: who may name what, which way arrows point, how long a file may be. The rules are those of the agent.

#[path = "../../../agent/tests/it/tidy/rules.rs"]
mod rules;
#[path = "../../../agent/tests/it/tidy/source.rs"]
mod source;

use std::path::Path;

use rules::{Broken, Home, Layer};
use source::{Source, read_all};

/// The crate's modules in the order of their layers, each with what it may use of those before it. `lib.rs` and `main.rs` stand outside.
const LAYERS: [Layer; 23] = [
    ("telemetry", &[]),
    ("shutdown", &[]),
    ("readiness", &[]),
    ("naming", &[]),
    ("board", &[]),
    ("words", &[]),
    ("metrics", &[]),
    ("pod_images", &[]),
    ("tls_server", &[]),
    ("config", &["words"]),
    ("args", &["telemetry", "words"]),
    ("usage", &["args", "telemetry"]),
    ("certs", &["board", "naming", "telemetry"]),
    ("admission", &["config", "pod_images", "telemetry"]),
    ("credentials", &["config", "telemetry", "words"]),
    ("control", &["board", "credentials", "naming", "telemetry"]),
    ("lifecycle", &["board", "config", "naming", "pod_images", "telemetry"]),
    ("pull", &["board", "config", "lifecycle", "naming", "telemetry"]),
    ("health", &["readiness"]),
    ("probe", &["args", "telemetry", "words"]),
    (
        "app",
        &[
            "admission",
            "args",
            "board",
            "certs",
            "config",
            "control",
            "credentials",
            "health",
            "lifecycle",
            "metrics",
            "naming",
            "pull",
            "readiness",
            "shutdown",
            "tls_server",
            "words",
        ],
    ),
    ("cli", &["app", "args", "config", "probe", "telemetry", "usage"]),
    ("main", &[]),
];

const HOMES: [Home; 4] = [
    Home {
        names: &["axum", "axum_server"],
        places: &["webhook/src/admission/", "webhook/src/control/", "webhook/src/health.rs", "webhook/src/tls_server.rs"],
        rule: "only admission/, control/, health.rs and tls_server.rs do",
    },
    Home {
        names: &["kube"],
        // Of admission, for the types of a review.
        places: &[
            "webhook/src/lifecycle/",
            "webhook/src/certs/",
            "webhook/src/control/review.rs",
            "webhook/src/credentials/",
            "webhook/src/pull/",
            "webhook/src/admission/review.rs",
            "webhook/src/app.rs",
        ],
        rule: "only lifecycle/, certs/, credentials/, pull/, control/review.rs, admission/review.rs and app.rs do",
    },
    Home {
        names: &["reqwest"],
        places: &["webhook/src/control/forward.rs", "webhook/src/probe.rs"],
        rule: "only control/forward.rs and probe.rs do",
    },
    Home { names: &["moka"], places: &["webhook/src/control/tokens.rs"], rule: "only control/tokens.rs does" },
];

/// Where files that flags name are read. Nothing is ever written.
const READERS: [&str; 3] = ["webhook/src/config.rs", "webhook/src/probe.rs", "webhook/src/certs/files.rs"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate must be in the workspace")
}

fn webhook() -> Vec<Source> {
    read_all(root(), "webhook/src")
}

fn everything() -> Vec<Source> {
    ["webhook/src", "webhook/tests"].iter().flat_map(|dir| read_all(root(), dir)).collect()
}

#[track_caller]
fn hold(broken: &Broken) {
    assert!(broken.is_empty(), "{} broken:\n{}", broken.len(), broken.join("\n"));
}

#[test]
fn each_library_has_its_home() {
    hold(&rules::homes(&webhook(), &HOMES));
}

#[test]
fn what_is_done_to_a_pod_is_pure() {
    hold(&rules::pure(&webhook(), &["webhook/src/admission/mutate.rs", "webhook/src/admission/rules.rs", "webhook/src/pod_images.rs"]));
}

#[test]
fn files_are_read_where_flags_name_them_and_never_written() {
    hold(&rules::files(&webhook(), &READERS, "nothing"));
}

#[test]
fn arrows_point_one_way() {
    hold(&rules::one_way(&rules::arrows(&webhook(), "webhook/src/"), &LAYERS, &[]));
}

#[test]
fn files_are_short() {
    hold(&rules::short(&everything()));
}

#[test]
fn every_exception_to_a_lint_has_its_place_and_its_reason() {
    hold(&rules::lints(&everything(), &[]));
}

#[test]
fn every_file_says_what_it_is_for() {
    hold(&rules::introduced(&everything()));
}

#[test]
fn nothing_is_left_to_do() {
    hold(&rules::finished(&everything()));
}
