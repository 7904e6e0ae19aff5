//! What the directory has is answered at once, though the index does not know it yet.

use super::*;
use crate::upstream::tests::support::tag;

/// An image that was pulled, in a directory whose index is gone, and a registry that has it no more.
async fn lost_index() -> Scene {
    let scene = Scene::new(300_000).await;
    scene.pull().await;
    scene.forget();
    std::fs::remove_dir_all(scene.path().join("index")).unwrap();
    scene.reopened().await
}

#[tokio::test]
async fn a_known_tag_its_manifests_and_its_layers_wait_for_no_walk() {
    let scene = lost_index().await;
    let asked = scene.server.count();
    assert_eq!(scene.manifest(tag("1"), &scene.image.index).await, Origin::Hit);
    for bytes in &scene.image.manifests {
        assert_eq!(scene.manifest(Target::Digest(digest(bytes)), bytes).await, Origin::Hit);
    }
    for bytes in &scene.image.blobs {
        assert_eq!(scene.blob(bytes).await, Origin::Hit);
    }
    assert_eq!(scene.server.count(), asked, "nobody had to be asked whose they are");
    assert!(scene.cache.tags(&Requester::Anyone, &scene.app, &crate::oci::Page::default()).await.unwrap().stale.is_some());
    assert_eq!(scene.store.usage().index_rebuilds, 0, "nothing was walked for this test to mean anything");
    scene.store.settle().await.unwrap();
    crate::store::tests::check_sound(&scene.store, scene.path()).await;
}

#[tokio::test]
async fn a_manifest_that_is_asked_for_by_its_digest_waits_for_no_walk() {
    for has_record in [true, false] {
        let scene = lost_index().await;
        let part = &scene.image.manifests[1];
        if !has_record {
            // Then the index that lists it says so: it may have been fetched under another repository.
            let record = format!("refs/{}/_manifests/sha256-{}", scene.app.to_path(), digest(part).hex());
            std::fs::remove_file(scene.path().join(record)).unwrap();
        }
        let asked = scene.server.count();
        assert_eq!(scene.manifest(Target::Digest(digest(part)), part).await, Origin::Hit, "{has_record}");
        if has_record {
            assert_eq!(scene.blob(&scene.image.blobs[3]).await, Origin::Hit);
        }
        assert_eq!(scene.server.count(), asked);
        assert_eq!(scene.store.usage().index_rebuilds, 0);
    }
}

#[tokio::test]
async fn a_layer_that_is_asked_for_first_is_known_as_the_repositorys_and_no_others() {
    let scene = lost_index().await;
    let asked = scene.server.count();
    let layer = &scene.image.blobs[2];
    assert_eq!(scene.blob(layer).await, Origin::Hit);
    assert_eq!(scene.cache.blob_size(&Requester::Anyone, &scene.app, &digest(layer)).await.unwrap().0, Some(300_000));
    assert_eq!(scene.server.count(), asked);
    let stranger = repo(&scene.server.registry, "stranger");
    assert!(scene.cache.blob(&Requester::Anyone, &stranger, &digest(layer)).await.is_err());
    assert!(scene.cache.manifest(&Requester::Anyone, &stranger, &Target::Digest(digest(&scene.image.index))).await.is_err());
}

#[tokio::test]
async fn what_the_directory_has_not_is_asked_for_upstream_at_once() {
    let scene = lost_index().await;
    assert!(scene.cache.manifest(&Requester::Anyone, &scene.app, &tag("2")).await.is_err());
    assert!(scene.cache.manifest(&Requester::Anyone, &scene.app, &Target::Digest(digest(b"none"))).await.is_err());
    assert!(scene.cache.blob(&Requester::Anyone, &scene.app, &digest(b"none")).await.is_err());
    assert!(scene.server.count() >= 3);
    assert_eq!(scene.store.usage().index_rebuilds, 0);
}
