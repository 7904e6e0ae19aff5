//! Which Secrets are written when.

use std::sync::Arc;

use crate::lifecycle::mirror::Objects;
use crate::pull::plan::{Action, Ignored, IsThere, Plan, Wanted, plan};
use crate::pull::secret::PullSecret;

const NOW: u64 = 1_800_000_000;
const LIFE: u64 = 1000;

fn good() -> PullSecret {
    PullSecret {
        is_ours: true,
        uid: Some("u".to_owned()),
        version: Some("7".to_owned()),
        is_replaceable: true,
        is_intact: true,
        owner: Some("role".to_owned()),
        key: "key".to_owned(),
        until: NOW + LIFE,
        fingerprint: [0; 32],
    }
}

/// A plan for namespaces that are there, and the Secrets in them.
fn planned(namespaces: &[&str], secrets: &[(&str, PullSecret)]) -> Plan {
    let there: Objects<IsThere> = Arc::new(namespaces.iter().map(|name| ((*name).into(), Arc::new(IsThere))).collect());
    let secrets: Objects<PullSecret> = Arc::new(secrets.iter().map(|(name, secret)| ((*name).into(), Arc::new(secret.clone()))).collect());
    let ignored = Ignored::new(&["ignored".to_owned()], "kuik-system");
    let wanted = Wanted { ignored: &ignored, key: "key", owner: "role", token_seconds: LIFE };
    plan(&there, &secrets, &wanted, |_, secret| secret.fingerprint == [0; 32], NOW)
}

fn steps(plan: &Plan) -> Vec<String> {
    let word = |action: &Action| match action {
        Action::Create => "create",
        Action::Replace { .. } => "replace",
        Action::Delete { .. } => "delete",
    };
    plan.steps.iter().map(|step| format!("{} {}", word(&step.action), step.namespace)).collect()
}

#[test]
fn every_namespace_gets_one_but_those_that_are_ignored() {
    let plan = planned(&["a", "b", "ignored", "kube-system", "kuik-system"], &[]);
    assert_eq!(steps(&plan), ["create a", "create b"]);
}

#[test]
fn a_secret_is_left_until_half_of_its_life_is_over() {
    let plan = planned(&["a"], &[("a", good())]);
    assert_eq!((steps(&plan), plan.good, plan.next_due, plan.oldest_expiry), (vec![], 1, Some(NOW + LIFE / 2), Some(NOW + LIFE)));
    let check = |until: u64, expected: &[&str]| {
        assert_eq!(steps(&planned(&["a"], &[("a", PullSecret { until, ..good() })])), expected, "{until}");
    };
    check(NOW + LIFE / 2 + 1, &[]);
    check(NOW + LIFE / 2, &["replace a"]);
    check(NOW - 1, &["replace a"]);
    check(NOW + LIFE + 1, &["replace a"]);
}

#[test]
fn what_is_not_as_it_should_be_is_written_anew() {
    let check = |change: fn(&mut PullSecret), expected: &str| {
        let mut secret = good();
        change(&mut secret);
        assert_eq!(steps(&planned(&["a"], &[("a", secret)])), [expected]);
    };
    check(|secret| secret.key = "previous".to_owned(), "replace a");
    check(|secret| secret.is_intact = false, "replace a");
    check(|secret| secret.owner = None, "replace a");
    check(|secret| secret.owner = Some("another release's".to_owned()), "replace a");
    check(|secret| secret.fingerprint = [1; 32], "replace a");
    // It is made anew once it is gone.
    check(|secret| secret.is_replaceable = false, "delete a");
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let foreign = PullSecret { is_ours: false, is_intact: false, is_replaceable: false, ..good() };
    let plan = planned(&["a", "ignored"], &[("a", foreign.clone()), ("ignored", foreign)]);
    assert_eq!((steps(&plan), plan.foreign), (vec![], vec![Arc::from("a")]));
}

#[test]
fn it_goes_from_a_namespace_that_is_ignored_and_only_where_the_namespace_is_known() {
    let plan = planned(&["ignored", "kube-system"], &[("ignored", good()), ("kube-system", good()), ("unknown", good())]);
    assert_eq!(steps(&plan), ["delete ignored", "delete kube-system"]);
    assert_eq!(plan.steps[0].action, Action::Delete { uid: Some("u".to_owned()), version: Some("7".to_owned()) });
}

#[test]
fn where_there_is_none_comes_first_and_then_who_expires_first() {
    let until = |until: u64| PullSecret { until, ..good() };
    let secrets = [("a", good()), ("b", until(NOW + 20)), ("c", until(NOW + 10)), ("ignored", good())];
    let plan = planned(&["a", "b", "c", "d", "ignored"], &secrets);
    assert_eq!(steps(&plan), ["create d", "replace c", "replace b", "delete ignored"]);
    assert_eq!((plan.good, plan.oldest_expiry), (1, Some(NOW + 10)));
}
