//! What manifests reference, followed to the last blob.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::Inner;
use crate::oci::{Descriptor, Digest, Manifest};

/// Manifests and everything that they reference.
#[derive(Debug, Default)]
pub(super) struct Closure {
    /// Manifests in the order in which they were found, the roots first.
    pub(super) manifests: Vec<Digest>,
    pub(super) digests: BTreeSet<Digest>,
    /// The subject of each referrer among the manifests.
    pub(super) subjects: BTreeMap<Digest, Digest>,
    /// The bytes of each manifest could be read: nothing is missing here.
    pub(super) certain: bool,
}

/// Manifests that were read before: of many images of one repository each is read once.
#[derive(Debug, Default)]
pub(super) struct Read {
    manifests: HashMap<Digest, Option<Arc<Parsed>>>,
}

/// What of a manifest matters here.
#[derive(Debug)]
struct Parsed {
    subject: Option<Digest>,
    children: Vec<(Digest, bool)>,
}

impl Inner {
    /// Follows `roots`. A manifest that is in `known` and cannot be read makes the result uncertain; a child that never came needs nothing.
    pub(super) fn closure(&self, roots: impl IntoIterator<Item = Digest>, known: &BTreeSet<Digest>, read: &mut Read) -> Closure {
        let mut closure = Closure { certain: true, ..Closure::default() };
        let mut open: Vec<Digest> = roots.into_iter().collect();
        open.reverse();
        while let Some(digest) = open.pop() {
            if !closure.digests.insert(digest) {
                continue;
            }
            closure.manifests.push(digest);
            let Some(parsed) = read.manifests.entry(digest).or_insert_with(|| self.parse(&digest)).clone() else {
                closure.certain &= !known.contains(&digest);
                continue;
            };
            if let Some(subject) = parsed.subject {
                closure.subjects.insert(digest, subject);
            }
            for (child, is_manifest) in &parsed.children {
                if *is_manifest {
                    open.push(*child);
                } else {
                    closure.digests.insert(*child);
                }
            }
        }
        closure
    }

    fn parse(&self, digest: &Digest) -> Option<Arc<Parsed>> {
        let bytes = self.small.get(digest).or_else(|| self.read_verified(digest).ok().flatten())?;
        let manifest = Manifest::parse(&bytes).ok()?;
        let children = manifest.children.iter().map(|Descriptor { digest, is_manifest, .. }| (*digest, *is_manifest)).collect();
        Some(Arc::new(Parsed { subject: manifest.subject, children }))
    }
}
