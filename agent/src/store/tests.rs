//! Deleting images: only what is theirs goes, whoever pulls, reads or dies meanwhile.

mod batch;
mod broken;
mod power;

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::oci::{Algorithm, Hasher, Manifest, Repository, Tag, Target};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn digest_of(bytes: &[u8]) -> Digest {
    Hasher::digest(Algorithm::Sha256, bytes)
}

fn repository(path: &str) -> Repository {
    Repository::from_path(path).unwrap()
}

fn tag(text: &str) -> Target {
    Target::Tag(text.parse().unwrap())
}

async fn mk_store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = open_store(dir.path()).await;
    (dir, store)
}

async fn open_store(path: &Path) -> Store {
    let store = Store::open(path).unwrap();
    store.settle().await.unwrap();
    store
}

async fn put_blob(store: &Store, bytes: &[u8]) -> Digest {
    let digest = digest_of(bytes);
    let mut writer = store.writer(&digest, None).await.unwrap();
    writer.append(&[Bytes::copy_from_slice(bytes)]).unwrap();
    store.commit(writer, &digest).await.unwrap();
    digest
}

/// The bytes of an image with these layers.
fn manifest_of(layers: &[&str]) -> Vec<u8> {
    let descriptor = |text: &&str| json!({ "mediaType": "x/layer", "digest": digest_of(text.as_bytes()).to_string(), "size": text.len() });
    json!({ "schemaVersion": 2, "mediaType": MANIFEST, "layers": layers.iter().map(descriptor).collect::<Vec<_>>() })
        .to_string()
        .into_bytes()
}

fn index_of(children: &[&[u8]]) -> Vec<u8> {
    let descriptor = |bytes: &&[u8]| json!({ "mediaType": MANIFEST, "digest": digest_of(bytes).to_string(), "size": bytes.len() });
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": children.iter().map(descriptor).collect::<Vec<_>>() })
        .to_string()
        .into_bytes()
}

/// Stores a manifest as a pull does.
async fn put_manifest(store: &Store, repository: &Repository, bytes: &[u8], tag: Option<&str>) -> Digest {
    let (digest, bytes) = (digest_of(bytes), Bytes::copy_from_slice(bytes));
    let manifest = Manifest::parse(&bytes).unwrap();
    let media_type = manifest.media_type.clone().unwrap();
    let naming = store.naming().await;
    store.remember_manifest(repository, &digest, &media_type, &bytes, &manifest);
    let record = TagRecord { digest, media_type: media_type.clone(), validated_at: 5, checked_at: 5, upstream_status: UpstreamStatus::Ok };
    let tag = tag.map(|tag| (tag.parse::<Tag>().unwrap(), record));
    store.persist_manifest(repository.clone(), digest, media_type, bytes, tag, 10).await.unwrap();
    drop(naming);
    digest
}

/// An image with these layers, whole.
async fn put_image(store: &Store, path: &str, tag: &str, layers: &[&str]) -> Digest {
    for layer in layers {
        put_blob(store, layer.as_bytes()).await;
    }
    put_manifest(store, &repository(path), &manifest_of(layers), Some(tag)).await
}

fn going(path: &str, target: &Target, unused_since: u64) -> Victim {
    Victim { repository: repository(path), target: target.clone(), unused_since, only_if_certain: false, is_open: false }
}

async fn remove(store: &Store, path: &str, target: &Target) -> Removal {
    store.remove_image(going(path, target, 10), Vec::new()).await.unwrap()
}

fn blobs_on_disk(dir: &Path) -> BTreeSet<Digest> {
    files_of(&dir.join("blobs"))
        .iter()
        .map(|path| format!("sha256:{}", path.file_name().unwrap().to_str().unwrap()).parse().unwrap())
        .collect()
}

fn files_of(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_of(&path)) } else { files.push(path) }
    }
    files
}

/// What is accounted is what the directory has.
pub(crate) async fn check_accounts(store: &Store, dir: &Path) {
    let on_disk = blobs_on_disk(dir);
    assert_eq!(store.committed().into_iter().collect::<BTreeSet<_>>(), on_disk);
    assert_eq!(store.usage().blobs, on_disk.len() as u64);
    let bytes: u64 = files_of(&dir.join("blobs")).iter().map(|path| path.metadata().unwrap().len()).sum();
    assert_eq!(store.usage().blob_bytes, bytes);
    store.measure().await.unwrap();
    let parts = ["blobs", "tmp", "refs", "quarantine", "control", "index", "index.bad"];
    let taken: u64 = parts.iter().flat_map(|part| files_of(&dir.join(part))).map(|path| path.metadata().unwrap().blocks() * 512).sum();
    assert_eq!(store.room().used, taken, "what is accounted is what the disk says");
}

