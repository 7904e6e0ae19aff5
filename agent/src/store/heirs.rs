//! What becomes of claims to content when the image goes for which it came.
//!
//! What everybody could have is that of all who claim it: afterwards nobody knows any more where it came from. What not everybody could have
//! did not come from other registries, of which, after the index was lost, it was only known that they may have brought it.

use std::collections::{BTreeMap, BTreeSet};

use super::Inner;
use super::index::Table;
use super::layout::{digest_in_key, digest_key, in_repository, repository_in_key};
use super::record::{LinkRecord, decode};
use crate::oci::{Digest, Registry, Repository};

/// What is lost, by the registry for which it came, and whether everybody could have it.
#[derive(Debug, Default)]
pub(super) struct Lost(BTreeMap<Digest, Vec<(Registry, bool)>>);

impl Inner {
    /// Notes what of `orphans` came for the repository, as long as its links say so.
    pub(super) fn note_lost(&self, lost: &mut Lost, repository: &Repository, orphans: &BTreeSet<Digest>, is_open: bool) {
        for digest in orphans {
            let row = self.index.get(Table::Links, &in_repository(repository, &digest_key(digest)));
            if row.and_then(|bytes| decode::<LinkRecord>(&bytes)).is_some_and(|link| !link.claimed) {
                lost.0.entry(*digest).or_default().push((repository.registry.clone(), is_open));
            }
        }
    }

    /// Settles the claims of others, once the links of those who lose it are gone.
    pub(super) fn settle_claims(&self, lost: &Lost) {
        let mut claims = Vec::new();
        if !lost.0.is_empty() {
            self.index.each(Table::Links, &mut |key, value| {
                let Some(losers) = digest_in_key(key).and_then(|digest| lost.0.get(&digest)) else { return };
                let Some(link) = decode::<LinkRecord>(value).filter(|link| link.claimed) else { return };
                let is_open = losers.iter().any(|(_, is_open)| *is_open);
                let is_elsewhere = || {
                    let claimant = repository_in_key(key).map(|repository| repository.registry);
                    losers.iter().all(|(registry, _)| claimant.as_ref() != Some(registry))
                };
                if is_open || (link.recovered && is_elsewhere()) {
                    claims.push((key.to_vec(), is_open));
                }
            });
        }
        for (key, is_open) in claims {
            self.update_claim(&key, !is_open, false);
        }
    }
}
