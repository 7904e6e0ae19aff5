//! Which images of a pod are rewritten, as a JSON patch. Pure.
//!
//! * A pod is left alone that opted out (label or annotation), that mirrors a static pod, or that is updated and was never ours: what
//!   ran before the webhook was there goes on as it is.
//! * So is a pod that an agent could not help: one that a node needs before it can have an agent, one for Windows, and one that brings
//!   pull secrets while neither namespaces have tokens nor agents credentials, for the kubelet hands the secrets to the registry that the
//!   image names.
//! * Of an update, only images are looked at that changed.
//! * What already is at the agent's address stays; its annotation is written if it is missing. What a release with another port
//!   rewrote goes to the present address.
//! * A new pod that gets an image from an agent also gets our pull secret, by which the agent knows its namespace. An update cannot change
//!   that: pull secrets are immutable.
//! * An image that cannot be expressed stays, with a warning. So does everything when the annotations would not fit.
//!
//! The patch names only what changes: fields that this program does not know survive it. Applying it and asking again gives no patch.

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, ReplaceOperation};
use k8s_openapi::api::core::v1::Pod;
use kuik_crd::pull_token::SECRET_NAME;
use kuik_crd::{Image, ImageError, names};
use serde_json::{Value, json};
use std::collections::BTreeMap;

use super::rules::Rules;
use crate::pod_images::{Rewritten, Slot, Source, rewritten, slots};

/// The kubelet's mark on the image of a static pod in the API: changing that one would change nothing.
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// What network and storage plugins of a node have, since nothing runs there without them.
const NODE_CRITICAL: &str = "system-node-critical";

/// The label of a node's operating system.
const OS_LABEL: &str = "kubernetes.io/os";

/// All annotations of an object together, as the API server counts them.
const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;

/// Warnings of one answer, the last of which counts the rest.
const WARNINGS_MAX: usize = 8;

/// The part of an image that a warning shows: clients cut warnings off at 256 characters.
const WARNING_IMAGE_CHARS: usize = 96;

/// Why an image stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Skip {
    /// The pod says so, by label or annotation.
    OptedOut,
    /// The pod mirrors a static pod.
    Mirror,
    /// The node needs the pod before it can have an agent.
    NodeCritical,
    /// The pod is for Windows, where there is no agent.
    Windows,
    /// The pod brings pull secrets, and agents can neither get nor replace them.
    PullSecrets,
    /// The pod was not rewritten when it was created.
    Unmanaged,
    /// The image does not change.
    Unchanged,
    /// It is at the agent's address already.
    Rewritten,
    /// `imagePullPolicy: Never`.
    PolicyNever,
    /// It is pulled anew each time, and the values leave such images alone.
    PolicyAlways,
    /// It is on a registry of the node itself.
    LocalRegistry,
    /// It is an image's ID, or to be chosen by somebody else.
    NoReference,
    /// `ignoredImages`.
    Ignored,
    /// `acceptedImages`.
    NotAccepted,
    /// It cannot be parsed, or would be too long.
    Inexpressible,
    /// The annotations would not fit.
    AnnotationsFull,
}

impl Skip {
    /// The value of the metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OptedOut => "opted_out",
            Self::Mirror => "mirror",
            Self::NodeCritical => "node_critical",
            Self::Windows => "windows",
            Self::PullSecrets => "pull_secrets",
            Self::Unmanaged => "unmanaged",
            Self::Unchanged => "unchanged",
            Self::Rewritten => "already_rewritten",
            Self::PolicyNever => "pull_policy_never",
            Self::PolicyAlways => "pull_policy_always",
            Self::LocalRegistry => "local_registry",
            Self::NoReference => "no_reference",
            Self::Ignored => "ignored",
            Self::NotAccepted => "not_accepted",
            Self::Inexpressible => "inexpressible",
            Self::AnnotationsFull => "annotations_full",
        }
    }
}

/// One image that is rewritten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The container.
    pub container: String,
    /// What its image was.
    pub from: String,
    /// What it becomes.
    pub to: String,
}

/// What becomes of a pod.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// What to do to the pod; empty when there is nothing to do.
    pub patch: Patch,
    /// For whoever sent the pod.
    pub warnings: Vec<String>,
    /// The images that are rewritten.
    pub changes: Vec<Change>,
    /// Why the others are not.
    pub skips: Vec<Skip>,
}

/// What becomes of one image.
enum Verdict {
    /// Stays.
    Skip(Skip),
    /// Stays, with a warning.
    Refuse(ImageError),
    /// Is rewritten already. The original to note, if it is known for certain.
    Keep(Option<String>),
    /// Is rewritten. The original to note, if it is known for certain.
    Rewrite { to: String, original: Option<String> },
}

