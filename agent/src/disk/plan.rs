//! Which images go, in which order, and what holds the others. Pure.
//!
//! The unit is the image: a blob goes when no image references it any more. So the plan counts references, takes images from the front of the
//! queue until enough blobs have none left, and then gives back those whose going would free nothing.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::cache::Blobs;
use crate::store::ShortDigest;

/// How much an image is needed that may go. The order is that of eviction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Need {
    /// No pod uses it.
    Nowhere,
    /// Pods on other nodes use it, and other nodes hold it.
    Elsewhere,
    /// Pods on this node use it, and other nodes hold it.
    Here,
}

impl Need {
    /// The word for logs, metrics and people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nowhere => "unused",
            Self::Elsewhere => "used elsewhere",
            Self::Here => "used here",
        }
    }
}

/// Why an image does not go, whatever the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hold {
    /// Somebody pinned it here.
    Pinned,
    /// Its `CachedImage` says so.
    Retained,
    /// This node is to keep it.
    Kept,
    /// It is in use or gone upstream, and no other node would still have it.
    LastCopy,
    /// The control API has not said yet whether it is needed.
    Unknown,
    /// A manifest of its repository cannot be read, and may need any of its blobs.
    Uncertain,
    /// A part of it is on its way in.
    BeingPulled,
}

impl Hold {
    /// The word for logs, metrics and people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::Retained => "retained",
            Self::Kept => "kept",
            Self::LastCopy => "last copy",
            Self::Unknown => "not known to the control API",
            Self::Uncertain => "beside a damaged manifest",
            Self::BeingPulled => "being pulled",
        }
    }
}

/// An image as the plan sees it.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// How much it is needed, or why it stays.
    pub standing: Result<Need, Hold>,
    /// Seconds since 1970.
    pub used_at: u64,
    /// What it references, each once.
    pub blobs: Blobs,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Places of candidates that go, the first first.
    pub evict: Vec<usize>,
    /// What then has no reference left, in bytes.
    pub freed_bytes: u64,
    /// What is still missing when everything that may go has gone, in bytes.
    pub missing_bytes: u64,
}

/// Picks images until `to_free` bytes have no reference left.
///
/// Needed nowhere before elsewhere before here; within that the longest unused first, and of those the larger first. What must stay stays,
/// with every blob that it shares.
#[must_use]
pub fn plan(candidates: &[Candidate], to_free: u64) -> Plan {
    if to_free == 0 {
        return Plan::default();
    }
    let mut references: HashMap<ShortDigest, u32> = HashMap::with_capacity(candidates.iter().map(|candidate| candidate.blobs.len()).sum());
    for (digest, _) in candidates.iter().flat_map(|candidate| candidate.blobs.iter()) {
        *references.entry(*digest).or_default() += 1;
    }
    let mut plan = Plan::default();
    for at in queue(candidates) {
        if plan.freed_bytes >= to_free {
            break;
        }
        plan.evict.push(at);
        for (digest, bytes) in candidates[at].blobs.iter() {
            let left = references.entry(*digest).or_default();
            *left = left.saturating_sub(1);
            if *left == 0 {
                plan.freed_bytes += bytes;
            }
        }
    }
    // One that shares all that it has with what stays would be lost for nothing.
    plan.evict.retain(|at| candidates[*at].blobs.iter().any(|(digest, bytes)| *bytes > 0 && references.get(digest) == Some(&0)));
    plan.missing_bytes = to_free.saturating_sub(plan.freed_bytes);
    plan
}

