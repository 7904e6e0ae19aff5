//! What admission promises: tables of pods, properties, and reviews by HTTP.

mod http;
mod pods;
mod properties;
mod reviews;

use k8s_openapi::api::core::v1::Pod;
use regex::Regex;
use serde_json::{Value, json};

use super::{Outcome, Rules, mutate};
use crate::config::{Auth, AuthMode, Settings};

fn rules() -> Rules {
    Rules::new(&Settings::default())
}

/// Namespaces have no tokens.
fn without_tokens() -> Settings {
    Settings { auth: Auth { mode: AuthMode::None, ..Auth::default() }, ..Settings::default() }
}

fn patterns(patterns: &[&str]) -> Vec<Regex> {
    patterns.iter().map(|pattern| Regex::new(pattern).unwrap()).collect()
}

fn mk_pod(value: &Value) -> Pod {
    serde_json::from_value(value.clone()).unwrap()
}

/// A pod of one container.
fn simple(image: &str) -> Value {
    json!({ "metadata": { "name": "p" }, "spec": { "containers": [{ "name": "app", "image": image }] } })
}

/// The pod with the patch applied.
fn patched(value: &Value, outcome: &Outcome) -> Value {
    let mut value = value.clone();
    json_patch::patch(&mut value, &outcome.patch).unwrap();
    value
}

/// What a person wants to see of an outcome.
fn shown(outcome: &Outcome) -> String {
    let mut lines = Vec::new();
    for operation in &outcome.patch.0 {
        let operation = serde_json::to_value(operation).unwrap();
        lines.push(format!("{} {} {}", operation["op"].as_str().unwrap(), operation["path"].as_str().unwrap(), operation["value"]));
    }
    lines.extend(outcome.skips.iter().map(|reason| format!("skipped: {}", reason.as_str())));
    lines.extend(outcome.warnings.iter().map(|warning| format!("warning: {warning}")));
    if outcome.patch.0.is_empty() {
        lines.insert(0, "(no patch)".to_owned());
    }
    lines.join("\n")
}

/// Mutates each pod of a table, and shows what comes out. Each must be left alone the second time.
fn table(rules: &Rules, cases: &[(&str, Value, Option<Value>)]) -> String {
    let case = |(name, pod, old): &(&str, Value, Option<Value>)| {
        let old = old.as_ref().map(mk_pod);
        let outcome = mutate(&mk_pod(pod), old.as_ref(), rules);
        let again = mutate(&mk_pod(&patched(pod, &outcome)), old.as_ref(), rules);
        assert_eq!(again.patch.0, [], "{name}, the second time");
        format!("# {name}\n{}\n", shown(&outcome))
    };
    cases.iter().map(case).collect::<Vec<_>>().join("\n")
}
