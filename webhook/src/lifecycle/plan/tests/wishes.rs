//! What the agents are told.

use super::*;
use crate::lifecycle::plan::Expired;
use crate::lifecycle::plan::wishes::{PINS_MAX, STEADY_SECONDS};
use kuik_crd::control::PinReason::{self, GoneUpstream, LastCopy, Retained, UsedElsewhere, UsedHere};
use kuik_crd::control::{Drop, Pin, Refresh};

pub(super) fn pins(lab: &mut Lab, node: &str) -> Vec<PinReason> {
    lab.desired(node).pins.into_iter().flat_map(|pin| pin.reasons).collect()
}

/// The nodes that are to keep an image.
pub(super) fn keepers(lab: &mut Lab, image: &str) -> Vec<String> {
    let desired = lab.plan().wishes.expect("there must be wishes").desired;
    desired.into_iter().filter(|(_, desired)| desired.keep.iter().any(|kept| kept == image)).map(|(node, _)| node).collect()
}

fn drops(lab: &mut Lab) -> Vec<Drop> {
    lab.desired("n1").drop
}

/// A `CachedImage` that somebody deletes.
fn deleted(mut lab: Lab, source: &str) -> Lab {
    let name = object_name(&source.parse().unwrap());
    Arc::make_mut(&mut lab.world.images).remove(name.as_str());
    let now = lab.now;
    lab.memory.tombstones.deleted(source.to_owned(), false, now);
    lab
}

#[test]
fn the_agents_are_those_that_are_ready() {
    let mut lab = Lab::new(3).agent("n2", false);
    let agents = lab.plan().wishes.unwrap().agents.agents;
    let told: Vec<_> = agents.iter().map(|a| (a.node.as_str(), a.zone.as_deref().unwrap(), a.address.as_str())).collect();
    assert_eq!(told, [("n1", "a", "10.0.0.1"), ("n3", "c", "10.0.0.3")]);
}

#[test]
fn images_that_are_retained_or_made_by_hand_are_kept_on_as_many_nodes_as_the_settings_say() {
    let mut lab = Lab::new(4).object(NGINX_NAME, NGINX, |_| ()).settle();
    assert_eq!(keepers(&mut lab, NGINX).len(), 2);
    let mut lab = Lab::new(4).image(NGINX).change(NGINX, |object| object.spec.retain = true).settle();
    assert_eq!(keepers(&mut lab, NGINX).len(), 2);
    let mut lab = Lab::new(4).image(NGINX).settle();
    assert!(keepers(&mut lab, NGINX).is_empty(), "made for a pod");
}

#[test]
fn keepers_stay_while_their_agents_restart_and_change_when_a_node_is_gone() {
    let mut lab = Lab::new(4).object(NGINX_NAME, NGINX, |object| object.spec.retain = true).settle();
    let before = keepers(&mut lab, NGINX);
    let mut lab = lab.agent(&before[0], false).after(100).settle();
    assert_eq!(keepers(&mut lab, NGINX), before);
    Arc::make_mut(&mut lab.world.nodes).remove(before[0].as_str());
    let after = keepers(&mut lab, NGINX);
    assert!(after.len() == 2 && after.contains(&before[1]), "{before:?} {after:?}");
}

#[test]
fn an_image_that_is_used_and_that_no_node_gets_is_fetched_by_one_of_our_choice() {
    let mut lab = Lab::new(3).pod("a/1", "n1", &[NGINX]).settle().after(60);
    assert!(keepers(&mut lab, NGINX).is_empty());
    let mut lab = lab.after(1);
    assert_eq!(keepers(&mut lab, NGINX).len(), 1);
    let mut refused = lab.finding("n1", NGINX, Some("401 Unauthorized"));
    assert!(keepers(&mut refused, NGINX).is_empty(), "another node would be refused too");
    let mut lab = refused.after(1).finding("n1", NGINX, Some("connection reset")).report("n3", &[part(NGINX)]);
    assert_eq!(keepers(&mut lab, NGINX).len(), 1);
    let mut lab = lab.report("n3", &[whole(NGINX)]);
    assert!(keepers(&mut lab, NGINX).is_empty());
}

#[test]
fn an_image_of_which_a_node_has_a_part_is_fetched_there_even_if_its_pods_are_gone() {
    let mut lab = Lab::new(3).image(NGINX).report("n2", &[part(NGINX)]).settle().after(61);
    assert_eq!(keepers(&mut lab, NGINX), ["n2"]);
    let mut lab = lab.report("n2", &[whole(NGINX)]);
    assert!(keepers(&mut lab, NGINX).is_empty());
}

