//! A manifest that names what came for another.

use super::*;
use crate::store::{Removal, Victim};

/// A registry of somebody who knows the digest of another's layer: it says that it has it, and what it sends is `sent`.
async fn liar(sent: impl Fn() -> Reply + Send + Sync + 'static) -> Server {
    Server::http(move |seen| {
        let body = manifest();
        if seen.path.contains("/blobs/") {
            return if seen.method == http::Method::HEAD { Reply::status(200).header("content-length", "7") } else { sent() };
        }
        let digest = digest(&body).to_string();
        Reply::ok(body).header("content-type", MANIFEST).header("docker-content-digest", &digest)
    })
    .await
}

/// A cache and rights over what the scene has stored, with a registry more.
async fn beside(scene: &Scene, evil: &Server) -> (Cache, Access) {
    let mut config = Config { upstream: mk_plain(&scene.server), auth: scene.auth.clone(), ..Config::default() };
    config.upstream.registries.extend(mk_plain(evil).registries);
    config.upstream.stall_timeout = Duration::from_secs(30);
    scene.beside(&config).await
}

/// Somebody who shows nothing gets the manifest of a repository there, which names the layer: the repository, and as whom.
async fn claiming(cache: &Cache, access: &Access, evil: &Server, name: &str) -> (Repository, Requester) {
    let theirs = repo(&evil.registry, name);
    let by = access.admit(None, &theirs, &tag("1")).await.unwrap();
    cache.manifest(&by, &theirs, &one()).await.unwrap();
    (theirs, by)
}

fn one() -> Target {
    Target::Tag("1".parse().unwrap())
}

#[tokio::test]
async fn a_manifest_elsewhere_that_names_a_private_layer_opens_nothing() {
    let scene = Scene::new(401, HOUR).await;
    scene.pull(Some("team")).await.unwrap();
    let evil = liar(|| Reply::status(404).header("content-length", "0")).await;
    let (cache, access) = beside(&scene, &evil).await;
    let (theirs, by) = claiming(&cache, &access, &evil, "open").await;
    assert!(cache.blob(&by, &theirs, &digest(LAYER)).await.is_err(), "the layer came for another");
}

#[tokio::test]
async fn another_repository_of_the_registry_has_it_if_the_registry_says_so_and_that_is_remembered() {
    let scene = Scene::new(401, HOUR).await;
    scene.pull(Some("team")).await.unwrap();
    let evil = liar(Reply::never).await;
    let (cache, access) = beside(&scene, &evil).await;
    access.inner.rights.disprove(&scene.app, "team");
    let sibling = repo(&scene.server.registry, "sibling");
    let by = namespace("team");
    cache.manifest(&by, &sibling, &one()).await.unwrap();
    scene.set_door(404);
    assert!(cache.blob(&by, &sibling, &digest(LAYER)).await.is_err(), "the registry does not have it there");
    scene.set_door(401);
    let asked = scene.server.count();
    cache.blob(&by, &sibling, &digest(LAYER)).await.unwrap();
    assert_eq!(scene.server.count() - asked, 1, "a HEAD: {:?}", &scene.server.seen()[asked..]);
    cache.blob(&by, &sibling, &digest(LAYER)).await.unwrap();
    assert_eq!(scene.server.count() - asked, 1);
}

#[tokio::test]
async fn a_registry_that_holds_a_layer_back_gets_none_and_holds_nobody_up() {
    let scene = Scene::new(401, HOUR).await;
    let evil = liar(Reply::never).await;
    let (cache, access) = beside(&scene, &evil).await;
    let (theirs, by) = claiming(&cache, &access, &evil, "open").await;
    let waiting = tokio::spawn({
        let (cache, by, theirs) = (cache.clone(), by.clone(), theirs.clone());
        async move { cache.blob(&by, &theirs, &digest(LAYER)).await.map(drop) }
    });
    while !evil.seen().iter().any(|seen| seen.path.contains("/blobs/")) {
        tokio::task::yield_now().await;
    }
    // The private layer comes meanwhile, and does not wait for the other's.
    let team = access.admit(Some(&scene.token("team")), &scene.app, &tag("1")).await.unwrap();
    cache.manifest(&team, &scene.app, &one()).await.unwrap();
    let blob = tokio::time::timeout(Duration::from_secs(20), cache.blob(&team, &scene.app, &digest(LAYER))).await;
    drop(blob.expect("another registry must not hold it up").unwrap());
    while scene.store.blob_record(&digest(LAYER)).is_none() {
        tokio::task::yield_now().await;
    }
    let link = scene.store.link(&theirs, &digest(LAYER)).unwrap();
    assert!(link.claimed, "what only waits has brought nothing");
    assert_eq!(cache.claim(&by, &theirs, &digest(LAYER), Some(&link)).await, crate::cache::Claim::Anothers);
    assert!(!waiting.is_finished());
    // Neither for another repository of its own that only joined the wait.
    let (sibling, by) = claiming(&cache, &access, &evil, "sibling").await;
    let link = scene.store.link(&sibling, &digest(LAYER)).unwrap();
    assert_eq!(cache.claim(&by, &sibling, &digest(LAYER), Some(&link)).await, crate::cache::Claim::Anothers);
    waiting.abort();
}

