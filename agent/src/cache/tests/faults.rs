//! A disk that refuses whatever step of whatever file costs nobody a pull, and is used again when it takes bytes again.

use rustix::io::Errno;

use super::*;
use crate::store::tests::{check_accounts, check_sound};
use crate::store::{Step, Watch};

const STEPS: [Step; 6] = [Step::MakeDir, Step::Create, Step::Write, Step::Sync, Step::Rename, Step::SyncDir];

/// Full, over its quota, mounted read-only, broken.
const ERRORS: [Errno; 4] = [Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::IO];

/// Pulls while `step` fails with `error`, but for the first `spared` times; then when the disk is well again.
async fn check(step: Step, error: Errno, spared: usize) {
    let what = format!("{step:?} fails with {error} after {spared}");
    let scene = Scene::new(300_000).await;
    let watch = Watch::over(scene.path());
    watch.fail(step, error, spared);
    scene.pull().await;
    check_accounts(&scene.store, scene.path()).await;
    assert_eq!(std::fs::read_dir(scene.path().join("tmp")).unwrap().count(), 0, "{what}: something is left in tmp/");
    assert_eq!((scene.store.room().promised, scene.store.room().waiting), (0, 0), "{what}");
    if spared == 0 {
        assert_eq!(scene.store.committed(), [], "{what}");
    }
    watch.heal();
    scene.pull().await;
    for bytes in scene.image.all() {
        assert!(scene.store.blob_record(&digest(bytes)).is_some(), "{what}: {} bytes are not kept", bytes.len());
    }
    check_sound(&scene.store, scene.path()).await;
    assert_eq!(scene.store.room().promised, 0, "{what}");
    // And all of it is on disk, not in memory alone.
    std::fs::remove_dir_all(scene.path().join("index")).unwrap();
    let scene = scene.reopened().await;
    scene.forget();
    let asked = scene.server.count();
    scene.store.settle().await.unwrap();
    // Its time of confirmation is the record's: it is fresh.
    scene.pull().await;
    assert_eq!(scene.server.count(), asked, "{what}");
}

#[tokio::test]
async fn whatever_a_disk_refuses_and_how_a_pull_is_whole_and_the_next_one_is_kept() {
    for step in STEPS {
        for error in ERRORS {
            check(step, error, 0).await;
        }
    }
}

#[tokio::test]
async fn a_disk_that_fails_at_any_moment_of_a_pull_costs_nobody_a_byte() {
    for step in STEPS {
        for spared in [1, 2, 3, 5, 8] {
            check(step, Errno::NOSPC, spared).await;
        }
    }
}
