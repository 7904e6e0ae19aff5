//! Many images at one time, and what nothing references.

use super::*;

fn victim(path: &str, target: Target) -> Victim {
    Victim { repository: repository(path), target, unused_since: 10, only_if_certain: true, is_open: false }
}

#[tokio::test]
async fn many_images_go_in_one_go_and_what_they_share_counts_once() {
    let (dir, store) = mk_store().await;
    put_image(&store, "a.b/app", "1", &["own1", "shared"]).await;
    put_image(&store, "a.b/app", "2", &["own22", "shared"]).await;
    put_image(&store, "a.b/other", "1", &["own333", "shared", "kept"]).await;
    let stays = put_image(&store, "a.b/app", "3", &["kept"]).await;
    let victims =
        vec![victim("a.b/other", tag("1")), victim("a.b/app", tag("1")), victim("a.b/app", tag("absent")), victim("a.b/app", tag("2"))];
    let removals = store.remove_images(victims, Vec::new()).await.unwrap();
    let size = |layers: &[&str]| manifest_of(layers).len() as u64;
    // Repositories are looked at in order: the first image of the first repository has what all share.
    assert_eq!(
        removals,
        [
            Removal::Removed { bytes: size(&["own333", "shared", "kept"]) + 6, blobs: 2 },
            Removal::Removed { bytes: size(&["own1", "shared"]) + 4 + 6, blobs: 3 },
            Removal::Absent,
            Removal::Removed { bytes: size(&["own22", "shared"]) + 5, blobs: 2 },
        ]
    );
    assert_eq!(blobs_on_disk(dir.path()), [stays, digest_of(b"kept")].into());
    check_sound(&store, dir.path()).await;
}

#[tokio::test]
async fn of_many_those_that_were_used_stay_with_all_that_they_share() {
    let (dir, store) = mk_store().await;
    put_image(&store, "a.b/app", "1", &["own", "shared"]).await;
    let used = put_image(&store, "a.b/app", "2", &["shared"]).await;
    store.touch(&used);
    let removals = store.remove_images(vec![victim("a.b/app", tag("1")), victim("a.b/app", tag("2"))], Vec::new()).await.unwrap();
    assert!(matches!(removals[..], [Removal::Removed { blobs: 2, .. }, Removal::Used(_)]), "{removals:?}");
    assert_eq!(blobs_on_disk(dir.path()), [used, digest_of(b"shared")].into());
    check_sound(&store, dir.path()).await;
}

#[tokio::test]
async fn a_part_that_is_to_go_by_digest_goes_with_the_whole_or_not_at_all() {
    for with_the_whole in [true, false] {
        let (dir, store) = mk_store().await;
        let app = repository("a.b/app");
        let child = manifest_of(&["layer"]);
        put_blob(&store, b"layer").await;
        let part = put_manifest(&store, &app, &child, None).await;
        put_manifest(&store, &app, &index_of(&[&child]), Some("1")).await;
        let mut victims = vec![victim("a.b/app", Target::Digest(part))];
        if with_the_whole {
            victims.push(victim("a.b/app", tag("1")));
        }
        let removals = store.remove_images(victims, Vec::new()).await.unwrap();
        assert_eq!(matches!(removals[0], Removal::Removed { .. }), with_the_whole, "{removals:?}");
        assert_eq!(blobs_on_disk(dir.path()).is_empty(), with_the_whole);
        check_sound(&store, dir.path()).await;
    }
}

#[tokio::test]
async fn blobs_that_no_manifest_names_go_when_they_are_old() {
    let (dir, store) = mk_store().await;
    put_image(&store, "a.b/app", "1", &["named"]).await;
    let app = repository("a.b/app");
    let stray = put_blob(&store, b"stray").await;
    // Upstream said that the repository has it: that lets it be served, and is no reason to keep it.
    store.put_link(&app, &stray, Some(5));
    let now = now_seconds();
    assert_eq!(store.sweep(now - 100).await.unwrap(), Orphans::default(), "it is young");
    assert_eq!(store.orphans(now + 1).await.unwrap(), Orphans { blobs: 1, bytes: 5 });
    assert_eq!(store.sweep(now + 1).await.unwrap(), Orphans { blobs: 1, bytes: 5 });
    assert!(store.link(&app, &stray).is_none() && store.link(&app, &digest_of(b"named")).is_some());
    assert_eq!(blobs_on_disk(dir.path()).len(), 2);
    check_sound(&store, dir.path()).await;
}

