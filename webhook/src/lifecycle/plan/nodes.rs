//! `NodeCache`s: one for each node that reports, owned by it.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt as _;
use kuik_crd::names::{MANAGED_BY, MANAGED_BY_LABEL};
use kuik_crd::{NodeCache, NodeCacheSpec, NodeCacheStatus, human_size};

use super::{Action, Context, Note, Step, Target, conditions, disk};
use crate::board::NodeState;
use crate::lifecycle::cluster::NodeInfo;
use crate::lifecycle::world::{SILENT_SECONDS, last_report, time};

/// The last report is written, at least, when it is this much newer, in seconds.
const LAST_REPORT_LAG_SECONDS: u64 = 300;

pub(super) fn steps(context: &Context<'_>) -> Vec<Step> {
    let world = context.world;
    let reported = world.states.keys().map(String::as_str);
    let all: BTreeSet<&str> = world.node_caches.keys().map(|node| &**node).chain(reported).collect();
    all.into_iter().filter_map(|node| step(context, node)).map(|(action, notes)| Step { action, notes }).collect()
}

fn step(context: &Context<'_>, node: &str) -> Option<(Action, Vec<Note>)> {
    let world = context.world;
    let action = match (world.nodes.get(node), world.node_caches.get(node)) {
        (None, None) => return None,
        (None, Some(cache)) => return context.may_delete().then(|| (Action::DeleteNodeCache(Target::of(&**cache)), Vec::new())),
        (Some(info), None) => Action::CreateNodeCache(Box::new(new(node, info))),
        (Some(info), Some(cache)) if !is_owned_by(cache, info) => Action::DeleteNodeCache(Target::of(&**cache)),
        (Some(_), Some(cache)) => {
            let old = cache.status.clone().unwrap_or_default();
            let new = status(context, &old, world.states.get(node).map(|state| &**state), cache)?;
            let notes = disk::notes(&old, &new);
            let mut cache = NodeCache::clone(cache);
            cache.status = Some(new);
            return Some((Action::WriteNodeCacheStatus(Box::new(cache)), notes));
        }
    };
    Some((action, Vec::new()))
}

fn new(node: &str, info: &NodeInfo) -> NodeCache {
    let mut cache = NodeCache::new(node, NodeCacheSpec {});
    cache.labels_mut().insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    cache.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.to_owned(),
        uid: info.uid.clone(),
        ..OwnerReference::default()
    }]);
    cache
}

/// A node that was deleted and made again has another identity; the object of the first goes with it.
fn is_owned_by(cache: &NodeCache, info: &NodeInfo) -> bool {
    cache.owner_references().is_empty() || cache.owner_references().iter().any(|owner| owner.uid == info.uid)
}

/// The status to write, if one is.
fn status(context: &Context<'_>, old: &NodeCacheStatus, state: Option<&NodeState>, cache: &NodeCache) -> Option<NodeCacheStatus> {
    let mut new = old.clone();
    if let Some(state) = state {
        figures(state, &mut new);
    }
    let last = state.map(|state| state.received_at).or(last_report(cache)).unwrap_or(0);
    // What an earlier leader wrote lags; who was heard of under it gets the time to report to us.
    let heard_since = if state.is_some() { last } else { last.max(context.world.led_since) };
    let is_reporting = heard_since + SILENT_SECONDS >= context.now;
    if state.is_some() || !is_reporting {
        conditions::set(&mut new.conditions, [conditions::reporting(is_reporting)], context.now);
    }
    if state.is_some() {
        let pressure = disk::pressure(&new);
        conditions::set(&mut new.conditions, [pressure], context.now);
    }
    let lags = last >= last_report(cache).unwrap_or(0) + LAST_REPORT_LAG_SECONDS;
    (lags || differs(old, &new)).then_some(new)
}

/// Whether a figure has changed visibly. Those that are not asked for here are written with the others.
fn differs(old: &NodeCacheStatus, new: &NodeCacheStatus) -> bool {
    new.conditions != old.conditions
        || (new.images, new.evictions, &new.agent_version, new.capacity_bytes)
            != (old.images, old.evictions, &old.agent_version, old.capacity_bytes)
        || (&new.pressure, new.missing_bytes, &new.held) != (&old.pressure, old.missing_bytes, &old.held)
        || (new.quarantined, &new.last_quarantined) != (old.quarantined, &old.last_quarantined)
        || new.budget_bytes.is_some() != old.budget_bytes.is_some()
        || is_visible(new.budget_bytes.unwrap_or(0), old.budget_bytes.unwrap_or(0), new.capacity_bytes)
        || is_visible(new.used_bytes, old.used_bytes, new.capacity_bytes)
        || is_visible(new.free_bytes, old.free_bytes, new.capacity_bytes)
}

/// Whether a figure has changed by 1 % of the capacity.
pub(super) fn is_visible(new: i64, old: i64, capacity: i64) -> bool {
    new != old && new.abs_diff(old) >= capacity.unsigned_abs() / 100
}

/// A figure as the API has it.
pub(super) fn signed(figure: u64) -> i64 {
    i64::try_from(figure).unwrap_or(i64::MAX)
}

fn figures(state: &NodeState, status: &mut NodeCacheStatus) {
    let (disk, traffic) = (&state.disk, &state.traffic);
    (status.capacity_bytes, status.capacity) = (signed(disk.capacity_bytes), human_size(disk.capacity_bytes));
    (status.free_bytes, status.free) = (signed(disk.free_bytes), human_size(disk.free_bytes));
    (status.used_bytes, status.used) = (signed(disk.used_bytes), human_size(disk.used_bytes));
    (status.budget_bytes, status.budget) = (disk.budget_bytes.map(signed), disk.budget_bytes.map(human_size));
    let whole = state.images.values().filter(|held| held.complete).count();
    status.images = i32::try_from(whole).unwrap_or(i32::MAX);
    let asked = u128::from(traffic.hits) + u128::from(traffic.misses);
    let percent = (u128::from(traffic.hits) * 100).checked_div(asked);
    status.hit_percent = percent.and_then(|percent| i32::try_from(percent).ok());
    let saved = traffic.served_bytes.saturating_sub(traffic.fetched_bytes);
    (status.saved_upstream_bytes, status.saved) = (signed(saved), Some(human_size(saved)));
    (status.evictions, status.evicted_last_hour) = (signed(disk.evicted_images), signed(disk.evicted_last_hour));
    disk::figures(disk, status);
    status.agent_version.clone_from(&state.agent_version);
    status.last_report = Some(time(state.received_at));
}
