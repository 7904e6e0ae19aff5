//! `NodeCache`s.

use super::*;
use crate::lifecycle::world::SILENT_SECONDS;
use kuik_crd::control::{Disk, Traffic};

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
    let info = NodeInfo { uid: "another".to_owned(), zone: None };
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
