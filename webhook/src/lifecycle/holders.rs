//! Which node holds on to an image that is needed. Of several that have it as a whole any could be spared, so that all might let go at
//! once: one is chosen, and must not.
//!
//! ```text
//!  chosen ──the node has heard of it──▶ the others may let go ──the node has it no more──▶ another is chosen
//! ```
//! The choice stays while its node has the image, whoever else gets it: a choice that moves could cross the news of it on its way, and
//! while the second does not know yet that it must hold on, the first knows already that it need not. So all hold on until the node has
//! reported well after it was chosen; a new leader, who knows of no choice, begins with this.

use std::collections::HashMap;

use kuik_crd::control::LONG_POLL_SECONDS;
use kuik_crd::{Candidate, keepers};

/// A node has heard that it was chosen when it reports this much later, in seconds: it polls all the time, and reports over the same way.
pub(super) const HEARD_SECONDS: u64 = 2 * LONG_POLL_SECONDS;

/// The choices, by normalised reference.
#[derive(Debug, Default)]
pub(super) struct Holders {
    chosen: HashMap<String, Vec<Holder>>,
    /// Counts the plans.
    round: u64,
}

/// A choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    digest: String,
    /// The processor of the nodes among which it was chosen.
    arch: String,
    pub(super) node: String,
    /// When it was chosen, in seconds since 1970.
    since: u64,
    /// The last plan that asked for it.
    round: u64,
}

impl Holder {
    /// Whether the node knows that it was chosen, if it reported last at this time.
    pub(super) fn has_heard(&self, received_at: u64) -> bool {
        received_at >= self.since + HEARD_SECONDS
    }
}

impl Holders {
    /// Another plan begins.
    pub(super) fn begin(&mut self) {
        self.round += 1;
    }

    /// The one of `nodes`, all of one architecture, that holds on to an image; nothing if there is none.
    pub(super) fn choose(&mut self, text: &str, (digest, arch): (&str, &str), nodes: &[&str], now: u64) -> Option<&Holder> {
        if !self.chosen.contains_key(text) {
            self.chosen.insert(text.to_owned(), Vec::with_capacity(1));
        }
        let of_image = self.chosen.get_mut(text)?;
        let place = of_image.iter().position(|holder| holder.digest == digest && holder.arch == arch).unwrap_or(of_image.len());
        if place == of_image.len() {
            of_image.push(Holder { digest: digest.to_owned(), arch: arch.to_owned(), node: String::new(), since: now, round: 0 });
        }
        let holder = &mut of_image[place];
        if !nodes.contains(&holder.node.as_str()) {
            (holder.node, holder.since) = (first_choice(text, nodes)?, now);
        }
        holder.round = self.round;
        Some(holder)
    }

    /// Forgets what the plan has not asked for: nobody needs it any more, or nobody has it.
    pub(super) fn forget_others(&mut self) {
        self.chosen.retain(|_, of_image| {
            of_image.retain(|holder| holder.round == self.round);
            !of_image.is_empty()
        });
    }
}

/// The first of the nodes by the hash that keepers are chosen with: whoever keeps the image is asked to hold on to it, too, if it can.
fn first_choice(text: &str, nodes: &[&str]) -> Option<String> {
    let candidates: Vec<Candidate> = nodes.iter().map(|node| Candidate { node: (*node).to_owned(), zone: None }).collect();
    keepers(text, &candidates, 1).first().map(|node| (*node).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [&str; 4] = ["n1", "n2", "n3", "n4"];

    fn choose(holders: &mut Holders, nodes: &[&str], now: u64) -> Option<String> {
        holders.begin();
        let chosen = holders.choose("image", ("digest", ""), nodes, now).map(|holder| holder.node.clone());
        holders.forget_others();
        chosen
    }

    #[test]
    fn the_first_choice_is_that_of_keepers_and_the_same_for_every_leader() {
        let candidates = ALL.map(|node| Candidate { node: node.to_owned(), zone: None });
        let expected = keepers("image", &candidates, 1)[0].to_owned();
        for _ in 0..2 {
            assert_eq!(choose(&mut Holders::default(), &ALL, 5), Some(expected.clone()));
        }
        assert_eq!(choose(&mut Holders::default(), &[], 5), None);
    }

    #[test]
    fn a_choice_stays_while_its_node_has_the_image_whoever_gets_it() {
        for first in ALL {
            let mut holders = Holders::default();
            assert_eq!(choose(&mut holders, &[first], 5).as_deref(), Some(first));
            assert_eq!(choose(&mut holders, &ALL, 6).as_deref(), Some(first));
            let others: Vec<&str> = ALL.into_iter().filter(|node| *node != first).collect();
            let second = choose(&mut holders, &others, 7).unwrap();
            assert_ne!(second, first);
            assert_eq!(choose(&mut holders, &ALL, 8), Some(second), "it came back too late");
        }
    }

    #[test]
    fn a_node_has_heard_of_it_when_it_reports_well_after_it_was_chosen() {
        let mut holders = Holders::default();
        for (nodes, now) in [(["n1", "n3"], 1000), (["n1", "n3"], 1010), (["n2", "n4"], 1020), (["n2", "n4"], 1100)] {
            choose(&mut holders, &nodes, now);
        }
        holders.begin();
        let holder = holders.choose("image", ("digest", ""), &["n2", "n4"], 2000).unwrap();
        assert!(!holder.has_heard(1020 + HEARD_SECONDS - 1) && holder.has_heard(1020 + HEARD_SECONDS));
    }

    #[test]
    fn each_digest_of_a_tag_has_its_own_and_what_nobody_asks_for_is_forgotten() {
        let mut holders = Holders::default();
        holders.begin();
        holders.choose("image", ("old", ""), &["n1"], 5);
        holders.choose("image", ("new", ""), &["n2"], 5);
        holders.choose("other", ("old", ""), &["n3"], 5);
        holders.choose("nobody's", ("old", ""), &[], 5);
        holders.forget_others();
        assert_eq!(holders.chosen.values().map(Vec::len).sum::<usize>(), 3);
        assert_eq!(holders.choose("image", ("old", ""), &ALL, 6).unwrap().node, "n1");
        assert_eq!(holders.choose("image", ("new", ""), &ALL, 6).unwrap().node, "n2");
        holders.begin();
        holders.choose("image", ("new", ""), &ALL, 7);
        holders.forget_others();
        assert_eq!(holders.chosen.iter().map(|(text, of_image)| (text.as_str(), of_image.len())).collect::<Vec<_>>(), [("image", 1)]);
    }
}