#[tokio::test]
async fn what_a_registry_has_sent_is_known_to_be_its_own() {
    let scene = Scene::new(401, HOUR).await;
    scene.pull(Some("team")).await.unwrap();
    let honest = liar(|| Reply::ok(LAYER)).await;
    let (cache, access) = beside(&scene, &honest).await;
    let (theirs, by) = claiming(&cache, &access, &honest, "open").await;
    let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
    let content = cache.blob(&by, &theirs, &digest(LAYER)).await.unwrap().content;
    let sent: Vec<_> = futures_util::TryStreamExt::try_collect(content.stream(None, metrics)).await.unwrap();
    assert_eq!(sent.concat(), LAYER);
    let asked = honest.count();
    cache.blob(&by, &theirs, &digest(LAYER)).await.unwrap();
    assert_eq!(honest.count(), asked, "it is here");
}

#[tokio::test]
async fn an_image_that_was_fetched_ahead_is_its_registrys_own_layer_by_layer() {
    let scene = Scene::new(401, HOUR).await;
    scene.pull(Some("team")).await.unwrap();
    let honest = liar(|| Reply::ok(LAYER)).await;
    let (cache, _) = beside(&scene, &honest).await;
    let image = format!("{}:1", repo(&honest.registry, "open")).parse().unwrap();
    cache.fetch(&image, &crate::cache::Platforms::All).await.unwrap();
    let link = scene.store.link(&repo(&honest.registry, "open"), &digest(LAYER)).unwrap();
    assert!(!link.claimed, "{link:?}");
}

/// The index was lost: the layer came for `app` or for `theirs`, which is of a registry that does not give it.
struct Doubt {
    scene: Scene,
    cache: Cache,
    access: Access,
    theirs: Repository,
    by: Requester,
    _evil: Server,
}

impl Doubt {
    async fn new() -> Self {
        let scene = Scene::new(401, HOUR).await;
        scene.pull(Some("team")).await.unwrap();
        let evil = liar(|| Reply::status(404).header("content-length", "0")).await;
        let (cache, access) = beside(&scene, &evil).await;
        let (theirs, by) = claiming(&cache, &access, &evil, "open").await;
        access.flush(&scene.store).await;
        drop((cache, access));
        let scene = scene.restarted_after(|dir| std::fs::remove_dir_all(dir.join("index")).unwrap()).await;
        let (cache, access) = beside(&scene, &evil).await;
        Self { scene, cache, access, theirs, by, _evil: evil }
    }
}

#[tokio::test]
async fn after_the_index_was_lost_what_came_from_one_of_two_goes_to_who_may_have_it_from_both() {
    let Doubt { scene, cache, access, theirs, by, _evil } = Doubt::new().await;
    assert_eq!(access.admit(None, &theirs, &tag("1")).await.unwrap(), by);
    assert!(cache.blob(&by, &theirs, &digest(LAYER)).await.is_err(), "it may have come for the other");
    let asked = scene.server.count();
    cache.blob(&namespace("team"), &scene.app, &digest(LAYER)).await.unwrap();
    assert_eq!(scene.server.count(), asked, "the team may have it from either");
}

