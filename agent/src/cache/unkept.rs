//! Manifests that were served and that the disk did not take: they are written when they are asked for again.
//!
//! A blob that is not on disk is fetched again, and then kept. A manifest that memory has would never be.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::task::TaskTracker;

use super::{Cache, ManifestAnswer};
use crate::oci::{Digest, Repository, Target};

/// Names that are remembered; the manifests of those beyond are written when memory has let go of them.
const NAMES_MAX: usize = 1000;

/// Names of manifests that the disk did not take.
#[derive(Debug)]
pub(super) struct Unkept {
    /// Held for a look or an insertion, never across an await.
    names: Mutex<HashSet<(Repository, Target)>>,
    tasks: TaskTracker,
}

impl Unkept {
    pub(super) fn new(tasks: TaskTracker) -> Arc<Self> {
        Arc::new(Self { names: Mutex::default(), tasks })
    }

    /// It may be asked for by its digest too, whatever it came by.
    pub(super) fn note(&self, repository: &Repository, target: Target, digest: Digest) {
        let mut names = self.lock();
        if names.len() < NAMES_MAX {
            names.insert((repository.clone(), target));
            names.insert((repository.clone(), Target::Digest(digest)));
        }
    }

    /// `true` to the first who asks for it.
    fn take(&self, repository: &Repository, target: &Target) -> bool {
        let mut names = self.lock();
        // Mostly there are none.
        !names.is_empty() && names.remove(&(repository.clone(), target.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<(Repository, Target)>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cache {
    /// Writes a manifest that is being answered, behind its answer, if the disk did not take it when it came.
    pub(super) fn keep_at_last(&self, repository: &Repository, target: &Target, answer: &ManifestAnswer) {
        if !self.unkept.take(repository, target) {
            return;
        }
        let (cache, repository, target, answer) = (self.clone(), repository.clone(), target.clone(), answer.clone());
        self.unkept.tasks.spawn(async move {
            let _naming = cache.store.naming().await;
            // What it means by now: it may have gone, or moved.
            let tag = match &target {
                Target::Tag(tag) => match cache.store.tag(&repository, tag) {
                    Some(record) if record.digest == answer.digest => Some((tag.clone(), record)),
                    _ => return,
                },
                Target::Digest(digest) if cache.store.manifest_media_type(&repository, digest).is_none() => return,
                Target::Digest(_) => None,
            };
            cache.write(repository, target, answer, tag).await;
        });
    }
}
