//! `NodeCache`s.

use super::*;
use crate::lifecycle::world::SILENT_SECONDS;
use kuik_crd::control::{Disk, HeldBack, Pressure, Traffic};
use proptest::prelude::*;

fn cache(lab: &Lab) -> NodeCache {
    NodeCache::clone(&lab.world.node_caches["n1"])
}

fn with_disk(lab: Lab, used_bytes: u64) -> Lab {
    lab.state("n1", |state| {
        state.disk = Disk { capacity_bytes: 100 << 30, free_bytes: 50 << 30, used_bytes, budget_bytes: Some(30 << 30), ..Disk::default() };
        state.traffic = Traffic { hits: 3, misses: 1, served_bytes: 5 << 30, fetched_bytes: 1 << 30 };
        state.agent_version = "2.0.0".to_owned();
    })
}

/// Images that are held back for a reason, and what they take in MiB.
fn held(reason: &str, images: u64, mib: u64) -> HeldBack {
    HeldBack { reason: reason.to_owned(), images, bytes: mib << 20 }
}

/// The disk of `n1`, so many MiB over its budget.
fn pressed(lab: Lab, missing_mib: u64, held: &[HeldBack]) -> Lab {
    let pressure = Pressure { since: START, missing_bytes: missing_mib << 20, held: held.to_vec() };
    with_disk(lab, 31 << 30).state("n1", |state| state.disk.pressure = Some(pressure))
}

fn quarantined(lab: Lab, blobs: u64, last: &str) -> Lab {
    lab.state("n1", |state| {
        (state.disk.quarantined_blobs, state.disk.last_quarantined) = (blobs, Some(last.to_owned()).filter(|last| !last.is_empty()));
    })
}

/// `STATUS REASON: MESSAGE` of the condition.
fn disk_pressure(lab: &Lab) -> String {
    let conditions = cache(lab).status.unwrap().conditions;
    let condition = conditions.iter().find(|condition| condition.type_ == "DiskPressure").expect("the condition must be there");
    format!("{} {}: {}", condition.status, condition.reason, condition.message)
}

/// The Events of the next plan, as `REASON: TEXT`, and what is then written.
fn said(lab: &mut Lab) -> Vec<String> {
    let notes = lab.plan().steps.into_iter().flat_map(|step| step.notes);
    notes.map(|note| format!("{}{}: {}", if note.is_warning { "! " } else { "" }, note.reason, note.text)).collect()
}

fn reporting(lab: &Lab) -> String {
    cache(lab).status.unwrap().conditions[0].status.clone()
}

#[test]
fn a_node_that_reports_gets_an_object_that_its_node_owns() {
    let lab = with_disk(Lab::new(1), 20 << 30).report("n1", &[whole(NGINX), part("docker.io/library/x:1")]).settle();
    let cache = cache(&lab);
    let owner = &cache.owner_references()[0];
    assert_eq!((owner.kind.as_str(), owner.name.as_str(), owner.uid.as_str()), ("Node", "n1", "uid-n1"));
    let status = cache.status.unwrap();
    assert_eq!((status.used.as_str(), status.free.as_str(), status.capacity.as_str()), ("20Gi", "50Gi", "100Gi"));
    assert_eq!((status.budget.as_deref(), status.images, status.hit_percent), (Some("30Gi"), 1, Some(75)));
    assert_eq!((status.saved.as_deref(), status.agent_version.as_str()), (Some("4Gi"), "2.0.0"));
    assert_eq!(status.last_report, Some(time(START)));
    assert_eq!(reporting(&lab), "True");
}

#[test]
fn a_node_that_is_not_in_the_cluster_gets_none() {
    let lab = Lab::new(0).report("ghost", &[]).settle();
    assert!(lab.world.node_caches.is_empty());
}

#[test]
fn the_object_of_a_node_that_is_gone_is_deleted_if_the_watch_works() {
    let mut lab = Lab::new(1).settle();
    lab.world.nodes = Arc::default();
    lab.world.watches_work = false;
    let mut lab = lab.settle();
    assert_eq!(lab.world.node_caches.len(), 1);
    lab.world.watches_work = true;
    assert!(lab.settle().world.node_caches.is_empty());
}

#[test]
fn a_node_that_was_made_again_gets_an_object_of_its_own() {
    let mut lab = Lab::new(1).settle();
    let info = NodeInfo { uid: "another".to_owned(), zone: None, arch: None };
    Arc::make_mut(&mut lab.world.nodes).insert("n1".into(), Arc::new(info));
    assert_eq!(cache(&lab.settle()).owner_references()[0].uid, "another");
}

#[test]
fn figures_are_written_when_they_have_changed_visibly() {
    let lab = with_disk(Lab::new(1), 20 << 30).settle().forget_written();
    let lab = with_disk(lab, (20 << 30) + (1 << 20)).settle();
    assert!(lab.written.is_empty(), "{:?}", lab.written);
    let lab = with_disk(lab, 21 << 30).settle();
    assert_eq!(lab.written, ["status of node cache n1"]);
    let lab = lab.report("n1", &[whole(NGINX)]).settle();
    assert_eq!(cache(&lab).status.unwrap().images, 1);
}