#[tokio::test]
async fn who_joined_a_download_that_brings_nothing_has_proven_nothing() {
    let scene = Scene::new(401, HOUR).await;
    let evil = liar(Reply::never).await;
    let (cache, access) = beside(&scene, &evil).await;
    let (mut waiting, mut names) = (Vec::new(), Vec::new());
    for name in ["first", "second"] {
        let (name, by) = claiming(&cache, &access, &evil, name).await;
        names.push(name.clone());
        let cache = cache.clone();
        waiting.push(tokio::spawn(async move { cache.blob(&by, &name, &digest(LAYER)).await.map(drop) }));
        while !evil.seen().iter().any(|seen| seen.path.contains("/blobs/")) {
            tokio::task::yield_now().await;
        }
    }
    // Both have come to wait for the one download.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    scene.pull(Some("team")).await.unwrap();
    for name in &names {
        let link = scene.store.link(name, &digest(LAYER)).unwrap();
        assert!(link.claimed, "{name}");
        assert_eq!(cache.claim(&Requester::Anyone, name, &digest(LAYER), Some(&link)).await, crate::cache::Claim::Anothers, "{name}");
    }
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn after_an_unclean_stop_a_claim_is_worth_no_more_than_before() {
    let scene = Scene::new(401, HOUR).await;
    scene.pull(Some("team")).await.unwrap();
    let evil = liar(|| Reply::status(404).header("content-length", "0")).await;
    let (cache, access) = beside(&scene, &evil).await;
    let (theirs, by) = claiming(&cache, &access, &evil, "open").await;
    remove(&scene, &scene.app, false).await;
    assert!(scene.store.blob_record(&digest(LAYER)).is_some(), "the claim keeps it");
    access.flush(&scene.store).await;
    drop((cache, access));
    let scene = scene.restarted().await;
    let (cache, access) = beside(&scene, &evil).await;
    assert_eq!(access.admit(None, &theirs, &tag("1")).await.unwrap(), by);
    assert!(cache.blob(&by, &theirs, &digest(LAYER)).await.is_err(), "it came for another, which is gone");
}

#[tokio::test]
async fn what_was_open_to_everybody_stays_with_who_claims_it_when_it_goes() {
    for is_open in [true, false] {
        let scene = Scene::new(401, HOUR).await;
        scene.pull(Some("team")).await.unwrap();
        let other = liar(|| Reply::status(404).header("content-length", "0")).await;
        let (cache, access) = beside(&scene, &other).await;
        let (theirs, by) = claiming(&cache, &access, &other, "open").await;
        remove(&scene, &scene.app, is_open).await;
        assert_eq!(cache.blob(&by, &theirs, &digest(LAYER)).await.is_ok(), is_open);
    }
}

/// The image goes, in a repository that everybody may have or not.
async fn remove(scene: &Scene, repository: &Repository, is_open: bool) {
    let victim = Victim { repository: repository.clone(), target: one(), unused_since: u64::MAX, only_if_certain: true, is_open };
    let removal = scene.store.remove_image(victim, Vec::new()).await.unwrap();
    assert!(matches!(removal, Removal::Removed { .. }), "{removal:?}");
}

/// The layer came for `app`; the manifest of `sibling`, which is of the same registry, claims it.
async fn sibling() -> (Scene, Repository) {
    let scene = Scene::new(401, HOUR).await;
    scene.pull(Some("team")).await.unwrap();
    let sibling = repo(&scene.server.registry, "sibling");
    scene.cache.manifest(&namespace("team"), &sibling, &one()).await.unwrap();
    (scene, sibling)
}

#[tokio::test]
async fn a_registry_that_is_away_has_looked_and_one_that_only_wants_less_has_not() {
    for (door, is_given) in [(Some(429), false), (Some(404), false), (Some(501), false), (Some(503), true), (None, true)] {
        let (mut scene, sibling) = sibling().await;
        scene.access.inner.rights.disprove(&scene.app, "team");
        match door {
            Some(status) => scene.set_door(status),
            None => scene.server = Server::http(|_| Reply::never()).await,
        }
        let outcome = scene.cache.blob(&namespace("team"), &sibling, &digest(LAYER)).await;
        assert_eq!(outcome.is_ok(), is_given, "{door:?}: {outcome:?}");
        let asked = scene.server.count();
        if is_given {
            scene.cache.blob(&namespace("team"), &sibling, &digest(LAYER)).await.unwrap();
            assert_eq!(scene.server.count(), asked, "each request would wait for it");
        }
    }
}

#[tokio::test]
async fn trouble_with_one_repository_says_nothing_of_another() {
    let (scene, sibling) = sibling().await;
    let other = repo(&scene.server.registry, "other");
    scene.cache.manifest(&namespace("team"), &other, &one()).await.unwrap();
    scene.access.inner.rights.disprove(&scene.app, "team");
    scene.set_door(503);
    scene.cache.blob(&namespace("team"), &sibling, &digest(LAYER)).await.unwrap();
    scene.set_door(404);
    assert!(scene.cache.blob(&namespace("team"), &other, &digest(LAYER)).await.is_err());
}

#[tokio::test]
async fn what_who_asks_may_have_anyway_is_confirmed_once_for_the_time_when_they_may_not() {
    let (scene, sibling) = sibling().await;
    let asked = scene.server.count();
    scene.cache.blob(&namespace("team"), &sibling, &digest(LAYER)).await.unwrap();
    assert_eq!(scene.server.count() - asked, 1, "a HEAD: {:?}", &scene.server.seen()[asked..]);
    assert!(!scene.store.link(&sibling, &digest(LAYER)).unwrap().claimed);
    scene.access.inner.rights.disprove(&scene.app, "team");
    scene.cache.blob(&namespace("team"), &sibling, &digest(LAYER)).await.unwrap();
    assert_eq!(scene.server.count() - asked, 1);
}

#[tokio::test]
async fn once_it_is_known_again_where_a_layer_came_from_it_did_not_come_from_others() {
    let Doubt { scene, cache, access, theirs, by, _evil } = Doubt::new().await;
    assert!(scene.store.link(&theirs, &digest(LAYER)).unwrap().recovered);
    assert_eq!(access.admit(None, &theirs, &tag("1")).await.unwrap(), by);
    // The registry sends it to the team once more, and it goes.
    scene.store.came(&scene.app, &digest(LAYER));
    remove(&scene, &scene.app, false).await;
    assert!(cache.blob(&by, &theirs, &digest(LAYER)).await.is_err(), "it came for another");
}

#[tokio::test]
async fn after_the_index_was_lost_an_image_has_its_own_layers() {
    let scene = Scene::new(401, HOUR).await;
    scene.pull(Some("team")).await.unwrap();
    let scene = scene.restarted_after(|dir| std::fs::remove_dir_all(dir.join("index")).unwrap()).await;
    scene.set_door(404);
    // Somebody whose right is another: it was open when the layer came.
    scene.cache.blob(&Requester::Nobody, &scene.app, &digest(LAYER)).await.unwrap();
}