#[test]
fn a_forced_update_is_asked_of_all_holders_and_is_over_when_all_have_asked() {
    let forced = |object: &mut CachedImage| {
        object.annotations_mut().insert("cachedimage.kuik.enix.io/forceUpdate".to_owned(), "true".to_owned());
    };
    let is_forced = |lab: &Lab| lab.get(NGINX).unwrap().annotations().contains_key("cachedimage.kuik.enix.io/forceUpdate");
    let lab = Lab::new(3).pod("a/1", "n1", &[NGINX]).report("n1", &[whole(NGINX)]).report("n2", &[whole(NGINX)]).settle();
    let mut lab = lab.after(5).change(NGINX, forced).settle();
    let refresh = Refresh { image: NGINX.to_owned(), since: START + 5 };
    assert_eq!([lab.desired("n1").refresh, lab.desired("n2").refresh], [vec![refresh.clone()], vec![refresh]]);
    assert!(lab.desired("n3").refresh.is_empty());
    let asked = Held { checked_at: START + 6, ..whole(NGINX) };
    let lab = lab.after(2).report("n1", std::slice::from_ref(&asked)).settle();
    assert!(is_forced(&lab));
    let mut lab = lab.report("n2", &[asked]).settle();
    assert!(!is_forced(&lab) && lab.desired("n1").refresh.is_empty());

    let lab = lab.change(NGINX, forced).settle().after(119).settle();
    assert!(is_forced(&lab));
    assert!(!is_forced(&lab.after(1).settle()), "given up");
}

#[test]
fn pins_say_why_an_image_is_needed() {
    let lab = Lab::new(3).pod("a/1", "n1", &[NGINX]).report("n1", &[whole(NGINX)]).report("n2", &[part(NGINX)]);
    let mut lab = lab.settle();
    assert_eq!(pins(&mut lab, "n1"), [UsedHere, LastCopy]);
    assert_eq!(pins(&mut lab, "n2"), [UsedElsewhere]);
    let mut lab = lab.report("n2", &[whole(NGINX)]).pod("a/2", "n2", &[NGINX]);
    assert_eq!(pins(&mut lab, "n1"), [UsedHere, UsedElsewhere, LastCopy]);
    let gone = Held { upstream: UpstreamState::NotFound, checked_at: START, ..whole(NGINX) };
    let mut lab = lab.change(NGINX, |object| object.spec.retain = true).report("n2", &[gone]);
    assert_eq!(pins(&mut lab, "n1"), [Retained, UsedHere, UsedElsewhere, GoneUpstream, LastCopy]);
}

#[test]
fn what_a_pod_uses_by_digest_is_needed_whatever_its_tag() {
    let source = format!("docker.io/library/nginx@{DIGEST}");
    let mut lab = Lab::new(1).pod("a/1", "n1", &[&source]).report("n1", &[whole(NGINX)]).settle();
    lab.memory.tombstones.expired(Expired { image: NGINX.to_owned(), since: START }, START);
    assert_eq!(pins(&mut lab, "n1"), [UsedHere, LastCopy]);
    assert!(drops(&mut lab).is_empty());
}

#[test]
fn what_nobody_needs_has_no_pin() {
    let mut lab = Lab::new(1).report("n1", &[whole(NGINX)]).settle();
    assert!(pins(&mut lab, "n1").is_empty());
}

#[test]
fn an_image_that_expired_is_dropped_where_it_was_not_used_since() {
    let late = Held { used_at: START + 5, ..whole(NGINX) };
    let lab = Lab::new(2).image(NGINX).report("n1", &[whole(NGINX)]).report("n2", &[late]).settle();
    let mut lab = lab.after(DELAY).settle();
    assert_eq!(drops(&mut lab), [Drop { image: NGINX.to_owned(), unused_since: START }]);
    assert!(lab.desired("n2").drop.is_empty());
    let mut lab = lab.pod("a/1", "n1", &[NGINX]);
    assert!(drops(&mut lab).is_empty(), "used again");
}

#[test]
fn an_image_whose_object_somebody_deleted_is_dropped_after_a_while() {
    let lab = Lab::new(1).image(NGINX).report("n1", &[whole(NGINX)]).settle();
    let mut lab = deleted(lab, NGINX);
    assert!(drops(&mut lab).is_empty());
    assert_eq!(lab.plan().next_wakeup, START + 15);
    let mut lab = lab.after(15);
    assert_eq!(drops(&mut lab), [Drop { image: NGINX.to_owned(), unused_since: START }]);
}

#[test]
fn an_image_in_use_whose_object_somebody_deleted_is_not_dropped() {
    let lab = Lab::new(1).pod("a/1", "n1", &[NGINX]).report("n1", &[whole(NGINX)]).settle();
    let mut lab = deleted(lab, NGINX);
    assert!(drops(&mut lab).is_empty());
    let mut lab = lab.settle().after(100).settle();
    assert!(drops(&mut lab).is_empty());
    assert_eq!(lab.names(), [NGINX_NAME], "it is there again");
}