#[test]
fn a_report_is_noted_every_five_minutes() {
    let lab = Lab::new(1).settle().forget_written().after(299).settle();
    assert!(lab.written.is_empty(), "{:?}", lab.written);
    let lab = lab.after(1).settle();
    assert_eq!(cache(&lab).status.unwrap().last_report, Some(time(START + 300)));
}

#[test]
fn an_agent_that_falls_silent_is_noted_and_so_is_its_return() {
    let lab = Lab::new(1).settle().agent("n1", false).after(SILENT_SECONDS).settle();
    assert_eq!(reporting(&lab), "True");
    let lab = lab.after(1).settle();
    assert_eq!(reporting(&lab), "False");
    assert_eq!(reporting(&lab.report("n1", &[]).settle()), "True");
}

#[test]
fn a_new_leader_gives_agents_the_time_to_report() {
    let mut lab = Lab::new(1).settle().after(SILENT_SECONDS * 2);
    lab.world.states.clear();
    lab.world.led_since = lab.now;
    lab.memory = Memory::default();
    let lab = lab.settle().after(SILENT_SECONDS).settle();
    assert_eq!(reporting(&lab), "True");
    assert_eq!(reporting(&lab.after(1).settle()), "False");
}

#[test]
fn a_cache_within_its_budget_says_so() {
    let lab = with_disk(Lab::new(1), 20 << 30).settle();
    assert_eq!(disk_pressure(&lab), "False WithinBudget: the cache takes no more than agent.cache allows");
    let status = cache(&lab).status.unwrap();
    assert_eq!((status.pressure.as_str(), status.missing_bytes, status.held), ("No", None, Vec::new()));
}

#[test]
fn a_budget_that_cannot_be_held_says_what_holds_it_back_and_what_to_do() {
    let all = [held("last copy", 8, 3174), held("retained", 4, 1229)];
    let lab = pressed(Lab::new(1), 1229, &all).settle();
    let expected = "True BudgetCannotBeHeld: 1.2Gi over what agent.cache allows: 12 images are held (8 last copy 3.1Gi, 4 retained 1.2Gi): \
                    raise agent.cache.maxSize, free the node's disk, or let images go";
    assert_eq!(disk_pressure(&lab), expected);
    let status = cache(&lab).status.unwrap();
    assert_eq!((status.pressure.as_str(), status.missing_bytes, status.held.len()), ("Yes", Some(1229 << 20), 2));

    let lab = pressed(lab, 1229, &[held("being pulled", 1, 10)]).settle();
    assert!(disk_pressure(&lab).contains(": 1 image is held (1 being pulled 10Mi): "), "{}", disk_pressure(&lab));
    let lab = pressed(lab, 1229, &[]).settle();
    let nothing = "1.2Gi over what agent.cache allows, and no image is left to let go: raise agent.cache.maxSize, or free the node's disk";
    assert!(disk_pressure(&lab).ends_with(nothing), "{}", disk_pressure(&lab));
    let lab = pressed(lab, 0, &all).settle();
    assert!(disk_pressure(&lab).contains(": nothing more can be kept: 12 images are held "), "{}", disk_pressure(&lab));
    assert_eq!(disk_pressure(&with_disk(lab, 20 << 30).settle()).split(' ').next(), Some("False"));
}

#[test]
fn a_pressure_is_written_anew_when_it_has_changed_visibly() {
    let all = |mib| [held("last copy", 8, mib), held("retained", 4, 2000)];
    let lab = pressed(Lab::new(1), 2000, &all(3000)).settle().forget_written();
    let before = disk_pressure(&lab);
    let lab = pressed(lab, 3000, &all(4000)).settle();
    let lab = pressed(lab, 1000, &[held("retained", 9, 2900), held("last copy", 80, 2000)]).settle();
    assert_eq!((lab.written.len(), disk_pressure(&lab)), (0, before.clone()), "1 % of 100Gi is 1024Mi");
    let lab = pressed(lab, 3024, &all(3000)).settle().forget_written();
    assert!(disk_pressure(&lab).contains("2.95Gi over"), "{}", disk_pressure(&lab));
    let lab = pressed(lab, 3024, &all(4024)).settle().forget_written();
    assert!(disk_pressure(&lab).contains("8 last copy 3.93Gi"), "{}", disk_pressure(&lab));
    let lab = pressed(lab, 3024, &[held("kept", 8, 4024), held("retained", 4, 2000)]).settle();
    assert!(disk_pressure(&lab).contains("8 kept 3.93Gi"), "{}", disk_pressure(&lab));
    let lab = pressed(lab.after(300), 3100, &[held("kept", 9, 4100), held("retained", 4, 2000)]).forget_written().settle();
    assert_eq!(lab.written.len(), 1);
    assert!(disk_pressure(&lab).contains("8 kept 3.93Gi"), "the time of the report alone: {}", disk_pressure(&lab));
}