/// Decides what becomes of a pod. `old` is what an update replaces.
#[must_use]
pub fn mutate(pod: &Pod, old: Option<&Pod>, rules: &Rules) -> Outcome {
    let slots = slots(pod);
    if let Some(reason) = skips_pod(pod, old, rules) {
        return Outcome { skips: vec![reason; slots.len()], ..Outcome::default() };
    }
    let mut draft = Draft::default();
    for slot in &slots {
        let verdict = match old {
            Some(old) if !is_changed(slot, old) => unchanged(pod, slot, rules),
            _ => judge(pod, slot, rules),
        };
        draft.take(slot, verdict);
    }
    draft.shows_token = old.is_none() && rules.pods_show_tokens();
    draft.finish(pod)
}

fn skips_pod(pod: &Pod, old: Option<&Pod>, rules: &Rules) -> Option<Skip> {
    if annotation(pod, MIRROR_ANNOTATION).is_some() {
        return Some(Skip::Mirror);
    }
    if label(pod, names::CACHING_POLICY_LABEL) == Some(names::IGNORE) || annotation(pod, names::REWRITE_ANNOTATION) == Some("false") {
        return Some(Skip::OptedOut);
    }
    if old.is_some_and(|old| !is_managed(pod) && !is_managed(old)) {
        return Some(Skip::Unmanaged);
    }
    // What was rewritten stays so: kept up to date like any other.
    if is_managed(pod) { None } else { skips_spec(pod, rules) }
}

/// Pods that an agent could not help to start, or that it would keep from starting.
fn skips_spec(pod: &Pod, rules: &Rules) -> Option<Skip> {
    let spec = pod.spec.as_ref()?;
    // A new node's network and storage plugins: the agent's own pod waits for them.
    if spec.priority_class_name.as_deref() == Some(NODE_CRITICAL) {
        return Some(Skip::NodeCritical);
    }
    let selected = spec.node_selector.as_ref().and_then(|selector| selector.get(OS_LABEL));
    if spec.os.as_ref().map(|os| &os.name).into_iter().chain(selected).any(|os| os == "windows") {
        return Some(Skip::Windows);
    }
    // Ours is in pods that were copied, or made before tokens were turned off.
    let brings_secrets = spec.image_pull_secrets.iter().flatten().any(|secret| secret.name != SECRET_NAME);
    (brings_secrets && !rules.agents_can_pull_private_images()).then_some(Skip::PullSecrets)
}

/// Rewritten by us or by kuik v1, or asked to be.
fn is_managed(pod: &Pod) -> bool {
    let labelled = [names::MANAGED_LABEL, names::MANAGED_LABEL_V1_0].into_iter().any(|key| label(pod, key) == Some("true"));
    labelled || annotation(pod, names::REWRITE_ANNOTATION) == Some("true")
}

fn label<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

fn is_changed(slot: &Slot<'_>, old: &Pod) -> bool {
    !slots(old).iter().any(|was| (was.kind, was.name, was.image) == (slot.kind, slot.name, slot.image))
}

/// An update leaves this image as it is; whether it is a rewritten one decides about the pod's label.
fn unchanged(pod: &Pod, slot: &Slot<'_>, rules: &Rules) -> Verdict {
    match rewritten(pod, slot, rules.agent_address()) {
        Some(_) => Verdict::Keep(None),
        None => Verdict::Skip(Skip::Unchanged),
    }
}

fn judge(pod: &Pod, slot: &Slot<'_>, rules: &Rules) -> Verdict {
    if let Some(reason) = Rules::skips_policy(slot).or_else(|| Rules::skips_text(slot.image)) {
        return Verdict::Skip(reason);
    }
    if let Some(found) = rewritten(pod, slot, rules.agent_address()) {
        return judge_rewritten(slot, found, rules);
    }
    let image = match slot.image.parse::<Image>() {
        Ok(image) => image,
        Err(error) => return Verdict::Refuse(error),
    };
    if let Some(reason) = rules.skips_image(slot, &image) {
        return Verdict::Skip(reason);
    }
    match rules.at_agent(&image) {
        Ok(to) => Verdict::Rewrite { to, original: Some(slot.image.to_owned()) },
        Err(error) => Verdict::Refuse(error),
    }
}

/// What was rewritten once is not measured by the filters again: the agent has it, and a stale address has nothing.
fn judge_rewritten(slot: &Slot<'_>, found: Rewritten<'_>, rules: &Rules) -> Verdict {
    if found.ours && found.exact {
        return Verdict::Keep(Some(found.original));
    }
    let (to, original) = match found.source {
        // What only kuik v1 may have meant stays in v1's form: the agent finds out which it is.
        Source::PathOfV1 => (rules.at_agent_verbatim(found.path), None),
        Source::Path | Source::Annotation => (rules.at_agent(&found.image), Some(found.original)),
    };
    match to {
        Ok(to) if to == slot.image => Verdict::Keep(original),
        Ok(to) => Verdict::Rewrite { to, original },
        Err(error) => Verdict::Refuse(error),
    }
}

/// The answer as it grows.
#[derive(Default)]
struct Draft {
    outcome: Outcome,
    /// Some image is or becomes a rewritten one.
    managed: bool,
    /// A pod with such an image is to have our pull secret.
    shows_token: bool,
    annotations: BTreeMap<String, String>,
    images: Vec<PatchOperation>,
}

