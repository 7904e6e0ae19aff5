//! The status of a `CachedImage`, from who uses it and what the agents report.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kuik_crd::control::{PROVEN_NAMES_MAX, UpstreamState};
use kuik_crd::{CachedImage, CachedImageStatus, CopyState, ImageCopy, ImageError, LastRefusal, Phase, ProvenNamespaces, human_size};

use super::catalogue::is_kept;
use super::conditions::{self, Saying};
use super::images::is_wanted;
use super::{Context, Note};
use crate::lifecycle::copies::{Copy, upstream};
use crate::lifecycle::usage::Users;
use crate::lifecycle::world::{Reference, seconds, time};

/// The most copies that a status lists.
const COPIES_LISTED_MAX: usize = 10;

/// The most characters of an agent's error.
const ERROR_MAX_CHARS: usize = 800;

/// A status that differs in times only is written when one is behind by so much.
const TIMES_LAG: SignedDuration = SignedDuration::from_hours(1);

/// What the status should be, and what is said about the change.
pub(super) fn image_status(
    context: &Context<'_>,
    reference: &Reference,
    object: &CachedImage,
    users: Option<&Users<'_>>,
) -> (CachedImageStatus, Vec<Note>) {
    let none = CachedImageStatus::default();
    let old = object.status.as_ref().unwrap_or(&none);
    let mut new = old.clone();
    new.used_by = Some(users.map(Users::used_by).unwrap_or_default());
    if !context.settled {
        new.phase = old.phase.or(Some(Phase::Synchronizing));
        return (new, Vec::new());
    }
    let copies = context.copies.of(reference);
    copy_fields(context, reference, &copies, &mut new);
    upstream_fields(reference, &copies, &mut new);
    private_fields(context, reference, &copies, &mut new);
    let ready: Vec<&str> = copies.iter().filter(|copy| copy.held.complete).map(|copy| copy.node).collect();
    let wanted = copies_wanted(context, object, users);
    (new.copies_ready, new.copies_wanted) = (Some(count(ready.len())), Some(count(wanted)));
    let pulled = pulled_at(context, reference, &copies, old.last_successful_pull.as_ref());
    new.last_successful_pull = pulled.map(time);
    let error = if ready.is_empty() { last_error(context, reference, pulled) } else { None };
    let is_wanted = is_wanted(object, users);
    new.is_cached = !ready.is_empty();
    new.phase = Some(match &error {
        None if new.is_cached => Phase::Ready,
        Some(_) => Phase::ErrImagePull,
        None if is_wanted || !copies.is_empty() => Phase::Pulling,
        None => Phase::Synchronizing,
    });
    let sayings = [
        conditions::cached(&ready, error.as_deref(), is_wanted),
        conditions::durable(ready.len(), wanted),
        conditions::upstream(upstream(&copies), reference.digest.is_some()),
    ];
    conditions::set(&mut new.conditions, sayings, context.now);
    let notes = notes(old, &new, error);
    (new, notes)
}

/// How many nodes should hold the image.
fn copies_wanted(context: &Context<'_>, object: &CachedImage, users: Option<&Users<'_>>) -> usize {
    if is_kept(object) { context.world.settings.copies.min(context.candidates.len()).max(1) } else { usize::from(users.is_some()) }
}

fn copy_fields(context: &Context<'_>, reference: &Reference, copies: &[Copy<'_>], status: &mut CachedImageStatus) {
    let keepers = context.keepers.get(&reference.text).map(Vec::as_slice).unwrap_or_default();
    let since = |node: &str, state: CopyState| {
        let old = status.copies.iter().find(|old| old.node == node && old.state == state);
        old.map_or_else(|| time(context.now), |old| old.since.clone())
    };
    let mut listed: Vec<&Copy<'_>> = copies.iter().collect();
    listed.sort_by_key(|copy| (!copy.held.complete, !keepers.iter().any(|keeper| keeper == copy.node), copy.node));
    let listed = listed.into_iter().take(COPIES_LISTED_MAX).map(|copy| {
        let state = if copy.held.complete { CopyState::Ready } else { CopyState::Partial };
        let bytes = i64::try_from(copy.held.size_bytes).unwrap_or(i64::MAX);
        ImageCopy { node: copy.node.to_owned(), zone: context.world.zone(copy.node), state, bytes, since: since(copy.node, state) }
    });
    status.copies = listed.collect();
    let size = copies.iter().map(|copy| copy.held.size_bytes).max();
    status.size_bytes = size.map(|size| i64::try_from(size).unwrap_or(i64::MAX));
    status.size = size.map(human_size);
}