/// What may go, in order.
fn queue(candidates: &[Candidate]) -> Vec<usize> {
    let size = |candidate: &Candidate| candidate.blobs.iter().map(|(_, bytes)| bytes).sum::<u64>();
    let may_go = candidates.iter().enumerate().filter_map(|(at, candidate)| {
        let need = candidate.standing.ok()?;
        Some((need, candidate.used_at, Reverse(size(candidate)), at))
    });
    let mut queue: Vec<_> = may_go.collect();
    queue.sort_unstable();
    queue.into_iter().map(|(.., at)| at).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::oci::{Algorithm, Digest};

    fn short(number: u64) -> ShortDigest {
        (&Digest::from_bytes(Algorithm::Sha256, &[number.to_le_bytes(); 4].concat()).unwrap()).into()
    }

    /// Blob `n` has `10 + n` bytes.
    fn mk(standing: Result<Need, Hold>, used_at: u64, blobs: &[u64]) -> Candidate {
        Candidate { standing, used_at, blobs: blobs.iter().map(|number| (short(*number), 10 + number)).collect() }
    }

    #[test]
    fn the_order_is_need_then_last_use_then_size() {
        let candidates = [
            mk(Ok(Need::Here), 1, &[1]),
            mk(Ok(Need::Elsewhere), 1, &[2]),
            mk(Ok(Need::Nowhere), 9, &[3]),
            mk(Ok(Need::Nowhere), 5, &[4]),
            mk(Ok(Need::Nowhere), 5, &[5]),
            mk(Err(Hold::Retained), 0, &[6]),
        ];
        let all = plan(&candidates, 1000);
        assert_eq!(all.evict, [4, 3, 2, 1, 0]);
        assert_eq!((all.freed_bytes, all.missing_bytes), (15 + 14 + 13 + 12 + 11, 1000 - 65));
        assert_eq!(plan(&candidates, 20).evict, [4, 3]);
        assert_eq!(plan(&candidates, 0), Plan::default());
    }

    #[test]
    fn what_is_shared_goes_with_the_last_that_has_it() {
        let both = [mk(Ok(Need::Nowhere), 1, &[1, 2]), mk(Ok(Need::Nowhere), 2, &[1, 3])];
        assert_eq!(plan(&both, 1), Plan { evict: vec![0], freed_bytes: 12, missing_bytes: 0 });
        assert_eq!(plan(&both, 13), Plan { evict: vec![0, 1], freed_bytes: 11 + 12 + 13, missing_bytes: 0 });
    }

    #[test]
    fn what_would_free_nothing_stays() {
        // The same image under two names, one of them held; and two names that both may go.
        let held = [mk(Ok(Need::Nowhere), 1, &[1]), mk(Err(Hold::LastCopy), 2, &[1])];
        assert_eq!(plan(&held, 5), Plan { evict: vec![], freed_bytes: 0, missing_bytes: 5 });
        let free = [mk(Ok(Need::Nowhere), 1, &[1]), mk(Ok(Need::Nowhere), 2, &[1])];
        assert_eq!(plan(&free, 5).evict, [0, 1]);
    }

    fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
        let needs = [Ok(Need::Nowhere), Ok(Need::Elsewhere), Ok(Need::Here)];
        let holds = [Hold::Pinned, Hold::Retained, Hold::Kept, Hold::LastCopy, Hold::Unknown, Hold::Uncertain, Hold::BeingPulled].map(Err);
        let standing = prop::sample::select([&needs[..], &holds[..], &needs[..]].concat());
        let one = (standing, 0..20_u64, prop::collection::btree_set(0..30_u64, 0..6));
        prop::collection::vec(one, 0..25).prop_map(|all| {
            let make = |(standing, used_at, blobs): (_, _, BTreeSet<u64>)| mk(standing, used_at, &blobs.into_iter().collect::<Vec<_>>());
            all.into_iter().map(make).collect()
        })
    }

    proptest! {
        #[test]
        fn a_plan_frees_what_it_says_and_nothing_that_is_needed(candidates in candidates(), to_free in 0..600_u64) {
            let plan = plan(&candidates, to_free);
            let goes: BTreeSet<usize> = plan.evict.iter().copied().collect();
            prop_assert_eq!(goes.len(), plan.evict.len(), "nothing goes twice");
            prop_assert!(goes.iter().all(|at| candidates[*at].standing.is_ok()), "what is held stays");
            let of = |at: &usize| candidates[*at].blobs.iter().copied();
            let needed: BTreeMap<_, _> = (0..candidates.len()).filter(|at| !goes.contains(at)).flat_map(|at| of(&at)).map(|(d, b)| (format!("{d:?}"), b)).collect();
            let gone: BTreeMap<_, _> = goes.iter().flat_map(of).map(|(d, b)| (format!("{d:?}"), b)).collect();
            let freed: u64 = gone.iter().filter(|(digest, _)| !needed.contains_key(*digest)).map(|(_, bytes)| bytes).sum();
            prop_assert_eq!(freed, plan.freed_bytes, "no blob of what stays is counted, and each once");
            prop_assert_eq!(plan.missing_bytes, to_free.saturating_sub(freed));
        }

        #[test]
        fn a_plan_makes_progress_or_nothing_can_go(candidates in candidates(), to_free in 1..600_u64) {
            let made = plan(&candidates, to_free);
            if made.missing_bytes > 0 {
                // All that may go would not free more than this plan does.
                let all = plan(&candidates, u64::MAX);
                prop_assert_eq!(all.freed_bytes, made.freed_bytes);
            }
            // One image less, from the back of the queue, would not have been enough.
            if let Some(last) = made.evict.last().filter(|_| made.missing_bytes == 0) {
                let without: Vec<Candidate> = candidates.iter().enumerate().map(|(at, candidate)| {
                    let standing = if at == *last { Err(Hold::Pinned) } else { candidate.standing };
                    let goes = made.evict.contains(&at) || at == *last;
                    Candidate { standing: if goes { standing } else { Err(Hold::Pinned) }, ..candidate.clone() }
                }).collect();
                prop_assert!(plan(&without, to_free).freed_bytes < to_free);
            }
        }

        #[test]
        fn nothing_goes_before_what_is_needed_less(candidates in candidates(), to_free in 1..600_u64) {
            let made = plan(&candidates, to_free);
            let key = |at: &usize| (candidates[*at].standing.ok(), candidates[*at].used_at);
            prop_assert!(made.evict.windows(2).all(|pair| key(&pair[0]) <= key(&pair[1])));
            // Whatever was passed over would have freed nothing alone.
            if let Some(last) = made.evict.last() {
                let goes: BTreeSet<usize> = made.evict.iter().copied().collect();
                for at in (0..candidates.len()).filter(|at| !goes.contains(at) && candidates[*at].standing.is_ok() && key(at) < key(last)) {
                    let others: BTreeSet<String> = (0..candidates.len()).filter(|other| *other != at && !goes.contains(other))
                        .flat_map(|other| candidates[other].blobs.iter().map(|(digest, _)| format!("{digest:?}")).collect::<Vec<_>>()).collect();
                    let shares_all = candidates[at].blobs.iter().all(|(digest, _)| others.contains(&format!("{digest:?}")));
                    prop_assert!(shares_all);
                }
            }
        }
    }
}