#[test]
fn a_definition_that_is_deleted_drops_nothing() {
    let mut lab = Lab::new(1).image(NGINX).image("quay.io/x/y:1").report("n1", &[whole(NGINX), whole("quay.io/x/y:1")]).settle();
    lab = deleted(deleted(lab, NGINX), "quay.io/x/y:1");
    lab.world.watches_work = false;
    assert!(drops(&mut lab).is_empty());
    // It comes back, empty.
    lab.world.watches_work = true;
    lab.world.images_steady_since = lab.now;
    let mut lab = lab.after(100 * DELAY);
    assert!(drops(&mut lab).is_empty());
}

#[test]
fn an_image_without_an_object_is_dropped_when_it_is_older_than_the_delay_and_the_watch_has_been_steady() {
    let mut lab = Lab::new(1).image("quay.io/other/image:1").report("n1", &[whole(NGINX)]).settle();
    lab.world.images_steady_since = START + DELAY - STEADY_SECONDS;
    let mut lab = lab.after(DELAY - 100).settle();
    assert!(drops(&mut lab).is_empty(), "not old enough, not steady");
    lab = lab.after(1);
    assert!(drops(&mut lab).is_empty(), "not steady");
    let mut lab = lab.after(99);
    assert_eq!(drops(&mut lab), [Drop { image: NGINX.to_owned(), unused_since: START - 100 }]);
}

#[test]
fn wishes_stay_the_same_while_nothing_changes() {
    let old = Held { used_at: 1, ..whole("docker.io/library/old:1") };
    let lab = Lab::new(3).pod("a/1", "n1", &[NGINX]).object("x", "quay.io/a/b:1", |object| object.spec.retain = true);
    let mut lab = lab.report("n1", &[whole(NGINX), old]).settle();
    let before = lab.plan().wishes;
    let mut lab = lab.after(20);
    assert!(!drops(&mut lab).is_empty());
    assert_eq!(lab.plan().wishes, before);
}

#[test]
fn an_image_that_nobody_uses_and_nobody_has_is_not_fetched() {
    let mut lab = Lab::new(3).image(NGINX).settle().after(61);
    assert!(keepers(&mut lab, NGINX).is_empty());
    let mut lab = lab.pod("a/1", "n1", &[NGINX]);
    assert_eq!(keepers(&mut lab, NGINX).len(), 1);
}

#[test]
fn an_image_that_expired_soon_after_it_was_made_is_unused_since_it_was_made() {
    let lab = Lab::new(1).image(NGINX).change(NGINX, |object| object.spec.expires_at = Some(time(START + 30)));
    let mut lab = lab.report("n1", &[whole(NGINX)]).settle().after(30).settle();
    assert_eq!(drops(&mut lab), [Drop { image: NGINX.to_owned(), unused_since: START }]);
}

#[test]
fn an_image_that_expired_with_tag_and_digest_is_dropped_as_agents_report_it() {
    let (source, held) = (format!("{NGINX}@{DIGEST}"), format!("docker.io/library/nginx@{DIGEST}"));
    let mut lab = Lab::new(1).image(&source).report("n1", &[whole(&held)]).settle().after(DELAY).settle();
    assert_eq!(drops(&mut lab), [Drop { image: held.clone(), unused_since: START }]);
    let mut lab = lab.pod("a/1", "n1", &[&source]).settle();
    assert!(drops(&mut lab).is_empty());
    assert_eq!(lab.memory.tombstones.get(&held), None, "it is there again");
}

/// The pins of a node that name a digest.
fn digest_pins(lab: &mut Lab, node: &str) -> Vec<Pin> {
    lab.desired(node).pins.into_iter().filter(|pin| pin.image.contains('@')).collect()
}

fn digest(digit: &str) -> String {
    format!("sha256:{}", digit.repeat(64))
}

#[test]
fn what_is_used_by_digest_is_pinned_where_a_node_has_something_of_its_repository() {
    let part = |digit: &str| format!("docker.io/library/nginx@{}", digest(digit));
    let lab = Lab::new(3).report("n1", &[whole(NGINX)]).report("n2", &[whole("docker.io/library/nginx-2:1")]);
    let mut lab = lab.pod("a/1", "n1", &[&part("1")]).pod("a/2", "n2", &[&format!("{NGINX}@{}", digest("2"))]);
    let pin = |digit: &str, reason| Pin { image: part(digit), reasons: vec![reason] };
    assert_eq!(digest_pins(&mut lab, "n1"), [pin("1", UsedHere), pin("2", UsedElsewhere)]);
    assert!(digest_pins(&mut lab, "n2").is_empty() && digest_pins(&mut lab, "n3").is_empty());
}