#[tokio::test]
async fn a_blob_that_was_asked_for_since_is_no_orphan_yet() {
    let (dir, store) = mk_store().await;
    let stray = put_blob(&store, b"stray").await;
    store.set_used(&stray, 5000);
    assert_eq!(store.sweep(4999).await.unwrap(), Orphans::default());
    assert_eq!(store.sweep(u64::MAX).await.unwrap().blobs, 1);
    assert!(blobs_on_disk(dir.path()).is_empty());
}

#[tokio::test]
async fn layers_of_a_manifest_that_cannot_be_read_are_no_orphans() {
    let (dir, store) = mk_store().await;
    let manifest = put_image(&store, "a.b/app", "1", &["layer"]).await;
    drop(store);
    let path = dir.path().join(format!("blobs/sha256/{}/{}", &manifest.hex()[..2], manifest.hex()));
    std::fs::write(&path, b"rotten").unwrap();
    let store = open_store(dir.path()).await;
    assert!(store.read_verified(&manifest).await.unwrap().is_none());
    assert_eq!(store.sweep(u64::MAX).await.unwrap(), Orphans::default());
    assert!(store.open_blob(&digest_of(b"layer")).await.unwrap().is_some());
}

#[tokio::test]
async fn beside_a_manifest_that_cannot_be_read_nothing_goes_to_make_room() {
    let (dir, store) = mk_store().await;
    put_image(&store, "a.b/app", "1", &["own"]).await;
    let two = put_image(&store, "a.b/app", "2", &["shared"]).await;
    put_image(&store, "a.b/other", "1", &["third"]).await;
    drop(store);
    std::fs::write(dir.path().join(format!("blobs/sha256/{}/{}", &two.hex()[..2], two.hex())), b"rotten").unwrap();
    let store = open_store(dir.path()).await;
    let removals = store.remove_images(vec![victim("a.b/app", tag("1")), victim("a.b/other", tag("1"))], Vec::new()).await.unwrap();
    assert!(matches!(removals[..], [Removal::Uncertain, Removal::Removed { blobs: 2, .. }]), "{removals:?}");
    assert_eq!(store.tags(&repository("a.b/app")), ["1", "2"]);
    assert!(store.open_blob(&digest_of(b"own")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_link_of_a_manifest_is_not_replaced_by_what_upstream_said() {
    let (_dir, store) = mk_store().await;
    put_image(&store, "a.b/app", "1", &["layer"]).await;
    let (app, layer) = (repository("a.b/app"), digest_of(b"layer"));
    store.put_link(&app, &layer, Some(77));
    let link = store.link(&app, &layer).unwrap();
    assert_eq!((link.size, link.unfounded, link.media_type.as_deref()), (Some(77), false, Some("x/layer")));
    assert_eq!(store.sweep(u64::MAX).await.unwrap(), Orphans::default());
}

#[tokio::test]
async fn who_no_longer_waits_for_a_deletion_does_not_stop_it() {
    let (dir, store) = mk_store().await;
    put_image(&store, "a.b/app", "1", &["layer"]).await;
    let removing = store.remove_images(vec![victim("a.b/app", tag("1"))], Vec::new());
    // Polled once, and dropped.
    assert!(futures_util::FutureExt::now_or_never(removing).is_none());
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !blobs_on_disk(dir.path()).is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "the deletion has stopped");
        tokio::task::yield_now().await;
    }
    check_sound(&store, dir.path()).await;
}

#[tokio::test]
async fn an_index_that_broke_lets_nothing_go() {
    let (dir, store) = mk_store().await;
    put_image(&store, "a.b/app", "1", &["layer"]).await;
    put_blob(&store, b"stray").await;
    store.inner.index.break_down();
    assert_eq!(store.remove_images(vec![victim("a.b/app", tag("1"))], Vec::new()).await.unwrap(), [Removal::NotYet]);
    assert_eq!(store.sweep(u64::MAX).await.unwrap(), Orphans::default());
    assert_eq!(blobs_on_disk(dir.path()).len(), 3);
}

#[tokio::test]
async fn what_cannot_be_deleted_is_known_again() {
    let (dir, store) = mk_store().await;
    let digest = put_image(&store, "a.b/app", "1", &["layer"]).await;
    let layer = digest_of(b"layer");
    // A directory in the place of a file cannot be unlinked.
    let path = dir.path().join(format!("blobs/sha256/{}/{}", &layer.hex()[..2], layer.hex()));
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(store.remove_images(vec![victim("a.b/app", tag("1"))], Vec::new()).await.is_err());
    assert!(store.blob_record(&layer).is_some() && store.blob_record(&digest).is_none());
    std::fs::remove_dir(&path).unwrap();
    std::fs::write(&path, b"layer").unwrap();
    assert_eq!(store.sweep(u64::MAX).await.unwrap().blobs, 1);
    check_sound(&store, dir.path()).await;
}

#[tokio::test]
async fn an_index_that_was_left_behind_forgets_what_has_gone_since() {
    let (dir, store) = mk_store().await;
    put_image(&store, "a.b/app", "1", &["layer"]).await;
    let two = put_image(&store, "a.b/app", "2", &["second"]).await;
    drop(store);
    let aside = tempfile::tempdir().unwrap();
    copy(&dir.path().join("index"), &aside.path().join("index"));
    let store = open_store(dir.path()).await;
    assert!(matches!(remove(&store, "a.b/app", &tag("1")).await, Removal::Removed { .. }));
    drop(store);
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    copy(&aside.path().join("index"), &dir.path().join("index"));
    let store = open_store(dir.path()).await;
    check_sound(&store, dir.path()).await;
    assert_eq!(store.tags(&repository("a.b/app")), ["2"]);
    assert_eq!(blobs_on_disk(dir.path()), [two, digest_of(b"second")].into());
}

#[tokio::test]
async fn what_the_disk_refused_keeps_nothing_from_going_after_a_restart() {
    let (dir, store) = mk_store().await;
    let whole = put_image(&store, "a.b/app", "1", &["named"]).await;
    put_blob(&store, b"stray").await;
    put_blob(&store, b"served").await;
    let app = repository("a.b/app");
    store.put_link(&app, &digest_of(b"served"), Some(6));
    // A manifest that is in memory only, and the tag that it came by.
    let bytes = manifest_of(&["stray"]);
    let manifest = Manifest::parse(&bytes).unwrap();
    let refused = digest_of(&bytes);
    store.remember_manifest(&app, &refused, MANIFEST, &Bytes::from(bytes), &manifest);
    store.remember_tag(&app, &"2".parse().unwrap(), &TagRecord { digest: refused, ..store.tag(&app, &"1".parse().unwrap()).unwrap() });
    assert_eq!(store.sweep(u64::MAX).await.unwrap().blobs, 1, "memory has the manifest");
    drop(store);
    let store = open_store(dir.path()).await;
    assert_eq!(store.tags(&app), ["1"]);
    assert_eq!(store.sweep(u64::MAX).await.unwrap().blobs, 1, "it is gone, and its layer with it");
    assert_eq!(blobs_on_disk(dir.path()), [whole, digest_of(b"named")].into());
    check_sound(&store, dir.path()).await;
}

#[tokio::test]
async fn records_that_the_disk_refused_are_written_at_the_next_start() {
    let (dir, store) = mk_store().await;
    put_image(&store, "a.b/app", "1", &["layer"]).await;
    drop(store);
    std::fs::remove_dir_all(dir.path().join("refs")).unwrap();
    let store = open_store(dir.path()).await;
    assert_eq!(store.sweep(u64::MAX).await.unwrap(), Orphans::default());
    check_sound(&store, dir.path()).await;
    drop(store);
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    assert_eq!(open_store(dir.path()).await.tags(&repository("a.b/app")), ["1"]);
}

#[tokio::test]
async fn an_orderly_end_after_a_refusal_has_the_next_start_look() {
    let (dir, store) = mk_store().await;
    // Manifests may pass the limit by 1 MiB.
    let bytes = Bytes::from(vec![b' '; 2 << 20]);
    store.set_limit(1, 1);
    let refused = store.persist_manifest(repository("a.b/app"), digest_of(&bytes), MANIFEST.to_owned(), bytes, None, 0).await;
    assert!(matches!(refused, Err(StoreError::NoRoom { .. })), "{refused:?}");
    store.close();
    drop(store);
    assert_eq!(open_store(dir.path()).await.usage().index_rebuilds, 1);
}

#[tokio::test]
async fn what_a_crash_left_of_a_deletion_is_found() {
    let (dir, store) = mk_store().await;
    put_image(&store, "a.b/app", "1", &["layer"]).await;
    drop(store);
    std::fs::remove_dir_all(dir.path().join("refs")).unwrap();
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    let store = open_store(dir.path()).await;
    assert_eq!(blobs_on_disk(dir.path()).len(), 2);
    assert_eq!(store.sweep(u64::MAX).await.unwrap().blobs, 2);
    assert!(blobs_on_disk(dir.path()).is_empty());
    check_sound(&store, dir.path()).await;
}

#[tokio::test]
async fn a_blob_that_is_hashed_anew_may_be_paused_between_steps() {
    struct Count(u64, u32);
    impl Pause for Count {
        async fn after(&mut self, bytes: u64) {
            (self.0, self.1) = (self.0 + bytes, self.1 + 1);
        }
    }
    let (_dir, store) = mk_store().await;
    let digest = put_blob(&store, &vec![7; (2 << 20) + 5]).await;
    let mut count = Count(0, 0);
    assert_eq!(store.verify_with(&digest, &mut count).await.unwrap(), Checked::Good { bytes: (2 << 20) + 5 });
    assert_eq!((count.0, count.1), ((2 << 20) + 5, 3));
    let digests: Vec<Digest> = store.committed_after(None, 10);
    assert_eq!(digests, [digest]);
    assert!(store.committed_after(Some(&digest), 10).is_empty());
}

#[tokio::test]
async fn when_an_image_goes_it_is_settled_whose_its_content_is() {
    for is_open in [true, false] {
        let (_dir, store) = mk_store().await;
        put_image(&store, "a.b/app", "1", &["layer"]).await;
        let layer = digest_of(b"layer");
        store.came(&repository("a.b/app"), &layer);
        // It is not known of these whether the layer came for them.
        let maybe = LinkRecord { claimed: true, recovered: true, ..LinkRecord::default() };
        for path in ["a.b/sibling", "c.d/else"] {
            put_manifest(&store, &repository(path), &manifest_of(&["layer"]), Some("1")).await;
            let key = layout::in_repository(&repository(path), &digest_key(&layer));
            store.inner.index.put(Table::Links, &key, record::encode(&maybe));
        }
        let removed = store.remove_images(vec![Victim { is_open, ..victim("a.b/app", tag("1")) }], Vec::new()).await.unwrap();
        assert!(matches!(removed[..], [Removal::Removed { .. }]), "{removed:?}");
        let seen = ["a.b/sibling", "c.d/else"].map(|path| {
            let link = store.link(&repository(path), &layer).unwrap();
            (link.claimed, link.recovered)
        });
        let expected = if is_open { [(false, false), (false, false)] } else { [(true, true), (true, false)] };
        assert_eq!(seen, expected, "open: {is_open}");
    }
}
