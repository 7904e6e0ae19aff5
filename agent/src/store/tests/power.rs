//! What a power cut must find: bytes are synced before they get their name, and names before anybody is told of them.

use super::*;
use crate::store::steps::Step::{self, Create, MakeDir, Rename, Sync, SyncDir, Write};

/// What is done to write one file into a directory that is not there yet, which is the last of `dirs`.
fn steps(temporary: &Path, dirs: &[&str], to: &Path) -> Vec<(Step, PathBuf)> {
    let mut steps: Vec<(Step, PathBuf)> = [Create, Write, Sync].map(|step| (step, temporary.to_owned())).into();
    for dir in dirs {
        steps.extend([(MakeDir, dir.into()), (SyncDir, Path::new(dir).parent().unwrap().to_owned())]);
    }
    steps.extend([(Rename, to.to_owned()), (SyncDir, to.parent().unwrap().to_owned())]);
    steps
}

/// The steps that were taken must be those of writing `files`, one after the other.
#[track_caller]
fn check(taken: &[(Step, PathBuf)], files: &[(&[&str], String)]) {
    let mut temporary = taken.iter().filter(|(step, _)| *step == Create).map(|(_, path)| path);
    let expected = files.iter().flat_map(|(dirs, to)| {
        let temporary = temporary.next().expect("a temporary file must have been made");
        assert!(temporary.starts_with("tmp"), "{temporary:?}");
        steps(temporary, dirs, Path::new(to))
    });
    assert_eq!(taken, expected.collect::<Vec<_>>());
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}/{}", &digest.hex()[..2], digest.hex())
}

fn shard(digest: &Digest) -> String {
    format!("blobs/sha256/{}", &digest.hex()[..2])
}

#[tokio::test]
async fn a_blob_is_synced_then_named_then_its_name_is_synced() {
    let (dir, store) = mk_store().await;
    let watch = Watch::over(dir.path());
    let digest = put_blob(&store, b"layer").await;
    check(&watch.taken(), &[(&["blobs/sha256", &shard(&digest)], blob_path(&digest))]);
    // Written once more, as by two who fetch it at one time: the directories are there.
    put_blob(&store, b"layer").await;
    check(&watch.taken(), &[(&[], blob_path(&digest))]);
}

#[tokio::test]
async fn a_manifest_is_on_disk_before_a_record_names_it_and_its_own_before_its_tags() {
    let (dir, store) = mk_store().await;
    let watch = Watch::over(dir.path());
    let digest = put_manifest(&store, &repository("a.b/app"), &manifest_of(&[]), Some("1")).await;
    let record = format!("refs/a.b/app/_manifests/sha256-{}", digest.hex());
    check(
        &watch.taken(),
        &[
            (&["blobs/sha256", &shard(&digest)], blob_path(&digest)),
            (&["refs/a.b", "refs/a.b/app", "refs/a.b/app/_manifests"], record),
            (&["refs/a.b/app/_tags"], "refs/a.b/app/_tags/1".to_owned()),
        ],
    );
}

#[tokio::test]
async fn a_note_takes_the_place_of_the_one_before_in_the_same_order() {
    let (dir, store) = mk_store().await;
    let watch = Watch::over(dir.path());
    store.write_note("desired", b"one".to_vec()).await.unwrap();
    check(&watch.taken(), &[(&["control"], "control/desired.json".to_owned())]);
    store.write_note("desired", b"two".to_vec()).await.unwrap();
    check(&watch.taken(), &[(&[], "control/desired.json".to_owned())]);
}

#[tokio::test]
async fn records_that_go_are_gone_before_what_they_name_goes() {
    let (dir, store) = mk_store().await;
    put_image(&store, "a.b/app", "1", &["layer"]).await;
    let watch = Watch::over(dir.path());
    assert!(matches!(remove(&store, "a.b/app", &tag("1")).await, Removal::Removed { blobs: 2, .. }));
    let synced = ["refs/a.b/app/_tags", "refs/a.b/app/_manifests"].map(|path| (SyncDir, PathBuf::from(path)));
    assert_eq!(watch.taken(), synced);
}

#[tokio::test]
async fn a_directory_that_could_not_be_synced_is_made_anew() {
    let (dir, store) = mk_store().await;
    let watch = Watch::over(dir.path());
    watch.fail(SyncDir, rustix::io::Errno::IO, 0);
    let digest = digest_of(b"layer");
    let mut writer = store.writer(&digest, None).await.unwrap();
    writer.append(&[Bytes::from_static(b"layer")]).unwrap();
    assert!(store.commit(writer, &digest).await.unwrap_err().is_degradation());
    watch.heal();
    watch.taken();
    put_blob(&store, b"layer").await;
    check(&watch.taken(), &[(&["blobs/sha256", &shard(&digest)], blob_path(&digest))]);
    check_sound(&store, dir.path()).await;
}
