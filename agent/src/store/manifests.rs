//! Manifests and tags: what a repository has, and what it thereby references.

use super::error::StoreError;
use super::index::Table;
use super::layout::{digest_key, digest_of_key, in_repository, repository_prefix};
use super::record::{LinkRecord, ManifestRecord, TagRecord, UpstreamStatus, decode, encode};
use super::sweep::Reference;
use super::{Inner, Store, refs, writer::Writer};
use crate::oci::{Digest, Manifest, Repository, Tag, is_manifest_type};
use bytes::Bytes;
use std::sync::atomic::Ordering;

/// Enters a manifest and everything that it references into the index. What it references is `claimed`, unless more is known of it; and
/// `recovered`, if the manifest is found on disk and did not come a moment ago.
pub(super) fn index(
    inner: &Inner,
    repository: &Repository,
    digest: &Digest,
    record: &ManifestRecord,
    manifest: &Manifest,
    recovered: bool,
) {
    for child in &manifest.children {
        let key = in_repository(repository, &digest_key(&child.digest));
        let known: Option<LinkRecord> = inner.index.get(Table::Links, &key).and_then(|bytes| decode(&bytes));
        let has_manifest = || child.is_manifest && inner.index.get(Table::Manifests, &key).is_some();
        // A blob that the index knows came for somebody of whom it knows, too.
        let may_have_come = || recovered && inner.index.get(Table::Blobs, &digest_key(&child.digest)).is_none();
        let (claimed, recovered) = known.map_or_else(|| (!has_manifest(), may_have_come()), |known| (known.claimed, known.recovered));
        let link = LinkRecord {
            size: child.size,
            media_type: child.media_type.clone(),
            unfounded: false,
            claimed,
            recovered: claimed && recovered,
        };
        inner.index.put(Table::Links, &key, encode(&link));
    }
    if let Some(subject) = &manifest.subject {
        let mut key = in_repository(repository, &digest_key(subject));
        key.extend(digest_key(digest));
        if inner.index.get(Table::Referrers, &key).is_none() {
            inner.index.put(Table::Referrers, &key, Vec::new());
        }
    }
    inner.index.put(Table::Manifests, &in_repository(repository, &digest_key(digest)), encode(record));
    inner.came(repository, digest);
}

impl Inner {
    fn came(&self, repository: &Repository, digest: &Digest) {
        self.update_claim(&in_repository(repository, &digest_key(digest)), false, false);
    }

    /// Says of a link, by its key, what is known now. One that is not claimed any more stays as it is.
    pub(super) fn update_claim(&self, key: &[u8], claimed: bool, recovered: bool) {
        self.index.update(Table::Links, key, &|old| {
            let old: LinkRecord = decode(old)?;
            old.claimed.then(|| encode(&LinkRecord { claimed, recovered, ..old }))
        });
    }
}

/// The repositories that something came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Givers {
    /// It came from each of these.
    Known(Vec<Repository>),
    /// The index was lost: it came from one of these, or, if there is none, from one that is gone.
    OneOf(Vec<Repository>),
}

/// Held by who makes a manifest known, from before the first step until after the last: meanwhile nothing is deleted.
#[derive(Debug)]
pub struct Naming<'a> {
    _guard: tokio::sync::RwLockReadGuard<'a, ()>,
}

impl Store {
    /// A repository that a blob belongs to, and whether as a manifest.
    ///
    /// # Errors
    /// None but the runtime's own.
    pub async fn repository_of(&self, digest: &Digest) -> Result<Option<(Repository, bool)>, StoreError> {
        let inner = std::sync::Arc::clone(&self.inner);
        let digest = *digest;
        super::blocking(move || {
            let first = inner.repositories_of(&digest).into_iter().next();
            Ok(first.map(|Reference { repository, is_manifest, .. }| (repository, is_manifest)))
        })
        .await
    }