#[test]
fn a_budget_that_moves_with_the_rest_of_the_disk_is_written_when_it_has_changed_visibly() {
    let budget =
        |lab: Lab, mib: Option<u64>| with_disk(lab, 20 << 30).state("n1", |s| s.disk.budget_bytes = mib.map(|mib| mib << 20)).settle();
    let lab = budget(Lab::new(1), Some(30_000)).forget_written();
    let lab = budget(budget(lab, Some(30_500)), Some(29_500));
    assert_eq!(lab.written, [""; 0]);
    let lab = budget(lab, Some(28_900));
    assert_eq!(cache(&lab).status.unwrap().budget_bytes, Some(28_900 << 20));
    assert_eq!(cache(&budget(lab, None)).status.unwrap().budget, None);
}

#[test]
fn pressure_and_its_end_are_told_once() {
    let mut lab = pressed(Lab::new(1), 1229, &[held("retained", 4, 1229)]);
    assert!(said(&mut lab).is_empty(), "the object comes first");
    let create = lab.plan().steps.remove(0).action;
    lab.apply(create);
    let text = "1.2Gi over what agent.cache allows: 4 images are held (4 retained 1.2Gi): raise agent.cache.maxSize, \
                free the node's disk, or let images go";
    assert_eq!(said(&mut lab), [format!("! BudgetExceeded: {text}")]);
    let mut lab = pressed(lab.settle(), 9000, &[held("last copy", 1, 1)]);
    assert!(lab.plan().steps.len() == 1 && said(&mut lab).is_empty(), "it goes on");
    lab.memory = Memory::default();
    lab.world.states.clear();
    assert!(said(&mut lab).is_empty(), "a new leader has not heard of it yet");
    let mut lab = pressed(lab, 9000, &[held("last copy", 1, 1)]).settle();
    assert!(said(&mut lab).is_empty());
    let mut lab = with_disk(lab, 20 << 30);
    assert_eq!(said(&mut lab), ["BudgetHeld: the cache takes no more than agent.cache allows again: 20Gi of 30Gi"]);
    let mut lab = lab.settle();
    assert!(said(&mut lab).is_empty());
}

#[test]
fn wrong_bytes_are_told_once_and_counts_begin_anew_with_the_agent() {
    let mut lab = quarantined(Lab::new(1).settle(), 1, "sha256:a of docker.io/library/nginx");
    let one = |last: &str| {
        format!("! BlobQuarantined: a blob had wrong bytes, and was put aside: {last}; if it happens again, look at the node's disk")
    };
    assert_eq!(said(&mut lab), [one("sha256:a of docker.io/library/nginx")]);
    let mut lab = lab.settle();
    assert_eq!(cache(&lab).status.unwrap().quarantined, 1);
    assert!(said(&mut lab).is_empty());
    let mut lab = quarantined(lab, 4, "sha256:b");
    let text = "! BlobQuarantined: 3 blobs had wrong bytes, and were put aside, the last of them: sha256:b; \
                if it happens again, look at the node's disk";
    assert_eq!(said(&mut lab), [text]);
    let mut lab = quarantined(lab.settle(), 0, "");
    assert!(said(&mut lab).is_empty(), "the agent has started anew");
    let mut lab = quarantined(lab.settle(), 2, "sha256:c");
    assert_eq!(said(&mut lab).len(), 1);
    let mut lab = quarantined(lab.settle(), 1, "sha256:d");
    assert_eq!(said(&mut lab), [one("sha256:d")], "the agent has started anew and found another");
}

#[test]
fn what_was_evicted_lately_is_written_with_other_figures() {
    let evicted =
        |lab: Lab, all, lately| lab.state("n1", |state| (state.disk.evicted_images, state.disk.evicted_last_hour) = (all, lately)).settle();
    let lab = evicted(Lab::new(1), 50, 20).forget_written();
    assert_eq!(cache(&lab).status.unwrap().evicted_last_hour, 20);
    let lab = evicted(lab, 50, 10);
    assert_eq!((lab.written.len(), cache(&lab).status.unwrap().evicted_last_hour), (0, 20));
    let lab = evicted(lab.after(300), 50, 5);
    assert_eq!(cache(&lab).status.unwrap().evicted_last_hour, 5);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Figures in MiB on a disk of 100 GiB, each less than 1 % from where it began, and the images in any order.
    #[test]
    fn a_pressure_that_goes_on_is_written_once(
        reports in proptest::collection::vec((0_u64..1000, 0_u64..1000, 0_u64..1000, 0_u64..90, any::<bool>()), 2..20)
    ) {
        let report = |lab: Lab, (missing, kept, last, images, turned)| {
            let mut all = vec![held("kept", images, 5000 + kept), held("last copy", 90 - images, 5000 + last)];
            if turned {
                all.reverse();
            }
            pressed(lab, 2000 + missing, &all).settle()
        };
        let mut reports = reports.into_iter();
        let mut lab = report(Lab::new(1), reports.next().expect("there must be two")).forget_written();
        let before = disk_pressure(&lab);
        for next in reports {
            lab = report(lab.after(10), next);
            prop_assert!(lab.plan().steps.is_empty());
        }
        prop_assert_eq!((lab.written.len(), disk_pressure(&lab)), (0, before));
    }
}
