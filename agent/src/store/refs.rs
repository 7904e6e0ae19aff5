//! Which repository has which tag and manifest, as small files below `refs/`: what must outlive the index.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::UNIX_EPOCH;

use super::error::StoreError;
use super::files;
use super::layout::{self, Layout};
use super::record::{ManifestRecord, TagRecord, decode, encode};
use crate::oci::{Digest, Repository, Tag};

/// `true` if there was no such record.
pub(super) fn write_tag(layout: &Layout, repository: &Repository, tag: &Tag, record: &TagRecord) -> Result<bool, StoreError> {
    files::write_atomically(layout, &layout.tag(repository, tag), &encode(record))
}

/// `true` if there was no such record.
pub(super) fn write_manifest(
    layout: &Layout,
    repository: &Repository,
    digest: &Digest,
    record: &ManifestRecord,
) -> Result<bool, StoreError> {
    let path = layout.manifest(repository, digest);
    if path.exists() {
        return Ok(false);
    }
    files::write_atomically(layout, &path, &encode(record))
}

/// The record of a tag, if it can be read.
pub(super) fn read_tag(layout: &Layout, repository: &Repository, tag: &Tag) -> Option<TagRecord> {
    decode(&fs::read(layout.tag(repository, tag)).ok()?)
}

/// The record of a manifest, if it can be read.
pub(super) fn read_manifest(layout: &Layout, repository: &Repository, digest: &Digest) -> Option<ManifestRecord> {
    decode(&fs::read(layout.manifest(repository, digest)).ok()?)
}

/// The manifests that a repository has since this time or longer, in seconds since 1970: a record is written once.
pub(super) fn manifests_until(layout: &Layout, repository: &Repository, until: u64) -> Vec<Digest> {
    let dir = layout.manifest_dir(repository);
    let is_older = |name: &String| {
        let modified = fs::metadata(dir.join(name)).and_then(|meta| meta.modified()).ok()?;
        Some(modified.duration_since(UNIX_EPOCH).ok()?.as_secs() <= until)
    };
    let older = list(&dir).into_iter().filter(|name| is_older(name) == Some(true));
    older.filter_map(|name| layout::digest_of_file_name(&name)).collect()
}

/// What the walk of `refs/` finds.
pub(super) trait Visitor {
    /// A record of a manifest is there: whether it must be read.
    fn wants(&mut self, repository: &Repository, digest: &Digest) -> bool;
    fn tag(&mut self, repository: &Repository, tag: &Tag, record: TagRecord);
    fn manifest(&mut self, repository: &Repository, digest: &Digest, record: ManifestRecord);
}

/// Visits every record below `refs/`: all manifests of a repository before its tags. What cannot be read is skipped and logged.
pub(super) fn walk(layout: &Layout, visitor: &mut dyn Visitor) {
    walk_dir(&layout.refs(), "", visitor);
}

/// Visits every record of one repository in this order.
pub(super) fn walk_repository(layout: &Layout, repository: &Repository, visitor: &mut dyn Visitor) {
    visit_manifests(&layout.manifest_dir(repository), repository, visitor);
    visit_tags(&layout.tag_dir(repository), repository, visitor);
}

fn walk_dir(dir: &Path, path: &str, visitor: &mut dyn Visitor) {
    let mut names = list(dir);
    names.sort_unstable();
    for name in names {
        let entry = dir.join(&name);
        match name.as_str() {
            layout::MANIFESTS_DIR | layout::TAGS_DIR => match Repository::from_path(path) {
                Ok(repository) if name == layout::MANIFESTS_DIR => visit_manifests(&entry, &repository, visitor),
                Ok(repository) => visit_tags(&entry, &repository, visitor),
                Err(error) => tracing::warn!(path, %error, "a directory of reference records has a name that is no repository"),
            },
            name if path.is_empty() => walk_dir(&entry, name, visitor),
            name => walk_dir(&entry, &format!("{path}/{name}"), visitor),
        }
    }
}

fn visit_manifests(dir: &Path, repository: &Repository, visitor: &mut dyn Visitor) {
    for name in list(dir) {
        let digest = layout::digest_of_file_name(&name);
        if digest.is_some_and(|digest| !visitor.wants(repository, &digest)) {
            continue;
        }
        let record = fs::read(dir.join(&name)).ok().and_then(|bytes| decode(&bytes));
        match (digest, record) {
            (Some(digest), Some(record)) => visitor.manifest(repository, &digest, record),
            _ => tracing::warn!(%repository, name, "a reference record cannot be read"),
        }
    }
}

fn visit_tags(dir: &Path, repository: &Repository, visitor: &mut dyn Visitor) {
    for name in list(dir) {
        let record = fs::read(dir.join(&name)).ok().and_then(|bytes| decode(&bytes));
        match (name.parse::<Tag>(), record) {
            (Ok(tag), Some(record)) => visitor.tag(repository, &tag, record),
            _ => tracing::warn!(%repository, name, "a reference record cannot be read"),
        }
    }
}

fn list(dir: &Path) -> Vec<String> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            tracing::warn!(path = %dir.display(), %error, "a directory of reference records cannot be listed");
            Vec::new()
        }
    }
}
