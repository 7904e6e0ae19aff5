//! Which copies of an image are held as if each were the last.

use super::wishes::{keepers, pins};
use super::*;
use crate::lifecycle::holders::HEARD_SECONDS;
use crate::lifecycle::world::SILENT_SECONDS;
use kuik_crd::control::PinReason::LastCopy;

/// The nodes whose copy of an image is to be held as if it were the last.
fn holding(lab: &mut Lab, image: &str) -> Vec<String> {
    let desired = lab.plan().wishes.expect("there must be wishes").desired;
    let holds = |desired: &Desired| desired.pins.iter().any(|pin| pin.image == image && pin.reasons.contains(&LastCopy));
    desired.into_iter().filter(|(_, desired)| holds(desired)).map(|(node, _)| node).collect()
}

/// Every node holds the image as a whole.
fn held_by_all(mut lab: Lab, held: &Held) -> Lab {
    let nodes: Vec<String> = lab.world.nodes.keys().map(ToString::to_string).collect();
    for node in nodes {
        lab = lab.report(&node, std::slice::from_ref(held));
    }
    lab
}

#[test]
fn of_the_copies_of_a_needed_image_one_is_held() {
    let gone = Held { upstream: UpstreamState::NotFound, ..whole(NGINX) };
    let used = held_by_all(Lab::new(4), &whole(NGINX)).pod("a/1", "n1", &[NGINX]);
    let waiting = held_by_all(Lab::new(4), &whole(NGINX)).pod("a/1", "", &[NGINX]);
    let gone = held_by_all(Lab::new(4), &gone).image(NGINX);
    let retained = held_by_all(Lab::new(4), &whole(NGINX)).image(NGINX).change(NGINX, |object| object.spec.retain = true);
    let by_digest = format!("docker.io/library/nginx@{DIGEST}");
    let by_digest = held_by_all(Lab::new(4), &whole(NGINX)).pod("a/1", "n1", &[&by_digest]);
    for lab in [used, waiting, gone, retained, by_digest] {
        let mut lab = lab.settle().after(HEARD_SECONDS);
        assert_eq!(holding(&mut lab, NGINX).len(), 1);
    }
    let mut spare = held_by_all(Lab::new(4), &whole(NGINX)).image(NGINX).settle().after(HEARD_SECONDS);
    assert!(holding(&mut spare, NGINX).is_empty(), "a registry has it, and nobody misses it");
    let lab = spare.report("n1", &[]).report("n2", &[]).report("n4", &[part(NGINX)]);
    assert_eq!(holding(&mut { lab }, NGINX), ["n3"], "but that is the last");
}

#[test]
fn of_each_architecture_one_copy_is_held() {
    let mut lab = held_by_all(Lab::new(4), &whole(NGINX)).pod("a/1", "n1", &[NGINX]);
    for node in ["n3", "n4"] {
        let mut info = NodeInfo::clone(&lab.world.nodes[node]);
        info.arch = Some("arm64".to_owned());
        Arc::make_mut(&mut lab.world.nodes).insert(node.into(), Arc::new(info));
    }
    let mut lab = lab.settle().after(HEARD_SECONDS);
    let held = holding(&mut lab, NGINX);
    let arm = held.iter().filter(|node| ["n3", "n4"].contains(&node.as_str())).count();
    assert_eq!((held.len(), arm), (2, 1), "{held:?}");
}

#[test]
fn the_node_that_holds_on_stays_the_same_until_it_has_the_image_no_more() {
    for first in ["n1", "n2", "n3"] {
        let lab = Lab::new(3).pod("a/1", "n1", &[NGINX]).report(first, &[whole(NGINX)]).settle();
        let mut lab = held_by_all(lab.after(HEARD_SECONDS), &whole(NGINX)).settle();
        assert_eq!(holding(&mut lab, NGINX), [first]);
        let mut lab = lab.report(first, &[part(NGINX)]);
        let others = holding(&mut lab, NGINX);
        assert_eq!(others.len(), 2, "neither may let go before the one that is chosen has heard of it");
        let mut lab = lab.after(HEARD_SECONDS);
        let second = holding(&mut lab, NGINX);
        assert!(second.len() == 1 && others.contains(&second[0]), "{others:?} {second:?}");
        assert_eq!(holding(&mut lab.report(first, &[whole(NGINX)]), NGINX), second);
    }
}

#[test]
fn all_hold_on_while_the_chosen_node_may_not_have_heard_of_it_and_under_a_new_leader() {
    let mut lab = held_by_all(Lab::new(3), &whole(NGINX)).pod("a/1", "n1", &[NGINX]).settle();
    assert_eq!(holding(&mut lab, NGINX).len(), 3);
    let mut lab = lab.after(HEARD_SECONDS - 1);
    assert_eq!(holding(&mut lab, NGINX).len(), 3);
    let mut lab = lab.after(1);
    let chosen = holding(&mut lab, NGINX);
    assert_eq!(chosen.len(), 1);
    lab.memory = Memory::default();
    assert_eq!(holding(&mut lab, NGINX).len(), 3);
    // It is ready, but its reports do not arrive.
    lab.now += HEARD_SECONDS;
    assert_eq!(holding(&mut lab, NGINX).len(), 3);
    let mut lab = lab.state(&chosen[0], |_| ());
    assert_eq!(holding(&mut lab, NGINX), chosen);
}

#[test]
fn another_node_holds_on_when_the_first_falls_silent() {
    let lab = Lab::new(2).pod("a/1", "n1", &[NGINX]).report("n1", &[whole(NGINX)]).settle();
    let lab = held_by_all(lab.after(HEARD_SECONDS), &whole(NGINX)).settle();
    let mut lab = lab.agent("n1", false).after(SILENT_SECONDS);
    assert_eq!(holding(&mut lab, NGINX), ["n1"], "its agent may be restarting");
    let mut lab = lab.after(1);
    assert_eq!(holding(&mut lab, NGINX), ["n2"]);
    let mut lab = lab.after(HEARD_SECONDS).agent("n1", true).report("n1", &[whole(NGINX)]);
    assert_eq!(holding(&mut lab, NGINX), ["n2"], "the first may have let go meanwhile");
}

#[test]
fn what_is_kept_for_nobody_is_pinned_as_anything_else_is() {
    let mut lab = held_by_all(Lab::new(3), &whole(NGINX)).object(NGINX_NAME, NGINX, |_| ()).settle();
    assert_eq!(keepers(&mut lab, NGINX).len(), 2);
    assert!(["n1", "n2", "n3"].iter().all(|node| pins(&mut lab, node).is_empty()), "to keep it is wish enough");
}