impl Draft {
    fn take(&mut self, slot: &Slot<'_>, verdict: Verdict) {
        let original = match verdict {
            Verdict::Skip(reason) => return self.outcome.skips.push(reason),
            Verdict::Refuse(error) => return self.refuse(slot, &error),
            Verdict::Keep(original) => {
                self.outcome.skips.push(Skip::Rewritten);
                original
            }
            Verdict::Rewrite { to, original } => {
                let path = PointerBuf::from_tokens(["spec", slot.kind.field(), &slot.index.to_string(), "image"]);
                self.images.push(PatchOperation::Replace(ReplaceOperation { path, value: Value::String(to.clone()) }));
                self.outcome.changes.push(Change { container: slot.name.to_owned(), from: slot.image.to_owned(), to });
                original
            }
        };
        self.managed = true;
        if let Some(original) = original {
            self.annotations.insert(slot.kind.annotation_key(slot.name), original);
        }
    }

    fn refuse(&mut self, slot: &Slot<'_>, error: &ImageError) {
        self.outcome.skips.push(Skip::Inexpressible);
        let image: String = slot.image.chars().take(WARNING_IMAGE_CHARS).collect();
        let cut = if image.len() < slot.image.len() { "…" } else { "" };
        let warning = format!("the image of {} {:?} is not cached, {image:?}{cut}: {error}", slot.kind.noun(), slot.name);
        self.outcome.warnings.push(warning);
    }

    fn finish(mut self, pod: &Pod) -> Outcome {
        if self.managed && annotation(pod, names::REWRITE_ANNOTATION).is_none() {
            self.annotations.insert(names::REWRITE_ANNOTATION.to_owned(), "true".to_owned());
        }
        self.annotations.retain(|key, value| annotation(pod, key) != Some(value));
        if !self.annotations_fit(pod) {
            return self.give_up();
        }
        let labels = match label(pod, names::MANAGED_LABEL) {
            Some("true") => BTreeMap::new(),
            _ if !self.managed => BTreeMap::new(),
            _ => BTreeMap::from([(names::MANAGED_LABEL.to_owned(), "true".to_owned())]),
        };
        let mut operations = add_all("labels", pod.metadata.labels.is_some(), labels);
        operations.extend(add_all("annotations", pod.metadata.annotations.is_some(), self.annotations));
        operations.append(&mut self.images);
        if self.managed && self.shows_token {
            operations.extend(add_pull_secret(pod));
        }
        self.outcome.patch = Patch(operations);
        bound_warnings(&mut self.outcome.warnings);
        self.outcome
    }

    fn annotations_fit(&self, pod: &Pod) -> bool {
        let bytes = |all: &BTreeMap<String, String>| all.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        self.annotations.is_empty()
            || bytes(&self.annotations) + pod.metadata.annotations.as_ref().map_or(0, bytes) <= ANNOTATIONS_BYTES_MAX
    }

    fn give_up(self) -> Outcome {
        let Outcome { mut warnings, changes, mut skips, .. } = self.outcome;
        skips.extend(changes.iter().map(|_| Skip::AnnotationsFull));
        warnings.push("the images of this pod are not cached: its annotations leave no room to note the original images".to_owned());
        bound_warnings(&mut warnings);
        Outcome { warnings, skips, ..Outcome::default() }
    }
}

/// Adds members to a map of the metadata. `add` replaces a member that is there, but needs the map.
fn add_all(map: &str, exists: bool, members: BTreeMap<String, String>) -> Vec<PatchOperation> {
    let add = |path, value| PatchOperation::Add(AddOperation { path, value });
    match (members.is_empty(), exists) {
        (true, _) => Vec::new(),
        (false, false) => {
            let members = members.into_iter().map(|(key, value)| (key, Value::String(value))).collect();
            vec![add(PointerBuf::from_tokens(["metadata", map]), Value::Object(members))]
        }
        (false, true) => {
            let member = |(key, value): (String, String)| add(PointerBuf::from_tokens(["metadata", map, &key]), Value::String(value));
            members.into_iter().map(member).collect()
        }
    }
}

/// Appends our pull secret to those that are there, unless it is one of them.
fn add_pull_secret(pod: &Pod) -> Option<PatchOperation> {
    let ours = json!({ "name": SECRET_NAME });
    let add = |path: &[&str], value| PatchOperation::Add(AddOperation { path: PointerBuf::from_tokens(path.iter().copied()), value });
    match pod.spec.as_ref()?.image_pull_secrets.as_deref() {
        Some(secrets) if secrets.iter().any(|secret| secret.name == SECRET_NAME) => None,
        Some(_) => Some(add(&["spec", "imagePullSecrets", "-"], ours)),
        None => Some(add(&["spec", "imagePullSecrets"], json!([ours]))),
    }
}

fn bound_warnings(warnings: &mut Vec<String>) {
    if warnings.len() > WARNINGS_MAX {
        let more = warnings.len() + 1 - WARNINGS_MAX;
        warnings.truncate(WARNINGS_MAX - 1);
        warnings.push(format!("{more} more images are not cached"));
    }
}
