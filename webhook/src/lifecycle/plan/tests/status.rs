//! What the status of a `CachedImage` says, and how seldom it is written.

use super::*;
use crate::lifecycle::world::SETTLE_SECONDS;
use kuik_crd::{CopyState, Phase};

fn used() -> Lab {
    Lab::new(3).pod("a/1", "n1", &[NGINX])
}

#[test]
fn an_image_that_is_wanted_and_nowhere_is_being_fetched() {
    let lab = used().settle();
    let status = lab.status(NGINX);
    assert_eq!((status.phase, status.is_cached), (Some(Phase::Pulling), false));
    assert_eq!(lab.condition(NGINX, "Cached"), "False Pulling");
    assert_eq!(lab.condition(NGINX, "Durable"), "False NotCached");
    assert_eq!((status.copies_ready, status.copies_wanted), (Some(0), Some(1)));
}

#[test]
fn an_image_that_a_node_holds_as_a_whole_is_ready() {
    let mut lab = used().settle().report("n2", &[whole(NGINX)]).report("n1", &[part(NGINX)]);
    assert_eq!(reasons(&lab.plan()), ["Cached"]);
    let lab = lab.settle();
    let status = lab.status(NGINX);
    assert_eq!((status.phase, status.is_cached), (Some(Phase::Ready), true));
    assert_eq!(status.digest.as_deref(), Some(&DIGEST["sha256:".len()..]));
    assert_eq!((status.upstream_digest, status.up_to_date), (status.digest, Some(true)));
    assert_eq!((status.available_upstream, status.size_bytes, status.size.as_deref()), (Some(true), Some(10 << 20), Some("10Mi")));
    assert_eq!((status.last_seen_upstream, status.last_sync), (Some(time(START - 100)), Some(time(START - 100))));
    assert_eq!(status.last_successful_pull, Some(time(START)));
    assert_eq!((status.copies_ready, status.copies_wanted), (Some(1), Some(1)));
    let copies: Vec<_> = status.copies.iter().map(|c| (c.node.as_str(), c.zone.as_deref().unwrap(), c.state, c.bytes)).collect();
    assert_eq!(copies, [("n2", "b", CopyState::Ready, 10 << 20), ("n1", "a", CopyState::Partial, 1 << 20)]);
    for (type_, expected) in [("Cached", "True Cached"), ("Durable", "True EnoughCopies"), ("UpstreamAvailable", "True Available")] {
        assert_eq!(lab.condition(NGINX, type_), expected);
    }
}

#[test]
fn the_users_are_counted_and_named() {
    let lab = used().pod("a/2", "n2", &[NGINX]).settle();
    let used_by = lab.status(NGINX).used_by.unwrap();
    assert_eq!((used_by.count, used_by.pods[1].namespaced_name.as_str()), (2, "a/2"));
    let lab = lab.without_pod("a/1").without_pod("a/2").settle();
    assert_eq!(lab.status(NGINX).used_by.unwrap(), kuik_crd::UsedBy::default());
}

#[test]
fn a_pod_that_both_labels_select_counts_once() {
    let mut lab = used();
    lab.world.v1_pods = Arc::clone(&lab.world.pods);
    assert_eq!(lab.settle().status(NGINX).used_by.unwrap().count, 1);
}

#[test]
fn an_image_that_cannot_be_fetched_says_why() {
    let mut lab = used().settle().finding("n1", NGINX, Some("no such tag"));
    assert_eq!(reasons(&lab.plan()), ["CacheFailed"]);
    let lab = lab.settle();
    assert_eq!(lab.status(NGINX).phase, Some(Phase::ErrImagePull));
    assert_eq!(lab.condition(NGINX, "Cached"), "False ErrImagePull");
    assert_eq!(lab.status(NGINX).conditions[0].message, "n1: no such tag");
    let mut lab = lab.after(10).finding("n2", NGINX, Some("too many requests"));
    assert_eq!(reasons(&lab.plan()), ["CacheFailed"], "another reason");
    let lab = lab.settle().after(10).finding("n1", NGINX, None).settle();
    assert_eq!(lab.status(NGINX).phase, Some(Phase::Pulling));
    assert_eq!(lab.status(NGINX).last_successful_pull, Some(time(START + 20)));
}

#[test]
fn an_error_matters_only_while_no_node_holds_the_image() {
    let lab = used().report("n2", &[whole(NGINX)]).finding("n1", NGINX, Some("no such tag")).settle();
    assert_eq!(lab.status(NGINX).phase, Some(Phase::Ready));
    let lab = lab.after(5).report("n2", &[]).settle();
    assert_eq!(lab.status(NGINX).phase, Some(Phase::Pulling), "the error is older than the copy was");
}

#[test]
fn an_image_that_upstream_has_lost_says_so_and_one_that_could_not_be_asked_for_does_not() {
    let said = |upstream, at| Held { upstream, checked_at: at, ..whole(NGINX) };
    let mut lab = used().report("n1", &[whole(NGINX)]).settle().report("n1", &[said(UpstreamState::NotFound, START)]);
    assert_eq!(reasons(&lab.plan()), ["UpstreamUnavailable"]);
    let lab = lab.settle();
    assert_eq!((lab.status(NGINX).available_upstream, lab.status(NGINX).phase), (Some(false), Some(Phase::Ready)));
    assert_eq!(lab.condition(NGINX, "UpstreamAvailable"), "False NotFound");
    let lab = lab.report("n1", &[said(UpstreamState::RateLimited, START + 9)]).settle();
    assert_eq!(lab.status(NGINX).available_upstream, Some(false), "it has given no other answer");
    assert_eq!(lab.condition(NGINX, "UpstreamAvailable"), "Unknown RateLimited");
}

