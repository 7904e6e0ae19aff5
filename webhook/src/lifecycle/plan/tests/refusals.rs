//! What people see of private images: who may have them, who was refused, and which pods are told.

use super::*;
use crate::lifecycle::plan::Telling;
use kuik_crd::control::Refused;

const PRIVATE: &str = "registry.example.com/team/app:1";

fn refused(namespace: &str, at: u64, message: &str) -> Refused {
    Refused { image: PRIVATE.to_owned(), namespace: namespace.to_owned(), at, reason: "denied".to_owned(), message: message.to_owned() }
}

impl Lab {
    /// A node reports this, besides what it has reported before.
    fn refusal(self, node: &str, refused: Refused) -> Self {
        self.state(node, |state| {
            state.refusals.insert((refused.image.clone(), refused.namespace.clone()), refused);
        })
    }

    fn proven(self, node: &str, namespaces: &[&str], count: u64) -> Self {
        let proven = namespaces.iter().map(|name| (*name).to_owned()).collect();
        self.report(node, &[Held { proven, proven_count: count, ..whole(PRIVATE) }])
    }
}

/// `NAMESPACE/POD TEXT` of what is told.
fn told(telling: &Telling) -> Vec<String> {
    let line = |(about, note): &(k8s_openapi::api::core::v1::ObjectReference, super::super::Note)| {
        assert!(note.is_warning && note.reason == "PullRefused" && about.kind.as_deref() == Some("Pod"));
        let text = |text: &Option<String>| text.clone().unwrap();
        assert_eq!(text(&about.uid), format!("uid-{}/{}", text(&about.namespace), text(&about.name)));
        format!("{}/{} {}", text(&about.namespace), text(&about.name), note.text)
    };
    telling.notes.iter().map(line).collect()
}

#[test]
fn a_status_names_the_namespaces_that_have_proven_their_right_on_any_node() {
    let lab = Lab::new(3).pod("b/1", "n1", &[PRIVATE]).proven("n1", &["b", "c"], 2).proven("n2", &["a", "b"], 2).settle();
    let proven = lab.status(PRIVATE).proven_namespaces.unwrap();
    assert_eq!((proven.count, proven.names), (3, vec!["a".to_owned(), "b".to_owned(), "c".to_owned()]));
    // A node that names twenty and counts more.
    let many: Vec<String> = (10..30).map(|i| format!("n{i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let proven = lab.proven("n3", &many, 70).settle().status(PRIVATE).proven_namespaces.unwrap();
    assert_eq!((proven.count, proven.names.len(), proven.names[3].as_str()), (70, 20, "n10"));
}

#[test]
fn a_public_image_has_no_proven_namespaces() {
    let lab = Lab::new(1).pod("a/1", "n1", &[NGINX]).report("n1", &[whole(NGINX)]).settle();
    assert_eq!((lab.status(NGINX).proven_namespaces, lab.status(NGINX).last_refusal), (None, None));
}

#[test]
fn a_status_tells_the_last_refusal_of_all_nodes_and_keeps_it() {
    let mut lab = Lab::new(2).pod("a/1", "n1", &[PRIVATE]);
    lab = lab.refusal("n1", refused("b", START + 7, "later")).refusal("n2", refused("a", START + 5, "sooner")).settle();
    let last = lab.status(PRIVATE).last_refusal.unwrap();
    assert_eq!((last.namespace.as_str(), last.reason.as_str(), last.message.as_str()), ("b", "denied", "later"));
    assert_eq!(last.at, time(START + 7));
    // The next leader, that has heard of none.
    lab = lab.state("n1", |state| state.refusals.clear()).refusal("n2", refused("a", START + 6, "sooner")).settle();
    assert_eq!(lab.status(PRIVATE).last_refusal.unwrap().message, "later");
}

#[test]
fn the_same_refusal_again_and_again_is_written_once_an_hour() {
    let mut lab = Lab::new(1).pod("a/1", "n1", &[PRIVATE]).refusal("n1", refused("a", START, "no")).settle().forget_written();
    for minutes in [5, 10, 59] {
        lab = lab.refusal("n1", refused("a", START + 60 * minutes, "no")).settle();
    }
    assert_eq!(lab.written, Vec::<String>::new());
    lab = lab.refusal("n1", refused("a", START + 3600, "no")).settle();
    assert_eq!(lab.status(PRIVATE).last_refusal.unwrap().at, time(START + 3600));
    lab = lab.refusal("n1", refused("a", START + 3601, "another reason")).settle();
    assert_eq!(lab.status(PRIVATE).last_refusal.unwrap().message, "another reason");
}

#[test]
fn the_pods_of_the_namespace_that_use_the_image_on_the_node_are_told_once_for_each_time() {
    let mut lab =
        Lab::new(2).pod("a/1", "n1", &[PRIVATE]).pod("a/2", "n1", &[NGINX]).pod("a/3", "n2", &[PRIVATE]).pod("b/1", "n1", &[PRIVATE]);
    lab = lab.refusal("n1", refused("a", START, "no"));
    let first = lab.plan().telling;
    assert_eq!((told(&first), first.reasons), (vec!["a/1 no".to_owned()], vec!["denied"]));
    assert_eq!(lab.plan().telling, Telling::default());
    lab = lab.refusal("n1", refused("a", START + 9, "no"));
    assert_eq!(told(&lab.plan().telling), ["a/1 no"]);
    // Another node, and another namespace.
    lab = lab.refusal("n2", refused("a", START, "")).refusal("n1", refused("b", START, "no"));
    let text = format!("the agent on n2 refused {PRIVATE} to the namespace a");
    assert_eq!(told(&lab.plan().telling), ["b/1 no".to_owned(), format!("a/3 {text}")]);
}

#[test]
fn five_pods_are_told_at_most() {
    let mut lab = Lab::new(1);
    for i in 0..9 {
        lab = lab.pod(&format!("a/{i}"), "n1", &[PRIVATE]);
    }
    assert_eq!(lab.refusal("n1", refused("a", START, "no")).plan().telling.notes.len(), 5);
}

#[test]
fn an_image_with_tag_and_digest_is_asked_for_by_digest() {
    let (asked, used) = (format!("registry.example.com/team/app@{DIGEST}"), format!("{PRIVATE}@{DIGEST}"));
    let mut lab = Lab::new(1).pod("a/1", "n1", &[&used]).pod("a/2", "n1", &[&format!("registry.example.com/team/other:1@{DIGEST}")]);
    lab = lab.refusal("n1", Refused { image: asked, ..refused("a", START, "no") });
    assert_eq!(told(&lab.plan().telling), ["a/1 no"]);
    assert_eq!(lab.settle().status(&used).last_refusal.unwrap().message, "no");
}

#[test]
fn words_that_we_do_not_know_are_counted_together() {
    let mut lab = Lab::new(1);
    for (at, reason) in (START..).zip(["denied", "no_secret", "no_credentials", "unavailable", "another", ""]) {
        lab = lab.refusal("n1", Refused { reason: reason.to_owned(), ..refused(&format!("n{at}"), at, "") });
    }
    assert_eq!(lab.plan().telling.reasons, ["denied", "no_secret", "no_credentials", "unavailable", "other", "other"]);
}
