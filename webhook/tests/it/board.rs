//! Reports are put together: deltas applied in order say what one full report says.

use std::collections::BTreeMap;

use kuik_crd::PullKey;
use kuik_crd::control::{Desired, Finding, Held, REPORT_MAX_IMAGES, Refused, Report};
use kuik_webhook::board::{Board, Leadership, Wishes};
use proptest::prelude::*;

const NODE: &str = "node1";

/// What happens to an image between two reports.
#[derive(Debug, Clone)]
enum Change {
    Put(u8, u64),
    Remove(u8),
}

fn changes() -> impl Strategy<Value = Vec<Vec<Change>>> {
    let change =
        prop_oneof![(0..20_u8, any::<u64>()).prop_map(|(image, size)| Change::Put(image, size)), (0..20_u8).prop_map(Change::Remove)];
    prop::collection::vec(prop::collection::vec(change, 0..8), 0..12)
}

fn mk(image: u8, size: u64) -> Held {
    Held { image: format!("image-{image}"), size_bytes: size, ..Held::default() }
}

fn report(sequence: u64, full: bool, images: impl IntoIterator<Item = Held>, removed: Vec<String>) -> Report {
    Report { boot: "boot".to_owned(), sequence, full, images: images.into_iter().collect(), removed, ..Report::default() }
}

proptest! {
    #[test]
    fn deltas_in_order_are_one_full_report(steps in changes()) {
        let (by_deltas, by_one) = (Board::default(), Board::default());
        let mut now = BTreeMap::new();
        by_deltas.report(NODE, report(1, true, [], Vec::new()), 1);
        let mut sequence = 1;
        for step in steps {
            let before = now.clone();
            for change in step {
                match change {
                    Change::Put(image, size) => _ = now.insert(image, size),
                    Change::Remove(image) => _ = now.remove(&image),
                }
            }
            let changed = now.iter().filter(|(image, size)| before.get(*image) != Some(*size)).map(|(image, size)| mk(*image, *size));
            let removed = before.keys().filter(|image| !now.contains_key(*image)).map(|image| format!("image-{image}")).collect();
            sequence += 1;
            prop_assert!(!by_deltas.report(NODE, report(sequence, false, changed, removed), 1).full_wanted);
        }
        by_one.report(NODE, report(sequence, true, now.into_iter().map(|(image, size)| mk(image, size)), Vec::new()), 1);
        prop_assert_eq!(by_deltas.nodes_now(), by_one.nodes_now());
    }
}

#[test]
fn a_change_is_told_and_a_repetition_is_not() {
    let board = Board::default();
    let mut reported = board.reported();
    board.report(NODE, report(1, true, [mk(1, 1)], Vec::new()), 1);
    assert!(reported.has_changed().unwrap(), "a new node");
    reported.mark_unchanged();
    board.report(NODE, report(2, true, [mk(1, 1)], Vec::new()), 11);
    assert!(!reported.has_changed().unwrap(), "the same again");
    assert_eq!(board.nodes_now()[NODE].received_at, 11);
    board.report(NODE, report(3, false, [mk(1, 2)], Vec::new()), 21);
    assert!(reported.has_changed().unwrap(), "another size");
}

#[test]
fn findings_stay_until_newer_ones_come_and_are_bounded() {
    let board = Board::default();
    let finding = |image: String, at, error: Option<&str>| Finding { image, at, error: error.map(ToOwned::to_owned) };
    let with = |sequence, findings| Report { findings, ..report(sequence, true, [], Vec::new()) };
    board.report(NODE, with(1, vec![finding("a".to_owned(), 1, Some("no"))]), 1);
    board.report(NODE, with(2, Vec::new()), 1);
    assert_eq!(board.nodes_now()[NODE].findings["a"].error.as_deref(), Some("no"));
    board.report(NODE, with(3, vec![finding("a".to_owned(), 2, None)]), 1);
    assert_eq!(board.nodes_now()[NODE].findings["a"].error, None);
    board.report(NODE, with(4, (0..REPORT_MAX_IMAGES).map(|nth| finding(format!("image-{nth}"), 3, None)).collect()), 1);
    let findings = &board.nodes_now()[NODE].findings;
    assert_eq!(findings.len(), REPORT_MAX_IMAGES);
    assert!(!findings.contains_key("a"), "the oldest goes");
}

