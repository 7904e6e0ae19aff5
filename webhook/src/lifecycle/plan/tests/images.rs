//! Creation, expiry, deletion.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::*;
use crate::lifecycle::world::SETTLE_SECONDS;

#[test]
fn what_a_pod_uses_gets_an_object_with_its_right_name_and_labels() {
    let lab = Lab::new(1).pod("a/1", "n1", &[NGINX]).settle();
    let object = lab.get(NGINX).unwrap();
    assert_eq!(lab.names(), [NGINX_NAME]);
    assert_eq!(object.spec, CachedImageSpec { source_image: NGINX.to_owned(), ..CachedImageSpec::default() });
    assert_eq!(object.labels()["app.kubernetes.io/managed-by"], "kube-image-keeper");
    assert_eq!(object.labels()["kuik.enix.io/repository"], "docker.io-library-nginx");
}

#[test]
fn two_images_with_one_name_get_two_objects() {
    let (one, other) = ("quay.io/a/b-c:1", "quay.io/a-b/c:1");
    let lab = Lab::new(1).pod("a/1", "n1", &[one]).settle().pod("a/2", "n1", &[other]).settle();
    let hashed = kuik_crd::object_name_hashed(&other.parse().unwrap());
    assert_eq!(lab.names(), ["quay.io-a-b-c-1", hashed.as_str()]);
    assert_eq!(lab.world.images[hashed.as_str()].spec.source_image, other);
}

#[test]
fn two_images_with_one_name_that_come_at_once_get_two_objects_in_the_end() {
    let lab = Lab::new(1).pod("a/1", "n1", &["quay.io/a/b-c:1", "quay.io/a-b/c:1"]).settle();
    assert_eq!(lab.names().len(), 2);
}

#[test]
fn an_image_that_nothing_uses_expires_after_the_delay() {
    let mut lab = Lab::new(1).image(NGINX).forget_written();
    assert_eq!(reasons(&lab.plan()), ["Expiring"]);
    let lab = lab.settle();
    assert_eq!(lab.expires(NGINX), Some(START + DELAY));
    let lab = lab.after(DELAY - 1).settle();
    assert_eq!(lab.names(), [NGINX_NAME]);
    let mut lab = lab.after(1);
    assert_eq!(reasons(&lab.plan()), ["Expired"]);
    let lab = lab.settle();
    assert!(lab.names().is_empty());
    assert_eq!(lab.written.last().unwrap(), "delete docker.io-library-nginx-1.25 (expired)");
}

#[test]
fn an_image_that_is_used_again_in_time_does_not_expire() {
    let lab = Lab::new(1).image(NGINX).settle().after(DELAY - 1).pod("a/1", "n1", &[NGINX]).settle();
    assert_eq!(lab.expires(NGINX), None);
    assert_eq!(lab.after(2 * DELAY).settle().names(), [NGINX_NAME]);
}

#[test]
fn an_image_that_has_expired_but_is_used_is_kept() {
    let lab = Lab::new(1).image(NGINX).settle().after(2 * DELAY).pod("a/1", "n1", &[NGINX]).settle();
    assert_eq!((lab.names().len(), lab.expires(NGINX)), (1, None));
}

#[test]
fn an_image_that_is_retained_does_not_expire() {
    let lab = Lab::new(1).image(NGINX).settle().change(NGINX, |object| object.spec.retain = true).after(2 * DELAY).settle();
    assert_eq!((lab.names().len(), lab.expires(NGINX)), (1, None));
}

#[test]
fn a_time_that_somebody_has_set_is_kept_to() {
    let at = START + 10;
    let lab = Lab::new(1).image(NGINX).change(NGINX, |object| object.spec.expires_at = Some(time(at))).settle();
    assert_eq!(lab.expires(NGINX), Some(at));
    assert!(lab.after(10).settle().names().is_empty());
}

#[test]
fn an_image_made_by_hand_expires_too() {
    let lab = Lab::new(1).object(NGINX_NAME, NGINX, |_| ()).settle();
    assert_eq!(lab.expires(NGINX), Some(START + DELAY));
    assert!(lab.after(DELAY).settle().names().is_empty());
}

#[test]
fn nothing_is_deleted_before_the_leader_has_heard_of_all_agents_or_while_a_watch_fails() {
    let expired = |lab: Lab| lab.image(NGINX).change(NGINX, |object| object.spec.expires_at = Some(time(START - 1)));
    let mut lab = expired(Lab::new(1));
    lab.world.watches_work = false;
    assert_eq!(lab.settle().names(), [NGINX_NAME]);

    let mut lab = expired(Lab::new(1));
    lab.world.states.clear();
    lab.world.led_since = START;
    let lab = lab.settle().after(SETTLE_SECONDS - 1).settle();
    assert_eq!(lab.names(), [NGINX_NAME]);
    assert!(lab.after(1).settle().names().is_empty());
}

#[test]
fn the_leader_wakes_when_an_image_expires_or_after_a_while() {
    let mut lab = Lab::new(1).image(NGINX).change(NGINX, |object| object.spec.expires_at = Some(time(START + 7))).settle();
    assert_eq!(lab.plan().next_wakeup, START + 7);
    let mut lab = Lab::new(1).settle();
    assert_eq!(lab.plan().next_wakeup, START + 30);
}

