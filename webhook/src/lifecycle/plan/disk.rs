//! What a node's disk is short of, and what was wrong on it: fields of its `NodeCache`, the condition `DiskPressure`, and Events.

use kuik_crd::control::{Disk, Pressure};
use kuik_crd::{HeldImages, NodeCacheStatus, human_size};

use super::Note;
use super::conditions::Saying;
use super::nodes::{is_visible, signed};

/// The type of the condition.
const DISK_PRESSURE: &str = "DiskPressure";

/// The words of the column.
const YES: &str = "Yes";
const NO: &str = "No";

/// Puts what was reported into a status that has the last figures.
pub(super) fn figures(disk: &Disk, status: &mut NodeCacheStatus) {
    status.quarantined = signed(disk.quarantined_blobs);
    status.last_quarantined.clone_from(&disk.last_quarantined);
    let Some(pressure) = &disk.pressure else {
        (status.pressure, status.missing_bytes, status.held) = (NO.to_owned(), None, Vec::new());
        return;
    };
    let (missing, held) = (signed(pressure.missing_bytes), held(pressure));
    if is_news(missing, &held, status) {
        (status.pressure, status.missing_bytes, status.held) = (YES.to_owned(), Some(missing), held);
    }
}

fn held(pressure: &Pressure) -> Vec<HeldImages> {
    let held = pressure.held.iter();
    held.map(|held| HeldImages { reason: held.reason.clone(), images: signed(held.images), bytes: signed(held.bytes) }).collect()
}

/// Whether a pressure is another than the one that the status tells of. What is missing changes a little with each pull, and is not written
/// for that: other reasons, or 1 % of the capacity, are news.
fn is_news(missing: i64, held: &[HeldImages], status: &NodeCacheStatus) -> bool {
    let Some(old_missing) = status.missing_bytes.filter(|_| status.pressure == YES) else { return true };
    let is_visible = |new, old| is_visible(new, old, status.capacity_bytes);
    let same = |new: &HeldImages| status.held.iter().any(|old| old.reason == new.reason && !is_visible(new.bytes, old.bytes));
    held.len() != status.held.len() || !held.iter().all(same) || is_visible(missing, old_missing)
}

/// Whether the cache cannot make the room that it should.
pub(super) fn pressure(status: &NodeCacheStatus) -> Saying {
    let (status, reason, message) = if status.pressure == YES {
        ("True", "BudgetCannotBeHeld", explain(status))
    } else {
        ("False", "WithinBudget", "the cache takes no more than agent.cache allows".to_owned())
    };
    Saying { type_: DISK_PRESSURE, status, reason, message }
}

fn explain(status: &NodeCacheStatus) -> String {
    let size = |bytes: i64| human_size(u64::try_from(bytes).unwrap_or(0));
    let what = match status.missing_bytes.unwrap_or(0) {
        0 => "nothing more can be kept".to_owned(),
        missing => format!("{} over what agent.cache allows", size(missing)),
    };
    if status.held.is_empty() {
        return format!("{what}, and no image is left to let go: raise agent.cache.maxSize, or free the node's disk");
    }
    let images: i64 = status.held.iter().fold(0, |sum, held| sum.saturating_add(held.images));
    let are = if images == 1 { "image is" } else { "images are" };
    let held: Vec<String> = status.held.iter().map(|held| format!("{} {} {}", held.images, held.reason, size(held.bytes))).collect();
    let held = held.join(", ");
    format!("{what}: {images} {are} held ({held}): raise agent.cache.maxSize, free the node's disk, or let images go")
}

/// What is worth an Event.
pub(super) fn notes(old: &NodeCacheStatus, new: &NodeCacheStatus) -> Vec<Note> {
    let mut notes = Vec::new();
    match (old.pressure.as_str(), new.pressure.as_str()) {
        (YES, NO) => {
            let budget = new.budget.as_ref().map(|budget| format!(" of {budget}")).unwrap_or_default();
            notes.push(Note::normal("BudgetHeld", format!("the cache takes no more than agent.cache allows again: {}{budget}", new.used)));
        }
        (before, YES) if before != YES => notes.push(Note::warning("BudgetExceeded", explain(new))),
        _ => {}
    }
    notes.extend(quarantined(old, new));
    notes
}

/// Counts begin anew with each start of the agent: another last one is news, too.
fn quarantined(old: &NodeCacheStatus, new: &NodeCacheStatus) -> Option<Note> {
    let is_news = new.quarantined > old.quarantined || (new.quarantined > 0 && new.last_quarantined != old.last_quarantined);
    let last = new.last_quarantined.as_deref().unwrap_or("not said");
    let text = match new.quarantined.saturating_sub(old.quarantined) {
        ..=1 => format!("a blob had wrong bytes, and was put aside: {last}"),
        more => format!("{more} blobs had wrong bytes, and were put aside, the last of them: {last}"),
    };
    is_news.then(|| Note::warning("BlobQuarantined", format!("{text}; if it happens again, look at the node's disk")))
}
