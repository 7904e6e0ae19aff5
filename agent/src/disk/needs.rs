//! How much each image is needed: what the control API said last, what somebody pinned here, and what is on its way in. Pure.

use std::collections::{BTreeSet, HashMap, HashSet};

use kuik_crd::control::{Desired, PinReason};

use super::plan::{Hold, Need};
use crate::cache::Holding;
use crate::oci::{Digest, Image, Repository};
use crate::store::{ShortDigest, UpstreamStatus};

/// An image that was used on this node counts as needed until the control API has had so long to say so, in seconds.
const LAG_SECONDS: u64 = 30;

/// What is known of who needs what.
#[derive(Debug, Default)]
pub struct Needs {
    /// `None` for an agent on its own.
    cluster: Option<Cluster>,
    /// Images that somebody pinned here; `None` if that cannot be known.
    pinned: Option<BTreeSet<String>>,
    /// Those of them that were pinned by digest: whatever has that digest is pinned.
    pinned_digests: HashSet<(Repository, Digest)>,
    /// Blobs that are being fetched.
    filling: HashSet<ShortDigest>,
}

/// What the control API said.
#[derive(Debug, Default)]
struct Cluster {
    /// It has judged all that this node reported, now or in an earlier life of this agent.
    judged: bool,
    pins: HashMap<String, Vec<PinReason>>,
    keep: HashSet<String>,
    /// Needed by digest, whatever the image that has it is called here.
    digests: HashSet<(Repository, Digest)>,
    /// What was used here up to this time has been reported, in seconds since 1970.
    heard_until: u64,
}

impl Needs {
    /// Of an agent on its own.
    #[must_use]
    pub fn alone(pinned: Option<BTreeSet<String>>, filling: HashSet<ShortDigest>) -> Self {
        Self { cluster: None, pinned_digests: by_digest(pinned.as_ref()), pinned, filling }
    }

    /// Of an agent in a cluster, whose control API has heard what was used here until `heard_until`.
    #[must_use]
    pub fn in_cluster(
        desired: Option<&Desired>,
        heard_until: u64,
        pinned: Option<BTreeSet<String>>,
        filling: HashSet<ShortDigest>,
    ) -> Self {
        let judged = desired.is_some_and(|desired| desired.judged);
        let mut cluster = Cluster { judged, heard_until, ..Cluster::default() };
        for pin in desired.into_iter().flat_map(|desired| &desired.pins) {
            // Without a reason it is only to be reported; the last copy of what nobody needs may go.
            if pin.reasons.iter().any(|reason| *reason != PinReason::LastCopy) {
                cluster.by_digest(&pin.image);
            }
            cluster.pins.insert(pin.image.clone(), pin.reasons.clone());
        }
        for image in desired.into_iter().flat_map(|desired| &desired.keep) {
            cluster.by_digest(image);
            cluster.keep.insert(image.clone());
        }
        Self { cluster: Some(cluster), pinned_digests: by_digest(pinned.as_ref()), pinned, filling }
    }

    /// How much an image is needed, or why it stays.
    pub(super) fn standing(&self, holding: &Holding) -> Result<Need, Hold> {
        let image = &holding.held.image;
        if holding.blobs.iter().any(|(digest, _)| self.filling.contains(digest)) {
            return Err(Hold::BeingPulled);
        }
        let by_digest = |digest: &Digest| self.pinned_digests.contains(&(holding.repository.clone(), *digest));
        match &self.pinned {
            Some(pinned) if pinned.contains(image) => return Err(Hold::Pinned),
            Some(_) if !self.pinned_digests.is_empty() && holding.manifests.iter().any(by_digest) => return Err(Hold::Pinned),
            Some(_) => {}
            None => return Err(Hold::Unknown),
        }
        let is_gone = holding.held.tag.as_ref().is_some_and(|tag| tag.upstream_status == UpstreamStatus::NotFound);
        match &self.cluster {
            Some(cluster) => cluster.standing(holding, is_gone),
            // Nobody else is known to have it.
            None if is_gone => Err(Hold::LastCopy),
            None => Ok(Need::Nowhere),
        }
    }

    /// Manifests that others than the images here need, whatever goes.
    #[must_use]
    pub(super) fn digests(&self) -> Vec<(Repository, Digest)> {
        self.cluster.iter().flat_map(|cluster| &cluster.digests).chain(&self.pinned_digests).cloned().collect()
    }
}

