//! Manifests: by digest they never change; by tag they are confirmed, moved, or served as they were.

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::error::CacheError;
use super::tags::Stale;
use super::{Cache, Origin};
use crate::oci::{Algorithm, Digest, Hasher, Manifest, Repository, Tag, Target, is_manifest_type};
use crate::requester::Requester;
use crate::store::{TagRecord, UpstreamStatus, now_seconds};
use crate::upstream::FetchedManifest;

/// A manifest, as upstream sent it.
#[derive(Debug, Clone)]
pub struct ManifestAnswer {
    pub digest: Digest,
    pub media_type: String,
    pub bytes: Bytes,
    pub origin: Origin,
    /// Set if upstream could not confirm the tag.
    pub stale: Option<Stale>,
}

/// A manifest above this is read on the blocking pool.
const LARGE_BYTES: usize = 128 << 10;

/// Large manifests that are read at one time.
static LARGE_TURNS: Semaphore = Semaphore::const_new(2);

/// What is fetched once for all who ask.
pub(super) type ManifestKey = (Requester, Repository, Target);
pub(super) type ManifestResult = Result<ManifestAnswer, CacheError>;

impl Cache {
    /// A manifest of a repository.
    ///
    /// # Errors
    /// When neither the disk nor upstream has it, or it is not the repository's.
    pub async fn manifest(&self, by: &Requester, repository: &Repository, target: &Target) -> ManifestResult {
        let answer = match target {
            Target::Tag(tag) => self.manifest_by_tag(by, repository, tag).await,
            Target::Digest(digest) => self.manifest_by_digest(by, repository, digest).await,
        }?;
        if answer.origin != Origin::Miss {
            self.keep_at_last(repository, target, &answer);
        }
        Ok(answer)
    }

    async fn manifest_by_digest(&self, by: &Requester, repository: &Repository, digest: &Digest) -> ManifestResult {
        let here = match self.store.manifest_record(repository, digest) {
            // What it has of its own needs no second look.
            Some(record) => Some(Some(record.media_type)),
            None => match self.store.find_manifest(repository, digest).await {
                Some(media_type) if !self.is_anothers_manifest(by, repository, digest).await => Some(media_type),
                _ => None,
            },
        };
        if let Some(media_type) = here
            && let Some(answer) = self.stored_manifest(digest, media_type).await
        {
            return Ok(answer);
        }
        self.fetch_manifest(by, repository, &Target::Digest(*digest)).await
    }

    /// A manifest from disk. One that cannot be read is absent: upstream may have it.
    pub(super) async fn stored_manifest(&self, digest: &Digest, media_type: Option<String>) -> Option<ManifestAnswer> {
        let bytes = match self.store.read_verified(digest).await {
            Ok(bytes) => bytes?,
            Err(error) => {
                tracing::error!(%digest, error = %crate::telemetry::chain(&error), "a manifest cannot be read: asking upstream");
                return None;
            }
        };
        let media_type = match media_type {
            Some(media_type) => media_type,
            None => Manifest::parse(&bytes).ok()?.media_type_or_guess().to_owned(),
        };
        if !self.quiet {
            self.store.touch(digest);
        }
        Some(ManifestAnswer { digest: *digest, media_type, bytes, origin: Origin::Hit, stale: None })
    }

    /// Fetches a manifest once for all who ask, and stores it behind their backs.
    pub(super) async fn fetch_manifest(&self, by: &Requester, repository: &Repository, target: &Target) -> ManifestResult {
        if let Some(answer) = self.found_open(by, repository, target).await {
            return Ok(answer);
        }
        let key = (by.clone(), repository.clone(), target.clone());
        let cache = self.clone();
        let lead = |landing: super::flight::Landing<ManifestKey, ManifestResult>| async move {
            let (by, repository, target) = key;
            let fetched = cache.upstream.by(&by).get_manifest(&repository, &target).await.map_err(CacheError::from);
            // From before it is known until it is stored: nothing is deleted that it references.
            let naming = cache.store.naming().await;
            let accepted = match fetched {
                Ok(fetched) => cache.accept(&repository, &target, fetched).await,
                Err(error) => Err(error),
            };
            match accepted {
                Ok(answer) => {
                    landing.publish(Ok(answer.clone()));
                    cache.findings.succeeded(&repository, &target);
                    cache.persist(repository, target, answer).await;
                }
                Err(error) => {
                    if let CacheError::Mismatch { .. } | CacheError::NoManifest { .. } = &error {
                        cache.metrics.upstream_error(&repository.registry, error.reason());
                    }
                    if !by.is_asking_for_leave() {
                        cache.fetch_failed(&repository, &target, &error);
                    }
                    landing.finish(Err(error));
                }
            }
            drop(naming);
        };
        let answer = self.manifests.join((by.clone(), repository.clone(), target.clone()), lead).await??;
        if !self.quiet {
            // It may have been here before, under another name, or have come for somebody who does not use it.
            self.store.touch(&answer.digest);
        }
        Ok(answer)
    }