#[test]
fn a_finalizer_of_kuik_v1_is_removed_and_others_stay() {
    let finalizers = |object: &mut CachedImage| {
        object.metadata.finalizers = Some(vec!["cachedimage.kuik.enix.io/finalizer".to_owned(), "other.io/keep".to_owned()]);
    };
    let lab = Lab::new(1).object(NGINX_NAME, NGINX, finalizers).settle();
    assert_eq!(lab.get(NGINX).unwrap().finalizers(), ["other.io/keep"]);
}

/// An owner of v1's.
fn repository() -> OwnerReference {
    let name = "docker.io-library-nginx".to_owned();
    let uid = "0b9e4f0c".to_owned();
    OwnerReference {
        api_version: "kuik.enix.io/v1alpha1".to_owned(),
        kind: "Repository".to_owned(),
        name,
        uid,
        ..OwnerReference::default()
    }
}

#[test]
fn an_object_of_kuik_v1_is_ours_and_does_not_go_with_its_repository() {
    let others = OwnerReference { api_version: "apps/v1".to_owned(), kind: "Deployment".to_owned(), ..repository() };
    let owned = |object: &mut CachedImage| object.metadata.owner_references = Some(vec![repository(), others.clone()]);
    let held = |object: &mut CachedImage| object.metadata.finalizers = Some(vec!["cachedimage.kuik.enix.io/finalizer".to_owned()]);
    for (name, is_held) in [(NGINX_NAME, true), (NGINX_NAME, false), ("of-v1", true), ("of-v1", false)] {
        let mut lab = Lab::new(3).object(name, NGINX, owned);
        if is_held {
            lab = lab.object(name, NGINX, |object| {
                owned(object);
                held(object);
            });
        }
        let desired = lab.plan().wishes.unwrap().desired;
        assert!(desired.values().all(|desired| desired.keep.is_empty()), "not even for a moment");
        let lab = lab.settle();
        let object = lab.get(NGINX).unwrap();
        assert_eq!(object.labels()[MANAGED_BY_LABEL], MANAGED_BY);
        assert!(object.finalizers().is_empty());
        assert!(object.owner_references().iter().all(|owner| owner.kind != "Repository"));
        assert_eq!(object.owner_references().len(), usize::from(name == NGINX_NAME));
        let patches = lab.written.iter().filter(|write| write.starts_with(&format!("patch {NGINX_NAME}"))).count();
        assert_eq!(patches, 1, "{:?}", lab.written);
    }
}

#[test]
fn a_retained_object_of_kuik_v1_stays_somebodys() {
    let lab = Lab::new(1).object(NGINX_NAME, NGINX, |object| {
        object.metadata.owner_references = Some(vec![repository()]);
        object.spec.retain = true;
    });
    let lab = lab.settle();
    let object = lab.get(NGINX).unwrap();
    assert!(object.owner_references().is_empty() && !object.labels().contains_key(MANAGED_BY_LABEL));
}

#[test]
fn an_object_made_by_hand_is_not_lost_to_one_of_kuik_v1() {
    let v1 = |object: &mut CachedImage| object.metadata.owner_references = Some(vec![repository()]);
    for (v1s, mine) in [(NGINX_NAME, "my-nginx"), ("of-v1", NGINX_NAME)] {
        let lab = Lab::new(1).object(v1s, NGINX, v1).object(mine, NGINX, |_| ()).settle();
        let object = lab.get(NGINX).unwrap();
        assert_eq!(lab.names(), [NGINX_NAME]);
        assert!(object.owner_references().is_empty() && !object.labels().contains_key(MANAGED_BY_LABEL), "{v1s}");
    }
}

#[test]
fn nothing_is_written_about_copies_while_no_agent_is_ready_yet() {
    let mut lab = Lab::new(1).image(NGINX).agent("n1", false);
    lab.world.led_since = START;
    assert!(lab.plan().wishes.is_none());
    let mut lab = lab.after(SETTLE_SECONDS - 1);
    assert!(lab.plan().wishes.is_none());
    let mut lab = lab.after(1);
    assert!(lab.plan().wishes.is_some());
}

#[test]
fn an_object_that_only_kuik_v1_holds_back_goes() {
    let deleted = |object: &mut CachedImage| {
        object.metadata.finalizers = Some(vec!["cachedimage.kuik.enix.io/finalizer".to_owned()]);
        object.metadata.deletion_timestamp = Some(time(START));
    };
    assert!(Lab::new(1).object(NGINX_NAME, NGINX, deleted).settle().names().is_empty());
    assert!(Lab::new(1).object("broken", "no image at all", deleted).settle().names().is_empty());
}

#[test]
fn an_image_in_use_whose_object_is_deleted_gets_another_when_the_first_is_gone() {
    let deleted = |object: &mut CachedImage| {
        object.metadata.finalizers = Some(vec!["other.io/keep".to_owned()]);
        object.metadata.deletion_timestamp = Some(time(START));
    };
    let mut lab = Lab::new(1).pod("a/1", "n1", &[NGINX]).object(NGINX_NAME, NGINX, deleted).settle();
    assert_eq!(lab.status(NGINX).phase, Some(kuik_crd::Phase::Terminating));
    Arc::make_mut(&mut lab.world.images).clear();
    let lab = lab.settle();
    assert!(lab.get(NGINX).unwrap().metadata.deletion_timestamp.is_none());
}
