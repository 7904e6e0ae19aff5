//! What the agents are told: who is there, and for each node what to keep, to refresh, to drop, and why what it holds is needed.
//!
//! Nothing is dropped that a pod uses or that has a `CachedImage`; the rest goes when its `CachedImage` was deleted (`tombstones` says
//! when that counts), or when it was not used for as long as images without users are kept. The latter waits until the watch of
//! `CachedImage`s has been steady for [`STEADY_SECONDS`]: somebody may be about to bring back what a deleted definition took away.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use kube::ResourceExt as _;
use kuik_crd::CachedImage;
use kuik_crd::control::{Agent, Agents, Desired, Drop, Held, Pin, PinReason, Refresh, UpstreamState};

use super::Context;
use super::catalogue::Group;
use crate::board::{NodeState, Wishes};
use crate::lifecycle::copies::{Copy, meant, repository, upstream};
use crate::lifecycle::usage::Users;
use crate::lifecycle::world::{Memory, seconds};

/// An image that no node has as a whole after this, in seconds, is fetched by one of our choice. A runtime that has the layers already,
/// from before the install or under another name, asks its agent for the manifests alone.
const UNFETCHED_SECONDS: u64 = 60;

/// Images are dropped for their age when the watch of `CachedImage`s has been steady for so long, in seconds.
pub(super) const STEADY_SECONDS: u64 = 600;

/// Digests of what a node may hold as a part of something else are pinned until there are so many pins.
pub(super) const PINS_MAX: usize = 4_000;

/// Words by which agents tell that an image was refused: another node would be refused too.
const REFUSALS: [&str; 6] = ["401", "403", "unauthorized", "denied", "forbidden", "credential"];

pub(super) fn wishes(context: &Context<'_>, memory: &mut Memory) -> Wishes {
    let ready = context.world.ready_agents();
    let heard = context.world.heard(context.now);
    let mut desired: BTreeMap<String, Desired> =
        ready.keys().chain(heard.keys()).map(|node| ((*node).to_owned(), Desired::default())).collect();
    for (text, group) in context.catalogue.groups() {
        let Some(object) = group.right() else { continue };
        for node in keepers(context, memory, text, group, object) {
            if let Some(desired) = desired.get_mut(&node) {
                desired.keep.push(text.to_owned());
            }
        }
        if let Some(since) = memory.forced.get(&object.name_any()) {
            for copy in context.copies.of(&group.reference) {
                let refresh = Refresh { image: copy.held.image.clone(), since: *since };
                desired.entry(copy.node.to_owned()).or_default().refresh.push(refresh);
            }
        }
    }
    let users = UsersByDigest::new(context);
    memory.holders.begin();
    for (node, state) in heard {
        let desired = desired.entry(node.to_owned()).or_default();
        for held in state.images.values() {
            held_wishes(context, memory, &users, Copy { node, held }, desired);
        }
        pin_digests(&users, (node, state), desired);
        desired.judged = true;
    }
    memory.holders.forget_others();
    let agents = ready.iter().filter_map(|(node, agent)| {
        Some(Agent { node: (*node).to_owned(), zone: context.world.zone(node), address: agent.address.clone()? })
    });
    Wishes { agents: Agents { agents: agents.collect() }, desired, ..Wishes::default() }
}

/// The nodes that are to hold an image.
fn keepers(context: &Context<'_>, memory: &mut Memory, text: &str, group: &Group<'_>, object: &CachedImage) -> Vec<String> {
    if let Some(keepers) = context.keepers.get(text) {
        return keepers.clone();
    }
    let created = object.metadata.creation_timestamp.as_ref().map_or(context.now, seconds);
    let is_late = created + UNFETCHED_SECONDS < context.now;
    let copies = context.copies.of(&group.reference);
    if !is_late || copies.iter().any(|copy| copy.held.complete) || is_refused(context, group) {
        return Vec::new();
    }
    // Best where some of it is, and where it runs.
    match copies.iter().map(|copy| copy.node).min() {
        Some(node) => vec![node.to_owned()],
        None if context.usage.contains_key(text) => memory.keepers(text, &context.candidates, 1),
        // Nobody misses it.
        None => Vec::new(),
    }
}

/// Whether the last attempt to fetch the image failed for want of a permission.
fn is_refused(context: &Context<'_>, group: &Group<'_>) -> bool {
    let error = context.copies.finding(&group.reference).and_then(|(_, finding)| finding.error.as_deref());
    error.map(str::to_ascii_lowercase).is_some_and(|error| REFUSALS.iter().any(|word| error.contains(word)))
}

/// Who uses images by digest, by repository and digest; nobody for those that have a `CachedImage` alone.
#[derive(Debug)]
struct UsersByDigest<'a> {
    users: BTreeMap<(Cow<'a, str>, &'a str), Vec<&'a Users<'a>>>,
}

impl<'a> UsersByDigest<'a> {
    fn new(context: &'a Context<'a>) -> Self {
        let mut users: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (text, of_it) in &context.usage {
            if let Some((_, digest)) = text.split_once('@') {
                users.entry((repository(&Cow::Borrowed(*text)), digest)).or_default().push(of_it);
            }
        }
        for (_, group) in context.catalogue.groups().filter(|(_, group)| group.is_live()) {
            if let Some(digest) = &group.reference.digest {
                users.entry((Cow::Borrowed(group.reference.repository.as_str()), digest)).or_default();
            }
        }
        Self { users }
    }

    /// The digests of a repository, and who uses them.
    fn of(&self, repository: &'a str) -> impl Iterator<Item = (&'a str, &[&'a Users<'a>])> {
        let of_it = self.users.range((Cow::Borrowed(repository), "")..).take_while(move |((of, _), _)| of == repository);
        of_it.map(|((_, digest), users)| (*digest, users.as_slice()))
    }
}

