//! Which Secrets `kuik-pull` are to be written, and which are to go. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt as _;
use kube::core::PartialObjectMeta;

use super::secret::PullSecret;
use crate::lifecycle::mirror::Objects;

/// Where no pod is ever rewritten, besides our own namespace: what the cluster itself needs.
const SYSTEM_NAMESPACE: &str = "kube-system";

/// What is needed of a namespace that is not being deleted: that it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IsThere;

/// The name of a namespace, and whether anything can be made in it.
pub(super) fn read_namespace(namespace: &PartialObjectMeta<Namespace>) -> (String, Option<IsThere>) {
    (namespace.name_any(), namespace.metadata.deletion_timestamp.is_none().then_some(IsThere))
}

/// The namespaces whose pods are left alone.
#[derive(Debug, Clone)]
pub(super) struct Ignored {
    names: BTreeSet<String>,
}

impl Ignored {
    /// Those of the settings, ours, and the cluster's own.
    pub(super) fn new(listed: &[String], ours: &str) -> Self {
        let always = [SYSTEM_NAMESPACE, ours].map(str::to_owned);
        Self { names: listed.iter().cloned().chain(always).collect() }
    }

    fn contains(&self, namespace: &str) -> bool {
        self.names.contains(namespace)
    }
}

/// What is to be done in one namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) namespace: Arc<str>,
    pub(super) action: Action,
}

/// What is to be done about a Secret; with the version of the one that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Create,
    Replace { version: Option<String> },
    Delete { uid: Option<String>, version: Option<String> },
}

/// What is wanted.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) ignored: &'a Ignored,
    /// The key that signs.
    pub(super) key: &'a str,
    /// Who is to own the Secrets, by uid.
    pub(super) owner: &'a str,
    /// How long a token lives, in seconds.
    pub(super) token_seconds: u64,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// What matters most first: where there is no Secret, then those that expire first, then what is to go.
    pub(super) steps: Vec<Step>,
    /// Namespaces with a Secret of our name that is not ours.
    pub(super) foreign: Vec<Arc<str>>,
    /// Secrets that are as they should be.
    pub(super) good: usize,
    /// When the next one is to be renewed, in seconds since 1970.
    pub(super) next_due: Option<u64>,
    /// When the first token of ours expires, in seconds since 1970.
    pub(super) oldest_expiry: Option<u64>,
}

/// Makes a plan. `is_genuine` says whether the token of a namespace's Secret is one that the key which it names has signed.
pub(super) fn plan(
    namespaces: &Objects<IsThere>,
    secrets: &Objects<PullSecret>,
    wanted: &Wanted<'_>,
    mut is_genuine: impl FnMut(&Arc<str>, &PullSecret) -> bool,
    now: u64,
) -> Plan {
    let mut plan = Plan::default();
    let mut renewed = Vec::new();
    let mut gone = Vec::new();
    for namespace in namespaces.keys() {
        let secret = secrets.get(namespace).map(|secret| &**secret);
        let is_ignored = wanted.ignored.contains(namespace);
        let step = |action| Step { namespace: Arc::clone(namespace), action };
        match secret {
            None if is_ignored => {}
            None => plan.steps.push(step(Action::Create)),
            Some(secret) if !secret.is_ours => {
                if !is_ignored {
                    plan.foreign.push(Arc::clone(namespace));
                }
            }
            Some(secret) if is_ignored || !secret.is_replaceable => gone.push(step(secret.deletion())),
            Some(secret) => {
                plan.oldest_expiry = Some(plan.oldest_expiry.map_or(secret.until, |oldest| oldest.min(secret.until)));
                let due = due(secret, wanted, now);
                if due <= now || !is_genuine(namespace, secret) {
                    renewed.push((secret.until, step(Action::Replace { version: secret.version.clone() })));
                } else {
                    plan.good += 1;
                    plan.next_due = Some(plan.next_due.map_or(due, |next| next.min(due)));
                }
            }
        }
    }
    renewed.sort_by(|(one, a), (other, b)| (one, &a.namespace).cmp(&(other, &b.namespace)));
    plan.steps.extend(renewed.into_iter().map(|(_, step)| step));
    plan.steps.append(&mut gone);
    plan
}

/// When a Secret is to be written anew, in seconds since 1970; 0 for at once.
fn due(secret: &PullSecret, wanted: &Wanted<'_>, now: u64) -> u64 {
    let is_as_it_should_be = secret.is_intact && secret.key == wanted.key && secret.owner.as_deref() == Some(wanted.owner);
    // Tokens that live longer than they should are of another setting, or of a clock that was wrong.
    if !is_as_it_should_be || secret.until > now.saturating_add(wanted.token_seconds) {
        return 0;
    }
    secret.until.saturating_sub(wanted.token_seconds / 2)
}

impl PullSecret {
    /// Deletes the very object that was seen, as it was.
    pub(super) fn deletion(&self) -> Action {
        Action::Delete { uid: self.uid.clone(), version: self.version.clone() }
    }
}