fn upstream_fields(reference: &Reference, copies: &[Copy<'_>], status: &mut CachedImageStatus) {
    let hex = |digest: &str| digest.strip_prefix("sha256:").unwrap_or(digest).to_owned();
    let newest = copies.iter().max_by_key(|copy| (copy.held.complete, copy.held.validated_at, copy.held.used_at));
    if let Some(newest) = newest {
        status.digest = Some(hex(&newest.held.digest));
    } else {
        status.digest = None;
    }
    let validated = copies.iter().filter(|copy| copy.held.validated_at > 0).max_by_key(|copy| copy.held.validated_at);
    if let Some(validated) = validated {
        status.upstream_digest = Some(hex(&validated.held.digest));
        raise(&mut status.last_seen_upstream, validated.held.validated_at);
    }
    if let Some(digest) = &reference.digest {
        status.upstream_digest = Some(hex(digest));
    }
    if let Some(checked) = copies.iter().map(|copy| copy.held.checked_at).max().filter(|at| *at > 0) {
        raise(&mut status.last_sync, checked);
    }
    status.up_to_date = status.digest.as_ref().zip(status.upstream_digest.as_ref()).map(|(here, there)| here == there);
    match upstream(copies) {
        UpstreamState::Available => status.available_upstream = Some(true),
        UpstreamState::NotFound | UpstreamState::Denied => status.available_upstream = Some(false),
        UpstreamState::RateLimited | UpstreamState::Unavailable | UpstreamState::Unknown => {}
    }
}

/// Who may have an image that is not everybody's, as far as nodes know, and who was refused it last.
fn private_fields(context: &Context<'_>, reference: &Reference, copies: &[Copy<'_>], status: &mut CachedImageStatus) {
    let names: BTreeSet<&str> = copies.iter().flat_map(|copy| &copy.held.proven).map(String::as_str).collect();
    // A node that knows of more than it may name knows of so many at least.
    let most = copies.iter().map(|copy| usize::try_from(copy.held.proven_count).unwrap_or(usize::MAX)).max().unwrap_or(0);
    let total = most.max(names.len());
    let names = names.into_iter().take(PROVEN_NAMES_MAX).map(str::to_owned).collect();
    status.proven_namespaces = (total > 0).then(|| ProvenNamespaces { count: count(total), names });
    let last = status.last_refusal.as_ref().map(|last| seconds(&last.at));
    if let Some(refused) = context.copies.refusal(reference).filter(|refused| last.is_none_or(|last| last < refused.at)) {
        let (namespace, reason) = (refused.namespace.clone(), refused.reason.clone());
        let message = refused.message.chars().take(ERROR_MAX_CHARS).collect();
        status.last_refusal = Some(LastRefusal { namespace, at: time(refused.at), reason, message });
    }
}

/// When a node last fetched the image: as a node said it, or else when we first saw that one has it.
fn pulled_at(context: &Context<'_>, reference: &Reference, copies: &[Copy<'_>], old: Option<&Time>) -> Option<u64> {
    let said = context.copies.finding(reference).filter(|(_, finding)| finding.error.is_none()).map(|(_, finding)| finding.at);
    let known = said.max(old.map(seconds));
    let is_there = copies.iter().any(|copy| copy.held.complete);
    known.or_else(|| is_there.then_some(context.now))
}

/// Why the image could not be fetched, if that is the last that is known.
fn last_error(context: &Context<'_>, reference: &Reference, pulled: Option<u64>) -> Option<String> {
    let (node, finding) = context.copies.finding(reference)?;
    let is_news = pulled.is_none_or(|pulled| finding.at > pulled);
    let error = finding.error.as_deref().filter(|_| is_news)?;
    Some(format!("{node}: {}", error.chars().take(ERROR_MAX_CHARS).collect::<String>()))
}

