//! What the control API knows of this node, and what it has to be told. Pure.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use kuik_crd::control::{Held, REPORT_MAX_IMAGES};

/// What the control API knows: of each image as much as it takes to see a change.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    known: HashMap<String, Mark>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    /// What somebody waits for: that the image is here, whole, and what upstream says of it.
    essence: u64,
    /// The times of use and of questions to upstream, which change with every pull.
    times: u64,
}

/// What is to be told.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Delta {
    pub(super) images: Vec<Held>,
    pub(super) removed: Vec<String>,
    /// More than times has changed.
    pub(super) is_essential: bool,
}

impl Ledger {
    /// What has to be told for `held` to be known.
    pub(super) fn delta(&self, held: &[Held]) -> Delta {
        let mut delta = Delta::default();
        for image in held {
            let (now, known) = (mark(image), self.known.get(&image.image));
            if known != Some(&now) {
                delta.is_essential |= known.is_none_or(|known| known.essence != now.essence);
                delta.images.push(image.clone());
            }
        }
        let here: std::collections::HashSet<&str> = held.iter().map(|image| image.image.as_str()).collect();
        delta.removed = self.known.keys().filter(|image| !here.contains(image.as_str())).cloned().collect();
        delta.removed.sort_unstable();
        delta.is_essential |= !delta.removed.is_empty();
        delta
    }

    /// `held` is known now.
    pub(super) fn settle(&mut self, held: &[Held]) {
        self.known = held.iter().map(|image| (image.image.clone(), mark(image))).collect();
    }
}

fn mark(held: &Held) -> Mark {
    let hash = |value: &dyn Fn(&mut DefaultHasher)| {
        let mut hasher = DefaultHasher::new();
        value(&mut hasher);
        hasher.finish()
    };
    Mark {
        essence: hash(&|hasher| {
            (&held.digest, held.size_bytes, held.complete, held.upstream, &held.proven, held.proven_count).hash(hasher)
        }),
        times: hash(&|hasher| (held.used_at, held.checked_at, held.validated_at).hash(hasher)),
    }
}

/// As many as a report may name: those used last.
pub(super) fn bound(mut held: Vec<Held>) -> Vec<Held> {
    if held.len() > REPORT_MAX_IMAGES {
        held.sort_by(|a, b| b.used_at.cmp(&a.used_at).then_with(|| a.image.cmp(&b.image)));
        held.truncate(REPORT_MAX_IMAGES);
    }
    held
}

#[cfg(test)]
mod tests {
    use super::*;
    use kuik_crd::control::UpstreamState;
    use std::collections::BTreeMap;

    fn mk(number: usize) -> Held {
        let image = format!("docker.io/library/app:{number}");
        Held { image, digest: format!("sha256:{number}"), size_bytes: 7, complete: true, used_at: number as u64, ..Held::default() }
    }

    fn told(delta: &Delta) -> (Vec<&str>, Vec<&str>, bool) {
        (
            delta.images.iter().map(|held| held.image.as_str()).collect(),
            delta.removed.iter().map(String::as_str).collect(),
            delta.is_essential,
        )
    }

    #[test]
    fn only_what_changed_is_told() {
        let mut ledger = Ledger::default();
        let mut held = vec![mk(1), mk(2), mk(3)];
        assert_eq!(ledger.delta(&held).images, held);
        ledger.settle(&held);
        assert_eq!(ledger.delta(&held), Delta::default());
        held[0].used_at = 99;
        assert_eq!(told(&ledger.delta(&held)), (vec!["docker.io/library/app:1"], vec![], false));
        held[1].upstream = UpstreamState::NotFound;
        assert_eq!(told(&ledger.delta(&held)), (vec!["docker.io/library/app:1", "docker.io/library/app:2"], vec![], true));
        held.remove(2);
        let delta = ledger.delta(&held);
        assert_eq!(told(&delta).1, ["docker.io/library/app:3"]);
        ledger.settle(&held);
        assert_eq!(ledger.delta(&held), Delta::default());
    }

    #[test]
    fn deltas_add_up_to_what_is_held() {
        let mut ledger = Ledger::default();
        let mut there: BTreeMap<String, Held> = BTreeMap::new();
        for round in 0..50 {
            let held: Vec<Held> = (0..20)
                .filter(|number| (number * 7 + round) % 3 != 0)
                .map(|number| Held { size_bytes: ((number + round) / 5) as u64, ..mk(number) })
                .collect();
            let delta = ledger.delta(&held);
            if round % 4 == 1 {
                // It got lost: the next one is told against what is known.
                continue;
            }
            delta.removed.iter().for_each(|image| assert!(there.remove(image).is_some()));
            there.extend(delta.images.into_iter().map(|held| (held.image.clone(), held)));
            ledger.settle(&held);
            let expected: BTreeMap<_, _> = held.into_iter().map(|held| (held.image.clone(), held)).collect();
            assert_eq!(there, expected, "round {round}");
        }
    }

    #[test]
    fn of_too_many_images_those_used_last_are_told() {
        let held = bound((0..REPORT_MAX_IMAGES + 5).map(mk).collect());
        assert_eq!(held.len(), REPORT_MAX_IMAGES);
        assert!(held.iter().all(|held| held.used_at >= 5));
        assert_eq!(bound(vec![mk(2), mk(1)]).len(), 2);
    }

    #[test]
    fn the_largest_report_is_within_its_bound() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let image = |number: usize| format!("registry.example.com:5000/{}/{number:06}@{digest}", "n".repeat(200));
        let held = (0..REPORT_MAX_IMAGES).map(|number| Held {
            image: image(number),
            digest: digest.clone(),
            size_bytes: u64::MAX,
            used_at: 1 << 40,
            checked_at: 1 << 40,
            validated_at: 1 << 40,
            ..Held::default()
        });
        let bytes = serde_json::to_vec(&held.collect::<Vec<_>>()).unwrap().len();
        assert!(bytes < kuik_crd::control::REPORT_MAX_BYTES, "{bytes}");
    }
}