#[test]
fn refusals_are_kept_by_image_and_namespace_the_latest_of_each_and_are_bounded() {
    let board = Board::default();
    let refused = |image: String, namespace: &str, at| Refused { image, namespace: namespace.to_owned(), at, ..Refused::default() };
    let with = |sequence, refusals| Report { refusals, ..report(sequence, true, [], Vec::new()) };
    board.report(NODE, with(1, vec![refused("a".to_owned(), "x", 1), refused("a".to_owned(), "y", 2)]), 1);
    let mut reported = board.reported();
    reported.mark_unchanged();
    board.report(NODE, with(2, vec![refused("a".to_owned(), "x", 3)]), 1);
    assert!(reported.has_changed().unwrap());
    let kept = |board: &Board| board.nodes_now()[NODE].refusals.values().map(|one| (one.namespace.clone(), one.at)).collect::<Vec<_>>();
    assert_eq!(kept(&board), [("x".to_owned(), 3), ("y".to_owned(), 2)]);
    for nth in 0..50 {
        board.report(NODE, with(3 + nth, (0..100).map(|i| refused(format!("{nth}-{i}"), "z", 10 + nth)).collect()), 1);
    }
    let all = kept(&board);
    assert_eq!((all.len(), all.iter().map(|(_, at)| *at).min()), (1000, Some(50)));
    board.retain_refusals(|refused| refused.at > 55);
    assert_eq!(kept(&board).len(), 400);
}

#[test]
fn keys_are_published_by_who_leads_for_as_long_as_it_leads() {
    let (board, keys) = (Board::default(), [PullKey { id: "k".to_owned(), public_key: "p".to_owned() }]);
    assert!(!board.publish_pull_keys(&keys), "nobody leads");
    board.lead(Leadership::Us);
    assert!(!board.publish_pull_keys(&keys), "agents are told nothing yet");
    board.wish(Some(Wishes { desired: [(NODE.to_owned(), Desired::default())].into(), ..Wishes::default() }));
    let told = board.wishes().borrow().clone().unwrap();
    assert_eq!((told.pull_keys.as_deref(), &told.desired[NODE].pull_keys[..]), (Some(&keys[..]), &keys[..]));
    let mut wishes = board.wishes();
    wishes.mark_unchanged();
    assert!(board.publish_pull_keys(&keys) && !wishes.has_changed().unwrap(), "the same again");
    assert!(board.publish_pull_keys(&[]) && wishes.has_changed().unwrap());
    board.publish_pull_keys(&keys);
    board.lead(Leadership::Unknown);
    board.lead(Leadership::Us);
    board.wish(Some(Wishes::default()));
    assert_eq!(board.wishes().borrow().as_ref().unwrap().pull_keys, None, "what another time has left");
}

#[test]
fn who_begins_to_lead_begins_without_what_was() {
    let board = Board::default();
    board.lead(Leadership::Us);
    board.wish(Some(Wishes::default()));
    board.report(NODE, report(1, true, [mk(1, 1)], Vec::new()), 1);
    board.lead(Leadership::Us);
    assert_eq!(board.nodes_now().len(), 1, "to go on leading changes nothing");
    board.lead(Leadership::Other("10.0.0.2".parse().unwrap()));
    assert!(board.nodes_now().is_empty() && board.wishes().borrow().is_none());
    // One that was on its way.
    board.report(NODE, report(2, true, [mk(1, 1)], Vec::new()), 1);
    board.lead(Leadership::Us);
    assert!(board.nodes_now().is_empty());
}

#[test]
fn nodes_that_the_cluster_does_not_have_are_forgotten() {
    let board = Board::default();
    for node in ["node1", "node2"] {
        board.report(node, report(1, true, [], Vec::new()), 1);
    }
    board.retain_nodes(|node| node == "node2");
    assert_eq!(board.nodes_now().keys().collect::<Vec<_>>(), ["node2"]);
}
