//! Objects with other names than their image's, and objects for no image.

use super::*;
use crate::lifecycle::plan::Note;

#[test]
fn an_object_with_another_name_is_replaced_by_one_like_it_with_the_right_name() {
    let mine = |object: &mut CachedImage| {
        object.spec.retain = true;
        object.labels_mut().insert("team".to_owned(), "shop".to_owned());
        object.annotations_mut().insert("why".to_owned(), "because".to_owned());
        object.annotations_mut().insert("kubectl.kubernetes.io/last-applied-configuration".to_owned(), "{}".to_owned());
    };
    let mut lab = Lab::new(1).object("my-nginx", "nginx:1.25", mine);
    assert_eq!(reasons(&lab.plan()), ["Renamed"]);
    let lab = lab.settle();
    let object = lab.get(NGINX).unwrap();
    assert_eq!(lab.names(), [NGINX_NAME]);
    assert!(object.spec.retain && object.spec.source_image == "nginx:1.25");
    assert_eq!((object.labels()["team"].as_str(), object.annotations().len()), ("shop", 1));
    let writes: Vec<&String> = lab.written.iter().filter(|write| !write.contains("node cache")).collect();
    assert_eq!(writes[..2], [&format!("create {NGINX_NAME}"), "delete my-nginx"], "in this order");
}

#[test]
fn what_another_object_for_the_same_image_asks_for_is_not_lost() {
    let lab = Lab::new(1).image(NGINX).object("my-nginx", NGINX, |object| object.spec.retain = true).settle();
    let object = lab.get(NGINX).unwrap();
    assert_eq!(lab.names(), [NGINX_NAME]);
    assert!(object.spec.retain);
    assert!(!object.labels().contains_key(MANAGED_BY_LABEL), "it is somebody's now");
}

#[test]
fn a_right_name_in_another_spelling_of_the_image_stays() {
    let lab = Lab::new(1).object(NGINX_NAME, "nginx:1.25", |_| ()).pod("a/1", "n1", &[NGINX]).settle();
    assert_eq!(lab.names(), [NGINX_NAME]);
    assert_eq!(lab.get(NGINX).unwrap().spec.source_image, "nginx:1.25");
}

#[test]
fn an_object_that_sits_on_the_name_of_another_image_makes_room_in_the_end() {
    let lab = Lab::new(1).object(NGINX_NAME, "alpine:3", |_| ()).pod("a/1", "n1", &[NGINX]).settle();
    let mut sources: Vec<_> = lab.world.images.values().map(|object| object.spec.source_image.as_str()).collect();
    sources.sort_unstable();
    assert_eq!(sources, ["alpine:3", NGINX]);
    assert!(lab.names().contains(&"docker.io-library-alpine-3"));
}

#[test]
fn an_object_for_no_image_says_so_once_and_stays() {
    let mut lab = Lab::new(1).object("broken", "UPPER/case:1", |_| ());
    let plan = lab.plan();
    let Note { is_warning, reason, text } = &plan.steps[0].notes[0];
    assert!(*is_warning && *reason == "CacheFailed" && text.contains("UPPER/case:1"), "{text}");
    let mut lab = lab.settle();
    let status = lab.world.images["broken"].status.clone().unwrap();
    assert_eq!((status.conditions[0].reason.as_str(), status.phase), ("InvalidSourceImage", Some(kuik_crd::Phase::ErrImagePull)));
    assert!(lab.plan().steps.is_empty());
    assert!(lab.after(100 * DELAY).settle().names() == ["broken"]);
}

#[test]
fn the_label_of_the_repository_is_added_where_it_is_missing() {
    let lab = Lab::new(1).object(NGINX_NAME, NGINX, |object| object.labels_mut().clear()).settle();
    assert_eq!(lab.get(NGINX).unwrap().labels()["kuik.enix.io/repository"], "docker.io-library-nginx");
}