    /// What was fetched a moment ago to see whether everybody may have it, and is still being stored.
    async fn found_open(&self, by: &Requester, repository: &Repository, target: &Target) -> Option<ManifestAnswer> {
        if !self.config.looks_at_rights || *by != Requester::Anyone {
            return None;
        }
        self.manifests.running(&(Requester::Nobody, repository.clone(), target.clone())).await?.ok()
    }

    /// Checks a manifest and enters it into the index. Large ones take a thread of their own, few at a time: reading one can take many
    /// times its size in memory.
    async fn accept(&self, repository: &Repository, target: &Target, fetched: FetchedManifest) -> ManifestResult {
        let (store, owned) = (self.store.clone(), (repository.clone(), target.clone()));
        let large = fetched.bytes.len() > LARGE_BYTES;
        let work = move || {
            let (repository, target) = owned;
            let (answer, manifest) = accept(&repository, &target, fetched)?;
            store.remember_manifest(&repository, &answer.digest, &answer.media_type, &answer.bytes, &manifest);
            Ok(answer)
        };
        if !large {
            return work();
        }
        let _turn = LARGE_TURNS.acquire().await.map_err(|_| CacheError::Lost)?;
        tokio::task::spawn_blocking(work).await.unwrap_or(Err(CacheError::Lost))
    }

    /// Says that an image could not be fetched. A part of an index is no image of its own.
    fn fetch_failed(&self, repository: &Repository, target: &Target, error: &CacheError) {
        let is_part = matches!(target, Target::Digest(digest) if self.store.link(repository, digest).is_some());
        if !is_part {
            self.findings.failed(repository, target, &error.to_string());
        }
    }

    /// Stores a manifest that upstream sent a moment ago.
    async fn persist(&self, repository: Repository, target: Target, answer: ManifestAnswer) {
        let now = now_seconds();
        let record = TagRecord {
            digest: answer.digest,
            media_type: answer.media_type.clone(),
            validated_at: now,
            checked_at: now,
            upstream_status: UpstreamStatus::Ok,
        };
        let tag = match &target {
            Target::Tag(tag) => Some((tag.clone(), record)),
            Target::Digest(_) => None,
        };
        self.write(repository, target, answer, tag).await;
    }

    /// Has the disk take a manifest, and its tag if it came by one.
    pub(super) async fn write(&self, repository: Repository, target: Target, answer: ManifestAnswer, tag: Option<(Tag, TagRecord)>) {
        let ManifestAnswer { digest, media_type, bytes, .. } = answer;
        // What nobody asked for is as old as what it takes the place of.
        let used = if self.quiet { self.used_before(&repository, &target) } else { now_seconds() };
        let persisted = self.store.persist_manifest(repository.clone(), digest, media_type, bytes, tag.clone(), used).await;
        if let Err(error) = persisted {
            if let Some((tag, record)) = tag {
                self.store.remember_tag(&repository, &tag, &record);
            }
            self.unkept.note(&repository, target, digest);
            self.metrics.passed_through(&error);
            super::not_stored(&error, &digest, "a manifest was served and cannot be kept");
        }
    }
}

impl Cache {
    /// When the image was last asked for under this name; 0 for never.
    fn used_before(&self, repository: &Repository, target: &Target) -> u64 {
        let digest = match target {
            Target::Tag(tag) => self.store.tag(repository, tag).map(|record| record.digest),
            Target::Digest(_) => None,
        };
        digest.and_then(|digest| self.store.blob_record(&digest)).map_or(0, |record| record.used)
    }
}

/// Checks what upstream sent: the bytes against the digest that was asked for or claimed, and that it is a manifest at all.
fn accept(repository: &Repository, target: &Target, fetched: FetchedManifest) -> Result<(ManifestAnswer, Manifest), CacheError> {
    let expected = match target {
        Target::Digest(digest) => Some(*digest),
        Target::Tag(_) => fetched.digest,
    };
    let algorithm = expected.map_or(Algorithm::Sha256, |digest| digest.algorithm());
    let actual = Hasher::digest(algorithm, &fetched.bytes);
    if let Some(expected) = expected
        && expected != actual
    {
        return Err(CacheError::mismatch(repository, expected, actual));
    }
    let manifest = Manifest::parse(&fetched.bytes).map_err(|error| CacheError::no_manifest(repository, &error))?;
    let media_type = match fetched.media_type {
        Some(media_type) if is_manifest_type(&media_type) || media_type.starts_with("application/vnd.") => media_type,
        _ => manifest.media_type_or_guess().to_owned(),
    };
    let answer = ManifestAnswer { digest: actual, media_type, bytes: fetched.bytes, origin: Origin::Miss, stale: None };
    Ok((answer, manifest))
}