    /// Waits until nothing is being deleted, and keeps it so.
    pub async fn naming(&self) -> Naming<'_> {
        Naming { _guard: self.inner.naming.read().await }
    }

    /// Makes a manifest known at once, in memory; [`Store::persist_manifest`] makes it last.
    pub fn remember_manifest(&self, repository: &Repository, digest: &Digest, media_type: &str, bytes: &Bytes, manifest: &Manifest) {
        let record = ManifestRecord { media_type: media_type.to_owned(), size: bytes.len() as u64 };
        index(&self.inner, repository, digest, &record, manifest, false);
        self.inner.small.insert(*digest, bytes.clone());
        self.inner.changes.blob(digest);
        self.inner.changes.name();
    }

    /// Writes a manifest and the record that its repository has it; then the tag, if it came by one.
    ///
    /// It was last asked for at `used`, unless it is known already.
    ///
    /// The order matters to a power cut: a record never names a manifest that is not on disk yet.
    ///
    /// # Errors
    /// When there is no room, or the disk is full or fails. The manifest is then served only as long as it is in memory.
    pub async fn persist_manifest(
        &self,
        repository: Repository,
        digest: Digest,
        media_type: String,
        bytes: Bytes,
        tag: Option<(Tag, TagRecord)>,
        used: u64,
    ) -> Result<(), StoreError> {
        let written = self.write_manifest((repository, digest), media_type, bytes, tag, used).await;
        if written.is_err() {
            self.inner.is_ahead.store(true, Ordering::SeqCst);
        }
        written
    }

    async fn write_manifest(
        &self,
        (repository, digest): (Repository, Digest),
        media_type: String,
        bytes: Bytes,
        tag: Option<(Tag, TagRecord)>,
        used: u64,
    ) -> Result<(), StoreError> {
        let room = self.reserve_manifest(bytes.len() as u64)?;
        let inner = std::sync::Arc::clone(&self.inner);
        super::blocking(move || {
            // A file that the index does not know may be about to be deleted.
            if inner.blob_record(&digest).is_none() || !inner.layout.blob(&digest).exists() {
                let mut writer = Writer::create(std::sync::Arc::clone(&inner.layout), &digest, room)?;
                writer.append(std::slice::from_ref(&bytes))?;
                inner.commit(writer, &digest, used)?;
            }
            let record = ManifestRecord { media_type, size: bytes.len() as u64 };
            inner.account.records_came(refs::write_manifest(&inner.layout, &repository, &digest, &record)?.into());
            if let Some((tag, record)) = tag {
                inner.account.records_came(refs::write_tag(&inner.layout, &repository, &tag, &record)?.into());
                inner.index.put(Table::Tags, &in_repository(&repository, tag.as_str().as_bytes()), encode(&record));
            }
            inner.changes.name();
            Ok(())
        })
        .await
    }

    /// The manifests that a repository has since this time or longer, in seconds since 1970.
    pub async fn manifests_until(&self, repository: &Repository, until: u64) -> Vec<Digest> {
        let (inner, repository) = (std::sync::Arc::clone(&self.inner), repository.clone());
        super::blocking(move || Ok(refs::manifests_until(&inner.layout, &repository, until))).await.unwrap_or_default()
    }

    /// What a tag meant last.
    #[must_use]
    pub fn tag(&self, repository: &Repository, tag: &Tag) -> Option<TagRecord> {
        self.inner.index.get(Table::Tags, &in_repository(repository, tag.as_str().as_bytes())).and_then(|bytes| decode(&bytes))
    }

    /// Notes what upstream said of a tag, unless it has moved on from `digest` meanwhile.
    pub fn note_tag(&self, repository: &Repository, tag: &Tag, digest: &Digest, status: UpstreamStatus) {
        self.inner.index.update(Table::Tags, &in_repository(repository, tag.as_str().as_bytes()), &|old| {
            let mut record: TagRecord = decode(old).filter(|record: &TagRecord| record.digest == *digest)?;
            record.upstream_status = status;
            record.checked_at = super::now_seconds();
            if status == UpstreamStatus::Ok {
                record.validated_at = record.checked_at;
            }
            Some(encode(&record))
        });
        self.inner.changes.name();
    }

    /// Makes a tag known for as long as the index lasts: what is left to do when the disk refuses the rest.
    pub fn remember_tag(&self, repository: &Repository, tag: &Tag, record: &TagRecord) {
        self.inner.index.put(Table::Tags, &in_repository(repository, tag.as_str().as_bytes()), encode(record));
        self.inner.changes.name();
    }

    /// A manifest that came from the repository itself.
    #[must_use]
    pub fn manifest_record(&self, repository: &Repository, digest: &Digest) -> Option<ManifestRecord> {
        self.inner.index.get(Table::Manifests, &in_repository(repository, &digest_key(digest))).and_then(|bytes| decode(&bytes))
    }

    /// A manifest that the repository has, or that one of its indexes references: its media type, as upstream gave it or, for one
    /// that was fetched under another repository, as the index says.
    #[must_use]
    pub fn manifest_media_type(&self, repository: &Repository, digest: &Digest) -> Option<Option<String>> {
        if let Some(record) = self.manifest_record(repository, digest) {
            return Some(Some(record.media_type));
        }
        let key = in_repository(repository, &digest_key(digest));
        let link: LinkRecord = self.inner.index.get(Table::Links, &key).and_then(|bytes| decode(&bytes))?;
        // A layer is no manifest, whatever it is asked for as.
        link.media_type.as_deref().is_none_or(is_manifest_type).then_some(link.media_type)
    }

    /// Whether and how the repository references a blob. Knowing a digest is not a permission.
    #[must_use]
    pub fn link(&self, repository: &Repository, digest: &Digest) -> Option<LinkRecord> {
        let key = in_repository(repository, &digest_key(digest));
        if let Some(link) = self.inner.index.get(Table::Links, &key).and_then(|bytes| decode(&bytes)) {
            return Some(link);
        }
        // A manifest may be asked for as a blob too: the specification lets registries answer so.
        let record: ManifestRecord = self.inner.index.get(Table::Manifests, &key).and_then(|bytes| decode(&bytes))?;
        Some(LinkRecord { size: Some(record.size), media_type: Some(record.media_type), ..LinkRecord::default() })
    }

    /// Notes that upstream serves a blob under the repository.
    pub fn put_link(&self, repository: &Repository, digest: &Digest, size: Option<u64>) {
        let key = in_repository(repository, &digest_key(digest));
        // A manifest may say so at this moment, and that counts for more: neither step replaces what it wrote.
        let new = LinkRecord { size, unfounded: true, claimed: true, ..LinkRecord::default() };
        if !self.inner.index.put_if_absent(Table::Links, &key, encode(&new)) {
            self.inner.index.update(Table::Links, &key, &|old| {
                let old: LinkRecord = decode(old)?;
                Some(encode(&LinkRecord { size: size.or(old.size), ..old }))
            });
        }
    }

    /// Notes that a blob came from the repository itself.
    pub fn came(&self, repository: &Repository, digest: &Digest) {
        self.inner.came(repository, digest);
    }

    /// Where a manifest or blob came from, as far as is known. Looks at everything.
    pub async fn givers(&self, digest: &Digest) -> Givers {
        let (inner, digest) = (std::sync::Arc::clone(&self.inner), *digest);
        let of = |references: Vec<Reference>| references.into_iter().map(|reference| reference.repository).collect();
        let given = move || {
            let (known, claimed): (Vec<_>, Vec<_>) =
                inner.repositories_of(&digest).into_iter().partition(|reference| !reference.is_claimed);
            let recovered: Vec<_> = claimed.into_iter().filter(|reference| reference.is_recovered).collect();
            Ok(if known.is_empty() { Givers::OneOf(of(recovered)) } else { Givers::Known(of(known)) })
        };
        super::blocking(given).await.unwrap_or(Givers::OneOf(Vec::new()))
    }

    /// The tags that are known of a repository, in order.
    #[must_use]
    pub fn tags(&self, repository: &Repository) -> Vec<String> {
        let prefix = repository_prefix(repository);
        self.inner
            .index
            .scan(Table::Tags, &prefix)
            .into_iter()
            .filter_map(|(key, _)| String::from_utf8(key[prefix.len()..].to_vec()).ok())
            .collect()
    }

    /// The manifests that are known to have `subject` as their subject, each with its descriptor if upstream has listed it. `None`
    /// if nothing is known: not even that there are none.
    #[must_use]
    pub fn referrers(&self, repository: &Repository, subject: &Digest) -> Option<Vec<(Digest, Option<serde_json::Value>)>> {
        let prefix = in_repository(repository, &digest_key(subject));
        let rows = self.inner.index.scan(Table::Referrers, &prefix);
        if rows.is_empty() {
            return None;
        }
        // The row without a referrer says that upstream has been asked.
        Some(
            rows.into_iter()
                .filter_map(|(key, value)| Some((digest_of_key(&key[prefix.len()..])?, serde_json::from_slice(&value).ok())))
                .collect(),
        )
    }

    /// Notes referrers as upstream lists them, each with its descriptor; `all` if it lists all that there are.
    pub fn put_referrers<'a>(
        &self,
        repository: &Repository,
        subject: &Digest,
        all: bool,
        referrers: impl Iterator<Item = (Digest, &'a serde_json::Value)>,
    ) {
        let prefix = in_repository(repository, &digest_key(subject));
        if all {
            self.inner.index.put(Table::Referrers, &prefix, Vec::new());
        }
        for (referrer, descriptor) in referrers {
            let mut key = prefix.clone();
            key.extend(digest_key(&referrer));
            self.inner.index.put(Table::Referrers, &key, descriptor.to_string().into_bytes());
        }
    }

    /// Every tag and every manifest that some repository has.
    #[must_use]
    pub fn catalogue(&self) -> Catalogue {
        catalogue(&self.inner)
    }
}

/// Every tag and every manifest that the index knows.
pub(super) fn catalogue(inner: &Inner) -> Catalogue {
    let split = |key: &[u8]| {
        let zero = key.iter().position(|byte| *byte == 0)?;
        let repository = Repository::from_path(std::str::from_utf8(&key[..zero]).ok()?).ok()?;
        Some((repository, key[zero + 1..].to_vec()))
    };
    let tags = inner.index.scan(Table::Tags, b"").into_iter().filter_map(|(key, value)| {
        let (repository, tag) = split(&key)?;
        Some((repository, std::str::from_utf8(&tag).ok()?.parse().ok()?, decode(&value)?))
    });
    let manifests = inner.index.scan(Table::Manifests, b"").into_iter().filter_map(|(key, value)| {
        let (repository, digest) = split(&key)?;
        Some((repository, digest_of_key(&digest)?, decode(&value)?))
    });
    Catalogue { tags: tags.collect(), manifests: manifests.collect() }
}

/// What the store knows by name.
#[derive(Debug)]
pub struct Catalogue {
    pub tags: Vec<(Repository, Tag, TagRecord)>,
    pub manifests: Vec<(Repository, Digest, ManifestRecord)>,
}