#[test]
fn an_image_whose_tag_has_moved_upstream_is_not_up_to_date_until_it_is_fetched() {
    let newer = Held { digest: DIGEST.replace('b', "c"), validated_at: START, ..part(NGINX) };
    let lab = used().report("n1", &[whole(NGINX)]).report("n2", std::slice::from_ref(&newer)).settle();
    assert_eq!((lab.status(NGINX).up_to_date, lab.status(NGINX).digest.unwrap()), (Some(false), DIGEST["sha256:".len()..].to_owned()));
    let lab = lab.report("n2", &[Held { complete: true, ..newer }]).settle();
    assert_eq!((lab.status(NGINX).up_to_date, lab.status(NGINX).digest), (Some(true), lab.status(NGINX).upstream_digest));
}

#[test]
fn copies_of_images_that_are_kept_are_wanted_on_as_many_nodes_as_the_settings_say_and_there_are() {
    for (nodes, wanted) in [(1, 1), (2, 2), (3, 2)] {
        let lab = Lab::new(nodes).object(NGINX_NAME, NGINX, |_| ()).report("n1", &[whole(NGINX)]).settle();
        assert_eq!(lab.status(NGINX).copies_wanted, Some(wanted));
        assert_eq!(lab.condition(NGINX, "Durable"), if wanted == 1 { "True EnoughCopies" } else { "False TooFewCopies" });
    }
}

#[test]
fn ten_copies_are_listed_the_whole_ones_first_and_all_are_counted() {
    let mut lab = Lab::new(15).pod("a/1", "n1", &[NGINX]);
    for i in 1..=15 {
        lab = lab.report(&format!("n{i}"), &[if i < 4 { part(NGINX) } else { whole(NGINX) }]);
    }
    let status = lab.settle().status(NGINX);
    assert_eq!((status.copies.len(), status.copies_ready), (10, Some(12)));
    assert!(status.copies.iter().all(|copy| copy.state == CopyState::Ready));
}

#[test]
fn a_copy_keeps_its_time_until_its_state_changes() {
    let lab = used().report("n1", &[part(NGINX)]).settle().after(50).report("n1", &[part(NGINX)]).settle();
    assert_eq!(lab.status(NGINX).copies[0].since, time(START));
    let lab = lab.report("n1", &[whole(NGINX)]).settle();
    assert_eq!(lab.status(NGINX).copies[0].since, time(START + 50));
}

#[test]
fn a_digest_is_always_up_to_date() {
    let source = format!("docker.io/library/nginx@{DIGEST}");
    let held = Held { checked_at: 0, validated_at: 0, upstream: UpstreamState::Unknown, ..whole(NGINX) };
    let lab = Lab::new(1).pod("a/1", "n1", &[&source]).report("n1", &[held]).settle();
    assert_eq!((lab.status(&source).phase, lab.status(&source).up_to_date), (Some(Phase::Ready), Some(true)));
    assert_eq!(lab.condition(&source, "UpstreamAvailable"), "Unknown NotAsked");
}

#[test]
fn times_alone_are_written_once_an_hour() {
    let lab = used().report("n1", &[whole(NGINX)]).settle().forget_written();
    let checked = |at| Held { checked_at: at, validated_at: at, used_at: at, ..whole(NGINX) };
    let lab = lab.after(3_400).report("n1", &[checked(START + 3_400)]).settle();
    assert_eq!(lab.written.iter().filter(|write| write.contains("nginx")).count(), 0, "{:?}", lab.written);
    let lab = lab.after(200).report("n1", &[checked(START + 3_600)]).settle();
    assert_eq!(lab.status(NGINX).last_sync, Some(time(START + 3_600)));
}

#[test]
fn a_new_leader_leaves_copies_alone_until_all_ready_agents_have_reported() {
    let mut lab = used().report("n1", &[whole(NGINX)]).settle();
    lab.memory = Memory::default();
    lab.world.led_since = lab.now;
    lab.world.states.clear();
    let lab = lab.pod("a/2", "n1", &[NGINX]).pod("a/3", "n1", &["quay.io/x/new:1"]).settle();
    let status = lab.status(NGINX);
    assert_eq!((status.phase, status.copies_ready, status.used_by.unwrap().count), (Some(Phase::Ready), Some(1), 2));
    assert_eq!(lab.status("quay.io/x/new:1").phase, Some(Phase::Synchronizing));
    let lab = lab.report("n1", &[]).report("n2", &[]).settle();
    assert_eq!(lab.status(NGINX).phase, Some(Phase::Ready), "n3 may hold it");
    let mut lab = lab.after(SETTLE_SECONDS - 1).settle();
    assert_eq!((lab.status(NGINX).phase, lab.plan().wishes), (Some(Phase::Ready), None));
    assert_eq!(lab.after(1).settle().status(NGINX).phase, Some(Phase::Pulling));
}

#[test]
fn a_node_whose_agent_is_silent_does_not_count() {
    let lab = used().report("n1", &[whole(NGINX)]).settle().agent("n1", false).after(180).settle();
    assert_eq!(lab.status(NGINX).copies_ready, Some(1), "its agent may be restarting");
    assert_eq!(lab.after(1).settle().status(NGINX).copies_ready, Some(0));
}