/// What is worth an Event.
fn notes(old: &CachedImageStatus, new: &CachedImageStatus, error: Option<String>) -> Vec<Note> {
    let mut notes = Vec::new();
    if new.is_cached && !old.is_cached {
        let first = new.copies.first().map(|copy| copy.node.as_str()).unwrap_or_default();
        let size = new.size.as_deref().unwrap_or("0");
        notes.push(Note::normal("Cached", format!("{first} holds it as a whole ({size})")));
    }
    if new.phase == Some(Phase::Pulling) && old.phase != Some(Phase::Pulling) {
        notes.push(Note::normal("Caching", "it is being fetched".to_owned()));
    }
    let message = |status: &CachedImageStatus| status.conditions.iter().find(|c| c.type_ == "Cached").map(|c| c.message.clone());
    if let Some(error) = error
        && (old.phase != Some(Phase::ErrImagePull) || message(old) != message(new))
    {
        notes.push(Note::warning("CacheFailed", error));
    }
    if new.available_upstream == Some(false) && old.available_upstream == Some(true) {
        let text = new.conditions.iter().find(|c| c.type_ == "UpstreamAvailable").map(|c| c.message.clone());
        notes.push(Note::warning("UpstreamUnavailable", text.unwrap_or_default()));
    }
    notes
}

/// The status of an object whose `sourceImage` is no reference.
pub(super) fn invalid_status(object: &CachedImage, error: &ImageError, now: u64) -> (CachedImageStatus, Vec<Note>) {
    let old = object.status.clone().unwrap_or_default();
    let mut new = old.clone();
    (new.phase, new.is_cached) = (Some(Phase::ErrImagePull), false);
    let source: String = object.spec.source_image.chars().take(ERROR_MAX_CHARS).collect();
    let message =
        format!("spec.sourceImage {source:?} is no image reference: {error}; delete this object and create one that names an image");
    let saying = Saying { type_: "Cached", status: "False", reason: "InvalidSourceImage", message: message.clone() };
    conditions::set(&mut new.conditions, [saying], now);
    let is_news = old.conditions.iter().all(|condition| condition.reason != "InvalidSourceImage");
    (new, if is_news { vec![Note::warning("CacheFailed", message)] } else { Vec::new() })
}

/// The status of an object that is being deleted.
pub(super) fn terminating_status(object: &CachedImage) -> CachedImageStatus {
    CachedImageStatus { phase: Some(Phase::Terminating), ..object.status.clone().unwrap_or_default() }
}

/// Whether there is anything new, apart from times that a reader can do without for a while.
pub(super) fn is_worth_writing(old: &CachedImageStatus, new: &mut CachedImageStatus) -> bool {
    let times = |status: &CachedImageStatus| {
        let refused = status.last_refusal.as_ref().map(|last| &last.at);
        let others = [&status.last_seen_upstream, &status.last_sync, &status.last_successful_pull].map(Option::as_ref);
        let [seen, sync, pull] = others;
        [seen, sync, pull, refused].map(|time| time.map(|time| time.0))
    };
    let lag = times(old).into_iter().zip(times(new)).any(|pair| match pair {
        (Some(old), Some(new)) => new.duration_since(old).abs() >= TIMES_LAG,
        (old, new) => old != new,
    });
    if lag {
        return true;
    }
    let put = |status: &mut CachedImageStatus, [seen, sync, pull, refused]: [Option<Timestamp>; 4]| {
        if let Some((last, at)) = status.last_refusal.as_mut().zip(refused) {
            last.at = Time(at);
        }
        (status.last_seen_upstream, status.last_sync, status.last_successful_pull) = (seen.map(Time), sync.map(Time), pull.map(Time));
    };
    let fresh = times(new);
    put(new, times(old));
    let differs = old != new;
    put(new, fresh);
    differs
}

fn raise(field: &mut Option<Time>, at: u64) {
    if field.as_ref().is_none_or(|old| seconds(old) < at) {
        *field = Some(time(at));
    }
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
