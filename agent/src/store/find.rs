//! Look-ups that miss while the index does not know yet what the directory has: they ask the directory, and nobody waits for its walk.
//!
//! What is found is entered into the index as the walk would enter it, so that what follows of the same pull finds it there.

use std::sync::Arc;

use super::record::{LinkRecord, TagRecord};
use super::recover::{Found, Walk};
use super::refs::{self, Visitor};
use super::{Inner, Store};
use crate::oci::{Digest, Repository, Tag};

impl Store {
    /// What a tag meant last.
    pub async fn find_tag(&self, repository: &Repository, tag: &Tag) -> Option<TagRecord> {
        if let Some(record) = self.tag(repository, tag) {
            return Some(record);
        }
        let (repository, tag) = (repository.clone(), tag.clone());
        self.look(move |inner| {
            let record = refs::read_tag(&inner.layout, &repository, &tag)?;
            inner.enter_manifest(&repository, &record.digest);
            inner.walk(|walk| walk.tag(&repository, &tag, record.clone()));
            Some(record)
        })
        .await
    }

    /// As [`Store::manifest_media_type`].
    pub async fn find_manifest(&self, repository: &Repository, digest: &Digest) -> Option<Option<String>> {
        if let Some(known) = self.manifest_media_type(repository, digest) {
            return Some(known);
        }
        let (of, wanted) = (repository.clone(), *digest);
        if let Some(media_type) = self.look(move |inner| inner.enter_manifest(&of, &wanted)).await {
            return Some(Some(media_type));
        }
        // It may be a part of another manifest that the repository has.
        self.look_into(repository).await;
        self.manifest_media_type(repository, digest)
    }

    /// As [`Store::link`].
    pub async fn find_link(&self, repository: &Repository, digest: &Digest) -> Option<LinkRecord> {
        if let Some(link) = self.link(repository, digest) {
            return Some(link);
        }
        self.look_into(repository).await;
        self.link(repository, digest)
    }

    /// Has the index know everything that the directory has of a repository.
    pub async fn look_into(&self, repository: &Repository) {
        let repository = repository.clone();
        self.look(move |inner| {
            inner.walk(|walk| refs::walk_repository(&inner.layout, &repository, walk));
            Some(())
        })
        .await;
    }

    /// Looks at the directory, unless the index knows all that is there.
    async fn look<T: Send + 'static>(&self, look: impl FnOnce(&Inner) -> Option<T> + Send + 'static) -> Option<T> {
        if self.inner.knows_all() {
            return None;
        }
        // The walk may end meanwhile, and nothing may be deleted then that is entered a moment later.
        let _naming = self.inner.naming.read().await;
        let inner = Arc::clone(&self.inner);
        super::blocking(move || Ok(look(&inner))).await.ok().flatten()
    }
}

impl Inner {
    /// Enters a manifest and what it references, if the repository has it; its media type.
    fn enter_manifest(&self, repository: &Repository, digest: &Digest) -> Option<String> {
        let record = refs::read_manifest(&self.layout, repository, digest)?;
        let media_type = record.media_type.clone();
        self.walk(|walk| walk.manifest(repository, digest, record));
        Some(media_type)
    }

    fn walk(&self, visit: impl FnOnce(&mut Walk<'_>)) {
        visit(&mut Walk { inner: self, found: &mut Found::default() });
    }
}
