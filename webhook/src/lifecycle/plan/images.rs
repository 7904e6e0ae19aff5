//! `CachedImage`s: created for what pods use, brought to their right names, expired, deleted, and their status kept.

use std::collections::BTreeSet;

use kube::ResourceExt as _;
use kuik_crd::names::{FORCE_UPDATE_ANNOTATION, MANAGED_BY, MANAGED_BY_LABEL, REPOSITORY_LABEL};
use kuik_crd::{CachedImage, CachedImageSpec};

use super::catalogue::{Group, is_kept, is_made_by_hand, is_v1s};
use super::edit::Edit;
use super::status::{image_status, invalid_status, is_worth_writing, terminating_status};
use super::{Action, Context, Expired, Note, Step, Target};
use crate::lifecycle::usage::Users;
use crate::lifecycle::world::{Memory, Reference, seconds, time};

/// A forced update that not all nodes have answered is given up after this, in seconds.
pub(super) const FORCE_SECONDS: u64 = 120;

/// The annotation that kubectl keeps for itself: it would name the object that is replaced.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

pub(super) fn steps(context: &Context<'_>, memory: &mut Memory) -> Vec<Step> {
    let mut steps = Vec::new();
    let missing: BTreeSet<&str> = context.usage.keys().copied().filter(|text| context.catalogue.get(text).is_none()).collect();
    steps.extend(missing.into_iter().filter_map(|text| create_used(context, text)));
    for (text, group) in context.catalogue.groups() {
        steps.extend(group_steps(context, memory, group, context.usage.get(text)));
    }
    for (object, error) in &context.catalogue.invalid {
        let new = invalid_status(object, error, context.now);
        steps.extend(freed_of_v1(object).or_else(|| status_step(object, new)));
    }
    let is_forced = |name: &str| context.world.images.get(name).is_some_and(|object| wants_update(object));
    memory.forced.retain(|name, _| is_forced(name));
    let mut names = BTreeSet::new();
    // Of two new objects that would have one name, the second sees the first in the next plan.
    steps.retain(|step| !matches!(&step.action, Action::CreateImage(object) if !names.insert(object.name_any())));
    steps
}

/// An object for an image that pods use.
fn create_used(context: &Context<'_>, text: &str) -> Option<Step> {
    let reference = Reference::new(text.parse().ok()?);
    let name = context.catalogue.free_name(&reference)?;
    let mut object = CachedImage::new(&name, CachedImageSpec { source_image: text.to_owned(), ..CachedImageSpec::default() });
    let labels = object.labels_mut();
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    labels.insert(REPOSITORY_LABEL.to_owned(), reference.label);
    Some(Step { action: Action::CreateImage(Box::new(object)), notes: Vec::new() })
}

/// What is to be done about the objects of one image.
fn group_steps(context: &Context<'_>, memory: &mut Memory, group: &Group<'_>, users: Option<&Users<'_>>) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for object in &group.terminating {
        let new = terminating_status(object);
        steps.extend(freed_of_v1(object).or_else(|| status_step(object, (new, Vec::new()))));
    }
    let Some(right) = group.right() else {
        let first = group.wrong.first().copied();
        let renamed = first.and_then(|wrong| rename(context, &group.reference, wrong));
        steps.extend(renamed.or_else(|| users.and_then(|_| create_used(context, &group.reference.text))));
        return steps;
    };
    let Some(adopted) = adopt(right, &group.wrong) else {
        steps.extend(group.wrong.iter().map(|wrong| Step { action: Action::DeleteImage(Target::of(*wrong), None), notes: Vec::new() }));
        steps.extend(step(context, memory, &group.reference, right, users));
        return steps;
    };
    steps.push(adopted);
    steps
}

/// An object like `wrong` with the name that its image should have.
fn rename(context: &Context<'_>, reference: &Reference, wrong: &CachedImage) -> Option<Step> {
    let mut object = CachedImage::new(&context.catalogue.free_name(reference)?, wrong.spec.clone());
    object.metadata.labels.clone_from(&wrong.metadata.labels);
    object.metadata.annotations.clone_from(&wrong.metadata.annotations);
    object.annotations_mut().remove(LAST_APPLIED);
    object.labels_mut().insert(REPOSITORY_LABEL.to_owned(), reference.label.clone());
    if !is_kept(wrong) {
        object.labels_mut().insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    }
    let text = format!("replaces {}, which is not the name for this image", wrong.name_any());
    Some(Step { action: Action::CreateImage(Box::new(object)), notes: vec![Note::normal("Renamed", text)] })
}

