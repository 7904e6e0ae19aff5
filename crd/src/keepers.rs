//! Which nodes keep an image: a rendezvous hash, so that everybody who knows the same nodes comes to the same answer, and a node that
//! comes or goes moves only its own share.

use std::collections::BTreeSet;

use sha2::{Digest as _, Sha256};

/// A node that may keep images.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Candidate {
    /// The node's name.
    pub node: String,
    /// The node's zone, if it has one.
    pub zone: Option<String>,
}

/// The `copies` nodes that keep `image`, the first choice first. As many zones as there are get one before any gets two.
#[must_use]
pub fn keepers<'a>(image: &str, candidates: &'a [Candidate], copies: usize) -> Vec<&'a str> {
    let mut ranked: Vec<_> = candidates.iter().map(|candidate| (weight(image, &candidate.node), candidate)).collect();
    ranked.sort_by(|a, b| b.cmp(a));
    let mut chosen: Vec<&str> = Vec::new();
    let mut rest: Vec<&Candidate> = ranked.into_iter().map(|(_, candidate)| candidate).collect();
    while chosen.len() < copies && !rest.is_empty() {
        let mut zones = BTreeSet::new();
        let mut left = Vec::new();
        for candidate in rest {
            let fresh = candidate.zone.as_deref().is_none_or(|zone| zones.insert(zone));
            if fresh && chosen.len() < copies { chosen.push(&candidate.node) } else { left.push(candidate) }
        }
        rest = left;
    }
    chosen
}

fn weight(image: &str, node: &str) -> [u8; 32] {
    Sha256::new().chain_update(image).chain_update([0]).chain_update(node).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nodes(zones: &[Option<&str>]) -> Vec<Candidate> {
        zones.iter().enumerate().map(|(i, zone)| Candidate { node: format!("node{i}"), zone: zone.map(str::to_owned) }).collect()
    }

    #[test]
    fn zones_are_spread_before_any_has_two() {
        let all = nodes(&[Some("a"), Some("a"), Some("a"), Some("b"), None]);
        for image in ["x", "y", "z", "nginx", "alpine"] {
            let two = keepers(image, &all, 2);
            let in_a = two.iter().filter(|node| ["node0", "node1", "node2"].contains(node)).count();
            assert!(in_a <= 1, "{image}: {two:?}");
            assert_eq!(keepers(image, &all, 9).len(), 5);
        }
        assert!(keepers("x", &[], 2).is_empty());
    }

    proptest! {
        #[test]
        fn a_node_that_leaves_moves_only_its_share(image in "[a-z]{1,8}", count in 3_usize..12, gone in 0_usize..12, copies in 1_usize..3) {
            let all = nodes(&vec![None; count]);
            let before = keepers(&image, &all, copies);
            let gone = format!("node{}", gone % count);
            let fewer: Vec<Candidate> = all.iter().filter(|candidate| candidate.node != gone).cloned().collect();
            let after = keepers(&image, &fewer, copies);
            for node in before.iter().filter(|node| **node != gone) {
                prop_assert!(after.contains(node));
            }
        }

        #[test]
        fn the_order_in_which_nodes_are_known_does_not_matter(image in "[a-z]{1,8}", zones in proptest::collection::vec(proptest::option::of("[ab]"), 1..9)) {
            let zones: Vec<Option<&str>> = zones.iter().map(Option::as_deref).collect();
            let all = nodes(&zones);
            let mut reversed = all.clone();
            reversed.reverse();
            prop_assert_eq!(keepers(&image, &all, 2), keepers(&image, &reversed, 2));
        }
    }
}