fn by_digest(pinned: Option<&BTreeSet<String>>) -> HashSet<(Repository, Digest)> {
    let images = pinned.into_iter().flatten().filter_map(|image| image.parse::<Image>().ok());
    images.filter_map(|image| Some((image.repository().clone(), *image.digest()?))).collect()
}

impl Cluster {
    fn by_digest(&mut self, image: &str) {
        if let Ok(image) = image.parse::<Image>()
            && let Some(digest) = image.digest()
        {
            self.digests.insert((image.repository().clone(), *digest));
        }
    }

    fn standing(&self, holding: &Holding, is_gone: bool) -> Result<Need, Hold> {
        let held = &holding.held;
        if !self.judged {
            return Err(Hold::Unknown);
        }
        if self.keep.contains(&held.image) {
            return Err(Hold::Kept);
        }
        let reasons = self.pins.get(&held.image).map(Vec::as_slice).unwrap_or_default();
        let has = |reason| reasons.contains(&reason);
        if has(PinReason::Retained) {
            return Err(Hold::Retained);
        }
        let is_used = has(PinReason::UsedHere) || has(PinReason::UsedElsewhere);
        if has(PinReason::LastCopy) && (is_used || is_gone || has(PinReason::GoneUpstream)) {
            return Err(Hold::LastCopy);
        }
        // The control API may not have heard that upstream lost it, and then has not counted the copies.
        if is_gone && !has(PinReason::GoneUpstream) {
            return Err(Hold::LastCopy);
        }
        let by_digest = |digest: &Digest| self.digests.contains(&(holding.repository.clone(), *digest));
        let is_a_part = reasons.is_empty() && holding.manifests.iter().any(by_digest);
        if has(PinReason::Other) || is_a_part || held.used_at.saturating_add(LAG_SECONDS) > self.heard_until {
            return Err(Hold::Unknown);
        }
        if has(PinReason::UsedHere) {
            Ok(Need::Here)
        } else if is_used {
            Ok(Need::Elsewhere)
        } else {
            Ok(Need::Nowhere)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kuik_crd::control::Pin;

    use super::*;
    use crate::cache::HeldImage;
    use crate::oci::Target;
    use crate::store::TagRecord;

    const IMAGE: &str = "docker.io/library/nginx:1";

    fn digest(number: u8) -> Digest {
        format!("sha256:{}", format!("{number:02x}").repeat(32)).parse().unwrap()
    }

    fn mk_holding(upstream_status: UpstreamStatus) -> Holding {
        let image: Image = IMAGE.parse().unwrap();
        let tag = TagRecord { digest: digest(1), media_type: "m".to_owned(), validated_at: 0, checked_at: 0, upstream_status };
        let held = HeldImage { image: IMAGE.to_owned(), digest: digest(1), size_bytes: 7, complete: true, used_at: 1000, tag: Some(tag) };
        Holding {
            held,
            repository: image.repository().clone(),
            target: Target::Tag("1".parse().unwrap()),
            manifests: Arc::new([digest(1), digest(2)]),
            blobs: Arc::new([((&digest(3)).into(), 7)]),
        }
    }

    fn pinned(image: &str, reasons: &[PinReason]) -> Desired {
        Desired { pins: vec![Pin { image: image.to_owned(), reasons: reasons.to_vec() }], judged: true, ..Desired::default() }
    }

    fn none() -> Option<BTreeSet<String>> {
        Some(BTreeSet::new())
    }

    fn in_cluster(desired: &Desired, status: UpstreamStatus) -> Result<Need, Hold> {
        Needs::in_cluster(Some(desired), 2000, none(), HashSet::new()).standing(&mk_holding(status))
    }

    #[test]
    fn what_the_control_api_says_decides() {
        use PinReason::{GoneUpstream, LastCopy, Other, Retained, UsedElsewhere, UsedHere};
        let check = |reasons: &[PinReason], expected| {
            assert_eq!(in_cluster(&pinned(IMAGE, reasons), UpstreamStatus::Ok), expected, "{reasons:?}");
        };
        check(&[], Ok(Need::Nowhere));
        check(&[LastCopy], Ok(Need::Nowhere));
        check(&[GoneUpstream], Ok(Need::Nowhere));
        check(&[UsedElsewhere], Ok(Need::Elsewhere));
        check(&[UsedHere, UsedElsewhere], Ok(Need::Here));
        check(&[UsedHere, LastCopy], Err(Hold::LastCopy));
        check(&[UsedElsewhere, LastCopy], Err(Hold::LastCopy));
        check(&[GoneUpstream, LastCopy], Err(Hold::LastCopy));
        check(&[Retained], Err(Hold::Retained));
        check(&[Other], Err(Hold::Unknown));
    }

    #[test]
    fn what_this_node_is_to_keep_stays() {
        let desired = Desired { keep: vec![IMAGE.to_owned()], judged: true, ..Desired::default() };
        assert_eq!(in_cluster(&desired, UpstreamStatus::Ok), Err(Hold::Kept));
    }

    #[test]
    fn what_upstream_lost_is_the_last_copy_until_the_control_api_says_otherwise() {
        assert_eq!(in_cluster(&pinned(IMAGE, &[PinReason::UsedHere]), UpstreamStatus::NotFound), Err(Hold::LastCopy));
        let known = pinned(IMAGE, &[PinReason::UsedHere, PinReason::GoneUpstream]);
        assert_eq!(in_cluster(&known, UpstreamStatus::NotFound), Ok(Need::Here));
        let alone = Needs::alone(none(), HashSet::new());
        assert_eq!(alone.standing(&mk_holding(UpstreamStatus::NotFound)), Err(Hold::LastCopy));
        assert_eq!(alone.standing(&mk_holding(UpstreamStatus::Unavailable)), Ok(Need::Nowhere));
    }

    #[test]
    fn unknown_counts_as_needed() {
        let holding = mk_holding(UpstreamStatus::Ok);
        let standing = |desired: Option<&Desired>, heard| Needs::in_cluster(desired, heard, none(), HashSet::new()).standing(&holding);
        let nothing = Desired { judged: true, ..Desired::default() };
        assert_eq!(standing(Some(&Desired::default()), 2000), Err(Hold::Unknown), "it has not judged what is here");
        assert_eq!(standing(None, 2000), Err(Hold::Unknown), "it has never said anything");
        assert_eq!(standing(Some(&nothing), 1000), Err(Hold::Unknown), "it was used after the last report");
        assert_eq!(standing(Some(&nothing), 1029), Err(Hold::Unknown), "or so shortly before that nothing can have come of it");
        assert_eq!(standing(Some(&nothing), 1030), Ok(Need::Nowhere));
        let unreadable = Needs::in_cluster(Some(&nothing), 2000, None, HashSet::new());
        assert_eq!(unreadable.standing(&holding), Err(Hold::Unknown), "nobody knows what was pinned");
    }

    #[test]
    fn a_pod_that_uses_a_part_by_digest_needs_the_whole() {
        let by_digest = pinned(&format!("docker.io/library/nginx@{}", digest(2)), &[PinReason::UsedElsewhere]);
        assert_eq!(in_cluster(&by_digest, UpstreamStatus::Ok), Err(Hold::Unknown));
        for nobody in [&[][..], &[PinReason::LastCopy]] {
            let unused = pinned(&format!("docker.io/library/nginx@{}", digest(2)), nobody);
            assert_eq!(in_cluster(&unused, UpstreamStatus::Ok), Ok(Need::Nowhere), "{nobody:?}");
        }
        let elsewhere = pinned(&format!("docker.io/library/other@{}", digest(2)), &[PinReason::UsedElsewhere]);
        assert_eq!(in_cluster(&elsewhere, UpstreamStatus::Ok), Ok(Need::Nowhere));
    }

    #[test]
    fn pins_of_this_node_and_downloads_count_first() {
        let holding = mk_holding(UpstreamStatus::Ok);
        let here = Some(BTreeSet::from([IMAGE.to_owned()]));
        assert_eq!(Needs::alone(here.clone(), HashSet::new()).standing(&holding), Err(Hold::Pinned));
        for number in [1, 2] {
            let by_digest = Some(BTreeSet::from([format!("docker.io/library/nginx@{}", digest(number))]));
            assert_eq!(Needs::alone(by_digest, HashSet::new()).standing(&holding), Err(Hold::Pinned));
        }
        let filling = HashSet::from([(&digest(3)).into()]);
        assert_eq!(Needs::alone(here, filling).standing(&holding), Err(Hold::BeingPulled));
    }
}