/// What the objects that are to go say and the right one does not: that copies are to be kept.
fn adopt(right: &CachedImage, wrong: &[&CachedImage]) -> Option<Step> {
    let mut edit = Edit::default();
    if !right.spec.retain && wrong.iter().any(|wrong| wrong.spec.retain) {
        edit.retain();
    }
    if !is_made_by_hand(right) && wrong.iter().any(|wrong| is_made_by_hand(wrong)) {
        edit.take_from_v1(right);
        edit.label(MANAGED_BY_LABEL, None);
    }
    edit.step(right)
}

/// The one write that the object of an image needs most.
fn step(
    context: &Context<'_>,
    memory: &mut Memory,
    reference: &Reference,
    object: &CachedImage,
    users: Option<&Users<'_>>,
) -> Option<Step> {
    let expires = object.spec.expires_at.as_ref().map(seconds);
    if users.is_none() && !object.spec.retain && expires.is_some_and(|at| at <= context.now) && context.may_delete() {
        let notes = vec![Note::normal("Expired", "nothing has used it until its expiry: it is deleted".to_owned())];
        let gone = Expired { image: reference.held_as(), since: unused_since(context, object) };
        return Some(Step { action: Action::DeleteImage(Target::of(object), Some(gone)), notes });
    }
    let mut edit = Edit::default();
    edit.take_from_v1(object);
    if is_v1s(object) && !is_kept(object) {
        edit.label(MANAGED_BY_LABEL, Some(MANAGED_BY.to_owned()));
    }
    if object.labels().get(REPOSITORY_LABEL) != Some(&reference.label) {
        edit.label(REPOSITORY_LABEL, Some(reference.label.clone()));
    }
    if is_update_done(context, memory, reference, object) {
        edit.remove_annotation(FORCE_UPDATE_ANNOTATION);
    }
    match (users.is_some() || object.spec.retain, expires) {
        (true, Some(_)) => edit.expires_at(None),
        (false, None) => {
            let at = time(context.now.saturating_add(context.world.settings.expiry_delay.as_secs()));
            edit.note(Note::normal("Expiring", format!("nothing uses it: it expires at {}, unless a pod uses it before", at.0)));
            edit.expires_at(Some(&at));
        }
        (true, None) | (false, Some(_)) => {}
    }
    edit.step(object).or_else(|| status_step(object, image_status(context, reference, object, users)))
}

/// Since when nothing has used an image that has expired: its expiry was set then.
fn unused_since(context: &Context<'_>, object: &CachedImage) -> u64 {
    let expires = object.spec.expires_at.as_ref().map_or(context.now, seconds);
    let set_at = expires.saturating_sub(context.world.settings.expiry_delay.as_secs());
    let created = object.metadata.creation_timestamp.as_ref().map_or(0, seconds);
    set_at.max(created).min(context.now)
}

/// Whether `forceUpdate` was asked for and done: all nodes that hold the image have asked upstream since, or had the time to.
fn is_update_done(context: &Context<'_>, memory: &mut Memory, reference: &Reference, object: &CachedImage) -> bool {
    if !wants_update(object) {
        return false;
    }
    if reference.digest.is_some() {
        return true;
    }
    let since = *memory.forced.entry(object.name_any()).or_insert(context.now);
    let copies = context.copies.of(reference);
    let all_have_asked = !copies.is_empty() && copies.iter().all(|copy| copy.held.checked_at >= since);
    context.settled && all_have_asked || since + FORCE_SECONDS <= context.now
}

fn wants_update(object: &CachedImage) -> bool {
    object.annotations().get(FORCE_UPDATE_ANNOTATION).is_some_and(|value| value == "true")
}

fn freed_of_v1(object: &CachedImage) -> Option<Step> {
    let mut edit = Edit::default();
    edit.take_from_v1(object);
    edit.step(object)
}

fn status_step(object: &CachedImage, (mut new, notes): (kuik_crd::CachedImageStatus, Vec<Note>)) -> Option<Step> {
    object.status.as_ref().is_none_or(|old| is_worth_writing(old, &mut new)).then(|| {
        let mut object = object.clone();
        object.status = Some(new);
        Step { action: Action::WriteImageStatus(Box::new(object)), notes }
    })
}

/// Whether a node is to be asked for copies that nobody has.
pub(super) fn is_wanted(object: &CachedImage, users: Option<&Users<'_>>) -> bool {
    users.is_some() || is_kept(object)
}