#[test]
fn a_platform_s_digest_is_ready_from_its_use_to_its_expiry_where_its_index_is_held_by_tag() {
    let source = format!("docker.io/library/nginx@{}", digest("1"));
    let part = Held { digest: digest("1"), ..whole(&source) };
    // As an agent reports it: what an index contains, while it is pinned.
    let report = |mut lab: Lab| {
        let is_pinned = digest_pins(&mut lab, "n1").iter().any(|pin| pin.image == source);
        let held = [whole(NGINX), part.clone()];
        lab.report("n1", if is_pinned { &held } else { &held[..1] }).report("n2", &[whole(NGINX)]).settle()
    };
    let lab = Lab::new(2).pod("a/0", "n2", &[NGINX]).pod("a/1", "n1", &[&source]).report("n1", &[whole(NGINX)]).settle();
    let mut lab = report(lab);
    assert_eq!(lab.status(&source).phase, Some(kuik_crd::Phase::Ready));
    assert_eq!(digest_pins(&mut lab, "n1")[0].reasons, [UsedHere, LastCopy]);
    let lab = report(report(lab.without_pod("a/1")).after(DELAY - 1));
    assert_eq!((lab.status(&source).phase, lab.expires(&source)), (Some(kuik_crd::Phase::Ready), Some(START + DELAY)));
    let mut lab = report(lab.after(1));
    assert!(lab.get(&source).is_none());
    assert!(digest_pins(&mut lab, "n1").is_empty());
    assert!(report(lab).desired("n1").drop.is_empty(), "its index is in use");
}

#[test]
fn a_digest_that_a_tag_means_is_pinned_under_that_tag() {
    let mut lab = Lab::new(1).pod("a/1", "n1", &[&format!("docker.io/library/nginx@{DIGEST}")]).report("n1", &[whole(NGINX)]).settle();
    assert!(digest_pins(&mut lab, "n1").is_empty());
    assert_eq!(pins(&mut lab, "n1"), [UsedHere, LastCopy]);
}

#[test]
fn pins_by_digest_have_a_bound_but_where_something_is_dropped() {
    let digest = |number: usize| format!("sha256:{number:064x}");
    let mut lab = Lab::new(1).report("n1", &[whole(NGINX), whole("quay.io/x/y:1")]);
    let images: Vec<String> = (0..PINS_MAX + 5).map(|number| format!("docker.io/library/nginx@{}", digest(number))).collect();
    lab = lab.pod("a/1", "n1", &images.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(digest_pins(&mut lab, "n1").len(), PINS_MAX);
    let kept = format!("quay.io/x/y@{}", digest(1));
    let mut lab = lab.pod("a/2", "n1", &[&kept]);
    lab.memory.tombstones.expired(Expired { image: "quay.io/x/y:1".to_owned(), since: START }, START);
    let pins = digest_pins(&mut lab, "n1");
    assert_eq!((pins.len(), pins[0].image.as_str()), (PINS_MAX, kept.as_str()));
}

#[test]
fn what_is_used_by_digest_is_pinned_first_where_something_of_its_repository_is_dropped() {
    let tagged = format!("docker.io/library/nginx:1@{}", digest("2"));
    let lab = Lab::new(2).image(NGINX).report("n1", &[whole(NGINX), whole("docker.io/library/nginx:old")]);
    let lab = lab.pod("a/1", "n1", &[&format!("docker.io/library/nginx@{}", digest("1"))]).pod("a/2", "n2", &[&tagged]);
    let mut lab = lab.pod("a/3", "n1", &[&format!("docker.io/library/nginx-2@{}", digest("3"))]).settle().after(DELAY).settle();
    let desired = lab.desired("n1");
    assert_eq!(desired.drop.len(), 2);
    let pin = |digit: &str, reason| Pin { image: format!("docker.io/library/nginx@{}", digest(digit)), reasons: vec![reason] };
    assert_eq!(desired.pins, [pin("1", UsedHere), pin("2", UsedElsewhere)]);
    assert!(lab.desired("n2").pins.is_empty());
}

#[test]
fn what_is_pinned_already_is_not_pinned_twice() {
    let held = format!("docker.io/library/nginx@{DIGEST}");
    let other = Held { digest: format!("sha256:{}", "1".repeat(64)), ..whole(NGINX) };
    let lab = Lab::new(1).image(NGINX).pod("a/1", "n1", &[&held]).report("n1", &[other, whole(&held)]);
    let mut lab = lab.settle().after(DELAY).settle();
    let desired = lab.desired("n1");
    assert_eq!((desired.drop.len(), desired.pins), (1, vec![Pin { image: held, reasons: vec![UsedHere, LastCopy] }]));
}