/// Pins what is wanted by digest in the repositories that the node holds something of: what is used, and, without a reason, what has a
/// `CachedImage`. Agents do not list a platform's manifest that they hold as a part of an index unless it is pinned, and nothing else would
/// tell them that it is needed. Where something is dropped all of it counts; of the rest, as much as there is room for.
fn pin_digests<'a>(by_digest: &UsersByDigest<'a>, (node, state): (&str, &'a NodeState), desired: &mut Desired) {
    if by_digest.users.is_empty() {
        return;
    }
    // The digests that the tags of each repository mean: these are pinned under their tags.
    let mut held: BTreeMap<Cow<'_, str>, Vec<&str>> = BTreeMap::new();
    for image in state.images.values() {
        let text = meant(&image.image);
        let roots = held.entry(repository(&text)).or_default();
        roots.extend((!text.contains('@')).then_some(image.digest.as_str()));
    }
    let dropped: BTreeSet<String> = desired.drop.iter().map(|drop| repository(&meant(&drop.image)).into_owned()).collect();
    let mut pinned: HashSet<String> = desired.pins.iter().map(|pin| pin.image.clone()).collect();
    let (first, others): (Vec<_>, Vec<_>) = held.iter().partition(|(repository, _)| dropped.contains(&***repository));
    for (repository, roots) in first.into_iter().chain(others) {
        let is_dropped = dropped.contains(&**repository);
        for (digest, users) in by_digest.of(repository).filter(|(digest, _)| !roots.contains(digest)) {
            if !is_dropped && desired.pins.len() >= PINS_MAX {
                return;
            }
            let image = format!("{repository}@{digest}");
            if pinned.insert(image.clone()) {
                let is_here = users.iter().any(|users| users.nodes.contains(node));
                let reason = if is_here { PinReason::UsedHere } else { PinReason::UsedElsewhere };
                let reasons = if users.is_empty() { Vec::new() } else { vec![reason] };
                desired.pins.push(Pin { image, reasons });
            }
        }
    }
}

/// Why an image that a node holds is needed; or that it is to go.
fn held_wishes<'a>(context: &'a Context<'a>, memory: &mut Memory, by_digest: &UsersByDigest<'a>, copy: Copy<'a>, desired: &mut Desired) {
    let held = copy.held;
    let text = meant(&held.image);
    let repository = repository(&text);
    let digest_users = by_digest.users.get(&(repository.clone(), held.digest.as_str())).into_iter().flatten().copied();
    let users: Vec<&Users<'_>> = context.usage.get(&*text).into_iter().chain(digest_users).collect();
    let groups: Vec<&Group<'_>> = context.catalogue.matching(&text, &repository, &held.digest).collect();
    if users.is_empty() && groups.is_empty() {
        if context.may_delete() {
            desired
                .drop
                .extend(unused_since(context, memory, &text, held).map(|since| Drop { image: held.image.clone(), unused_since: since }));
        }
        return;
    }
    let mut reasons = Vec::new();
    if groups.iter().any(|group| group.right().into_iter().chain(group.wrong.iter().copied()).any(|object| object.spec.retain)) {
        reasons.push(PinReason::Retained);
    }
    if users.iter().any(|users| users.nodes.contains(copy.node)) {
        reasons.push(PinReason::UsedHere);
    }
    // A pod without a node yet may come to any.
    if users.iter().any(|users| users.nodes.is_empty() || users.nodes.iter().any(|node| *node != copy.node)) {
        reasons.push(PinReason::UsedElsewhere);
    }
    let reference = groups.first().map(|group| &group.reference);
    let said = reference.map_or(held.upstream, |reference| upstream(&context.copies.of(reference)));
    if said == UpstreamState::NotFound {
        reasons.push(PinReason::GoneUpstream);
    }
    let is_needed = !users.is_empty() || reasons.iter().any(|reason| matches!(reason, PinReason::Retained | PinReason::GoneUpstream));
    if held.complete && is_last(context, memory, &text, copy, is_needed) {
        reasons.push(PinReason::LastCopy);
    }
    if !reasons.is_empty() {
        desired.pins.push(Pin { image: held.image.clone(), reasons });
    }
}

/// Whether a copy that is whole is to be held as if it were the last. Of an image that is needed one is, and all are until the node that
/// was chosen has heard of it. Of one that a registry has and nobody misses, only the last is.
fn is_last(context: &Context<'_>, memory: &mut Memory, text: &str, copy: Copy<'_>, is_needed: bool) -> bool {
    // Of an index each node holds its own platform: another kind of node has no copy of it.
    let arch = context.world.arch(copy.node);
    let mut nodes = context.copies.whole(text, &copy.held.digest);
    nodes.retain(|node| context.world.arch(node) == arch);
    if !is_needed {
        return nodes.len() == 1;
    }
    let Some(holder) = memory.holders.choose(text, (&copy.held.digest, arch), &nodes, context.now) else { return true };
    let received_at = context.world.states.get(&holder.node).map_or(0, |state| state.received_at);
    holder.node == copy.node || !holder.has_heard(received_at)
}

/// Since when an image that nothing needs is not needed, if it is to go for that.
fn unused_since(context: &Context<'_>, memory: &Memory, text: &str, held: &Held) -> Option<u64> {
    if let Some(deleted) = memory.tombstones.get(text) {
        return (held.used_at <= deleted).then_some(deleted);
    }
    let world = context.world;
    let is_steady = world.images_steady_since + STEADY_SECONDS <= context.now && !world.images.is_empty();
    let kept_until = held.used_at.saturating_add(world.settings.expiry_delay.as_secs());
    (is_steady && held.used_at > 0 && kept_until < context.now).then_some(held.used_at)
}
