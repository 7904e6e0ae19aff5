//! An index whose engine fails while it is in use is made anew, in memory at once and on disk at the next start.

use super::*;

/// What `app:1` of these layers is known by.
async fn check_known(store: &Store, digest: &Digest, layers: &[&str]) {
    let app = repository("a.b/app");
    let tag = "1".parse().unwrap();
    assert_eq!(store.tag(&app, &tag).map(|record| record.digest), Some(*digest));
    assert_eq!(store.find_tag(&app, &tag).await.map(|record| record.digest), Some(*digest));
    assert_eq!(store.manifest_media_type(&app, digest), Some(Some(MANIFEST.to_owned())));
    assert!(store.read_verified(digest).await.unwrap().is_some());
    for layer in layers {
        let layer = digest_of(layer.as_bytes());
        assert!(store.link(&app, &layer).is_some());
        assert!(store.open_blob(&layer).await.unwrap().is_some());
        assert!(store.blob_record(&layer).is_some());
    }
}

#[tokio::test]
async fn an_index_that_fails_in_use_loses_nothing_now_nor_at_the_next_start() {
    let (dir, store) = mk_store().await;
    let digest = put_image(&store, "a.b/app", "1", &["layer", "other"]).await;
    assert_eq!(store.usage().index_rebuilds, 1, "of the first start");
    let marker = dir.path().join("INDEX_BROKEN");
    store.inner.index.break_down();
    // From the failure on, and not from when it was mended.
    assert_eq!(store.find_tag(&repository("a.b/app"), &"1".parse().unwrap()).await.map(|record| record.digest), Some(digest));
    assert!(store.find_link(&repository("a.b/app"), &digest_of(b"other")).await.is_some());
    assert!(store.open_blob(&digest_of(b"layer")).await.unwrap().is_some());
    store.index_broke().await;
    store.mend().await.unwrap();
    assert!(marker.exists());
    assert_eq!((store.usage().index_rebuilds, store.usage().index_bytes), (2, 0));
    check_known(&store, &digest, &["layer", "other"]).await;
    check_sound(&store, dir.path()).await;
    // It is as good as any: what comes is known, and what goes goes.
    let second = put_image(&store, "a.b/app", "2", &["second"]).await;
    assert!(matches!(remove(&store, "a.b/app", &tag("2")).await, Removal::Removed { blobs: 2, .. }));
    assert!(store.open_blob(&second).await.unwrap().is_none());
    check_sound(&store, dir.path()).await;

    store.close();
    drop(store);
    assert!(!dir.path().join("CLEAN").exists(), "an index in memory is gone with the process");
    let store = open_store(dir.path()).await;
    assert!(dir.path().join("index.bad").is_dir() && !marker.exists());
    assert_eq!(store.usage().index_rebuilds, 1);
    check_known(&store, &digest, &["layer", "other"]).await;
    assert!(store.usage().index_bytes > 0);
    check_sound(&store, dir.path()).await;

    // Once, and not at every start from then on.
    store.close();
    drop(store);
    let store = open_store(dir.path()).await;
    assert_eq!(store.usage().index_rebuilds, 0);
    check_known(&store, &digest, &["layer", "other"]).await;
}