/// What the index says is what the directory has, and what is named is there.
pub(crate) async fn check_sound(store: &Store, dir: &Path) {
    check_accounts(store, dir).await;
    let on_disk = blobs_on_disk(dir);
    let catalogue = store.catalogue();
    let named = catalogue.tags.iter().map(|(_, _, record)| record.digest).chain(catalogue.manifests.iter().map(|(_, digest, _)| *digest));
    for digest in named {
        assert!(on_disk.contains(&digest), "a record names {digest}, which is not on disk");
        assert!(store.read_verified(&digest).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn an_image_goes_with_all_that_is_its_own_and_nothing_else() {
    let (dir, store) = mk_store().await;
    let one = put_image(&store, "a.b/app", "1", &["own", "shared", "elsewhere"]).await;
    let two = put_image(&store, "a.b/app", "2", &["shared", "second"]).await;
    let other = put_image(&store, "a.b/other", "1", &["elsewhere", "third"]).await;
    let size = (manifest_of(&["own", "shared", "elsewhere"]).len() + "own".len()) as u64;
    assert_eq!(remove(&store, "a.b/app", &tag("1")).await, Removal::Removed { bytes: size, blobs: 2 });
    let left: BTreeSet<_> = ["shared", "elsewhere", "second", "third"].map(|text| digest_of(text.as_bytes())).into();
    assert_eq!(blobs_on_disk(dir.path()), left.into_iter().chain([two, other]).collect());
    check_sound(&store, dir.path()).await;
    let app = repository("a.b/app");
    assert_eq!((store.tags(&app), store.tag(&app, &"1".parse().unwrap())), (vec!["2".to_owned()], None));
    assert!(store.manifest_media_type(&app, &one).is_none() && store.small(&one).is_none());
    assert!(store.link(&app, &digest_of(b"own")).is_none() && store.link(&app, &digest_of(b"shared")).is_some());
    assert!(store.link(&app, &digest_of(b"elsewhere")).is_none(), "what the other repository has is not this one's any more");
    assert_eq!(remove(&store, "a.b/app", &tag("1")).await, Removal::Absent);
    assert_eq!(
        remove(&store, "a.b/app", &tag("2")).await,
        Removal::Removed { bytes: (manifest_of(&["shared", "second"]).len() + 12) as u64, blobs: 3 }
    );
    assert!(!dir.path().join("refs/a.b/app").exists(), "an empty directory of records goes too");
    put_image(&store, "a.b/app", "1", &["own", "shared"]).await;
    check_sound(&store, dir.path()).await;
}

#[tokio::test]
async fn two_tags_of_one_manifest_hold_it_both() {
    let (dir, store) = mk_store().await;
    let digest = put_image(&store, "a.b/app", "1", &["layer"]).await;
    put_image(&store, "a.b/app", "latest", &["layer"]).await;
    assert_eq!(remove(&store, "a.b/app", &Target::Digest(digest)).await, Removal::Absent, "tags hold it");
    assert_eq!(remove(&store, "a.b/app", &tag("1")).await, Removal::Removed { bytes: 0, blobs: 0 });
    check_sound(&store, dir.path()).await;
    assert_eq!(blobs_on_disk(dir.path()).len(), 2);
    assert!(matches!(remove(&store, "a.b/app", &tag("latest")).await, Removal::Removed { blobs: 2, .. }));
    assert!(blobs_on_disk(dir.path()).is_empty());
}

#[tokio::test]
async fn an_index_goes_with_its_parts_but_not_with_what_is_wanted_by_digest() {
    let (dir, store) = mk_store().await;
    let app = repository("a.b/app");
    let children = [manifest_of(&["amd"]), manifest_of(&["arm"])];
    let index = index_of(&[&children[0], &children[1]]);
    for (child, layer) in children.iter().zip(["amd", "arm"]) {
        put_blob(&store, layer.as_bytes()).await;
        put_manifest(&store, &app, child, None).await;
    }
    put_manifest(&store, &app, &index, Some("1")).await;
    let wanted = digest_of(&children[1]);
    let removed = store.remove_image(going("a.b/app", &tag("1"), 10), vec![wanted]).await.unwrap();
    assert!(matches!(removed, Removal::Removed { blobs: 3, .. }), "{removed:?}");
    assert_eq!(blobs_on_disk(dir.path()), [wanted, digest_of(b"arm")].into());
    check_sound(&store, dir.path()).await;
    assert!(matches!(remove(&store, "a.b/app", &Target::Digest(wanted)).await, Removal::Removed { blobs: 2, .. }));
    assert!(blobs_on_disk(dir.path()).is_empty());
}

#[tokio::test]
async fn what_was_used_since_stays() {
    let (dir, store) = mk_store().await;
    let digest = put_image(&store, "a.b/app", "1", &["layer"]).await;
    let early = store.remove_image(going("a.b/app", &Target::Digest(digest), 9), Vec::new()).await.unwrap();
    assert_eq!(early, Removal::Used(10));
    store.touch(&digest);
    assert!(matches!(remove(&store, "a.b/app", &tag("1")).await, Removal::Used(used) if used > 10));
    store.flush_use_times();
    assert!(matches!(remove(&store, "a.b/app", &tag("1")).await, Removal::Used(used) if used > 10));
    check_sound(&store, dir.path()).await;
    assert_eq!(blobs_on_disk(dir.path()).len(), 2);
}

#[tokio::test]
async fn who_reads_a_blob_goes_on_reading() {
    let (dir, store) = mk_store().await;
    let layer = "x".repeat(200_000);
    put_image(&store, "a.b/app", "1", &[&layer]).await;
    let blob = store.open_blob(&digest_of(layer.as_bytes())).await.unwrap().unwrap();
    assert!(matches!(remove(&store, "a.b/app", &tag("1")).await, Removal::Removed { .. }));
    assert_eq!(blob.reader.read(0..blob.size).await.unwrap(), layer.as_bytes());
    assert!(store.open_blob(&digest_of(layer.as_bytes())).await.unwrap().is_none());
    assert!(blobs_on_disk(dir.path()).is_empty());
}

#[tokio::test]
async fn a_download_that_runs_meanwhile_is_kept() {
    let (dir, store) = mk_store().await;
    put_image(&store, "a.b/app", "1", &["layer"]).await;
    let digest = digest_of(b"layer");
    let mut writer = store.writer(&digest, None).await.unwrap();
    writer.append(&[Bytes::from_static(b"layer")]).unwrap();
    assert!(matches!(remove(&store, "a.b/app", &tag("1")).await, Removal::Removed { blobs: 2, .. }));
    store.commit(writer, &digest).await.unwrap();
    check_sound(&store, dir.path()).await;
    assert_eq!(blobs_on_disk(dir.path()), [digest].into());
}

#[tokio::test]
async fn a_time_of_use_brings_no_row_back() {
    let (dir, store) = mk_store().await;
    let digest = put_image(&store, "a.b/app", "1", &["layer"]).await;
    assert!(matches!(remove(&store, "a.b/app", &tag("1")).await, Removal::Removed { .. }));
    store.touch(&digest);
    store.flush_use_times();
    assert_eq!(store.blob_record(&digest), None);
    check_sound(&store, dir.path()).await;
}

#[tokio::test]
async fn nothing_goes_whose_users_cannot_be_known() {
    let (dir, store) = mk_store().await;
    put_image(&store, "a.b/app", "1", &["own", "shared"]).await;
    let two = put_image(&store, "a.b/app", "2", &["shared"]).await;
    drop(store);
    let path = dir.path().join(format!("blobs/sha256/{}/{}", &two.hex()[..2], two.hex()));
    std::fs::write(&path, b"rotten").unwrap();
    let store = open_store(dir.path()).await;
    assert_eq!(remove(&store, "a.b/app", &tag("1")).await, Removal::Removed { bytes: 0, blobs: 0 });
    assert_eq!(store.tags(&repository("a.b/app")), ["2"]);
    assert!(store.open_blob(&digest_of(b"shared")).await.unwrap().is_some());
}

#[tokio::test]
async fn nothing_goes_before_the_directory_has_been_walked() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(remove(&store, "a.b/app", &tag("1")).await, Removal::NotYet);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() { copy(&entry.path(), &to) } else { std::fs::copy(entry.path(), to).map(drop).unwrap() }
    }
}

#[tokio::test]
async fn whenever_the_power_goes_what_is_left_is_sound() {
    let (before, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open_store(before.path()).await;
    let app = repository("a.b/app");
    let children = [manifest_of(&["amd", "shared"]), manifest_of(&["arm"])];
    for layer in ["amd", "arm", "shared"] {
        put_blob(&store, layer.as_bytes()).await;
    }
    for child in &children {
        put_manifest(&store, &app, child, None).await;
    }
    let index = put_manifest(&store, &app, &index_of(&[&children[0], &children[1]]), Some("1")).await;
    put_image(&store, "a.b/app", "2", &["shared", "other"]).await;
    drop(store);
    copy(before.path(), after.path());
    let store = open_store(after.path()).await;
    assert!(matches!(remove(&store, "a.b/app", &tag("1")).await, Removal::Removed { blobs: 5, .. }));
    drop(store);
    let relative = |dir: &Path| files_of(dir).iter().map(|path| path.strip_prefix(dir).unwrap().to_owned()).collect::<BTreeSet<_>>();
    let (all, left) = (relative(before.path()), relative(after.path()));
    let group = |path: &PathBuf| ["_tags", "_manifests", "blobs"].iter().position(|part| path.iter().any(|name| name == *part));
    let mut gone: Vec<PathBuf> = all.difference(&left).filter(|path| group(path).is_some()).cloned().collect();
    // The order in which they go: within a group any file may survive, so the root is put first as it is deleted, and then last.
    for root_first in [true, false] {
        gone.sort_by_key(|path| (group(path), path.to_string_lossy().contains(&index.hex()) != root_first));
        assert_eq!(gone.len(), 1 + 3 + 5);
        for cut in 0..=gone.len() {
            for has_index in [true, false] {
                let crashed = tempfile::tempdir().unwrap();
                copy(before.path(), crashed.path());
                std::fs::remove_dir_all(crashed.path().join("index")).unwrap();
                if has_index {
                    copy(&after.path().join("index"), &crashed.path().join("index"));
                }
                gone[..cut].iter().for_each(|path| std::fs::remove_file(crashed.path().join(path)).unwrap());
                let store = open_store(crashed.path()).await;
                check_sound(&store, crashed.path()).await;
                let tags = store.tags(&app);
                assert_eq!(tags.contains(&"1".to_owned()), cut == 0, "{tags:?} after {cut} of {gone:?}");
                assert!(tags.contains(&"2".to_owned()));
                // And what was begun can be done again.
                remove(&store, "a.b/app", &tag("1")).await;
                check_sound(&store, crashed.path()).await;
                assert!(store.open_blob(&digest_of(b"other")).await.unwrap().is_some());
                assert!(store.open_blob(&digest_of(b"shared")).await.unwrap().is_some());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pulls_and_deletions_at_the_same_time_leave_a_sound_store() {
    let (dir, store) = mk_store().await;
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..4 {
        let store = store.clone();
        tasks.spawn(async move {
            for round in 0..30 {
                let tag_name = format!("{}", round % 3);
                match worker {
                    0 | 1 => {
                        put_image(&store, "a.b/app", &tag_name, &["shared", &tag_name]).await;
                    }
                    2 => {
                        put_image(&store, "a.b/other", "1", &["shared", "1"]).await;
                    }
                    _ => {
                        store.remove_image(going("a.b/app", &tag(&tag_name), u64::MAX), Vec::new()).await.unwrap();
                        store.remove_image(going("a.b/other", &tag("1"), u64::MAX), Vec::new()).await.unwrap();
                    }
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    check_sound(&store, dir.path()).await;
    drop(store);
    let store = open_store(dir.path()).await;
    check_sound(&store, dir.path()).await;
    for text in ["0", "1", "2"] {
        store.remove_image(going("a.b/app", &tag(text), u64::MAX), Vec::new()).await.unwrap();
    }
    store.remove_image(going("a.b/other", &tag("1"), u64::MAX), Vec::new()).await.unwrap();
    check_sound(&store, dir.path()).await;
    let catalogue = store.catalogue();
    assert!(catalogue.tags.is_empty() && catalogue.manifests.is_empty());
}

#[tokio::test]
async fn notes_are_kept_and_replaced() {
    let (dir, store) = mk_store().await;
    assert_eq!(store.read_note("desired").await.unwrap(), None);
    for text in ["one", "two"] {
        store.write_note("desired", text.into()).await.unwrap();
        assert_eq!(store.read_note("desired").await.unwrap(), Some(text.into()));
    }
    assert_eq!(std::fs::read(dir.path().join("control/desired.json")).unwrap(), b"two");
    let space = store.space().await.unwrap();
    assert!(space.capacity > space.free && space.free > 0);
}
