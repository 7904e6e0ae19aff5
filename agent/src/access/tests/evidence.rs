//! What counts as a right, and what does not: between a clear yes and a clear no.

use super::*;

#[tokio::test]
async fn what_could_not_all_be_shown_was_not_refused() {
    let scene = Scene::new(401, Duration::ZERO).await;
    scene.pull(Some("team")).await.unwrap();
    scene.purse.secrets.lock().unwrap().insert("team".to_owned(), vec![]);
    scene.purse.incomplete.store(true, Ordering::SeqCst);
    let scene = scene.restarted().await;
    assert_eq!(scene.admit(Some("team"), &tag("1")).await.unwrap(), namespace("team"), "the last proof must count");
    let refusal = scene.admit(Some("bare"), &tag("1")).await.unwrap_err();
    assert!(
        matches!(refusal, Refusal::Denied { reason: "no_credentials", .. }) && refusal.to_string().contains("helper failed"),
        "{refusal}"
    );
    scene.purse.incomplete.store(false, Ordering::SeqCst);
    let scene = scene.restarted().await;
    assert!(matches!(scene.admit(Some("team"), &tag("1")).await, Err(Refusal::Denied { reason: "no_secret", .. })), "that is a refusal");
}

#[tokio::test]
async fn a_node_that_is_given_no_secrets_does_not_go_by_the_last_proof() {
    let scene = Scene::new(401, Duration::ZERO).await;
    scene.pull(Some("team")).await.unwrap();
    scene.purse.refuses.store(true, Ordering::SeqCst);
    let scene = scene.restarted().await;
    assert!(matches!(scene.admit(Some("team"), &tag("1")).await, Err(Refusal::Denied { reason: "no_credentials", .. })));
}

#[tokio::test]
async fn less_than_a_manifest_is_given_and_proves_nothing() {
    let scene = Scene::new(0, Duration::ZERO).await;
    for asked in [Asked::List, Asked::Blob(digest(LAYER))] {
        assert_eq!(scene.admit(None, &asked).await.unwrap(), Requester::Nobody, "{asked:?}");
    }
    assert!(matches!(scene.admit(None, &tag("none")).await, Err(Refusal::Unauthorized { .. })), "it is not there");
    assert_eq!(scene.access.inner.rights.openness(&scene.app), rights::Openness::Unknown);
    scene.set_door(401);
    for asked in [Asked::List, Asked::Blob(digest(LAYER))] {
        assert_eq!(scene.admit(Some("team"), &asked).await.unwrap(), namespace("team"), "{asked:?}");
    }
    assert!(matches!(scene.admit(Some("team"), &tag("none")).await, Err(Refusal::NotThere { .. })));
    assert!(scene.access.inner.rights.proven_at(&scene.app, "team").is_none());
    // And it renews nothing: neither that it is open, nor a proof.
    let long_ago = now_seconds() - 100;
    scene.access.inner.rights.prove(&scene.app, "team", long_ago);
    for asked in [Asked::List, Asked::Blob(digest(LAYER)), tag("none")] {
        assert_eq!(scene.admit(Some("team"), &asked).await.unwrap(), namespace("team"), "{asked:?}");
        assert_eq!(scene.access.inner.rights.proven_at(&scene.app, "team"), Some(long_ago), "{asked:?}");
    }
    scene.set_door(0);
    scene.access.inner.rights.set_openness(&scene.app, rights::Openness::Open { at: long_ago });
    for asked in [Asked::List, Asked::Blob(digest(LAYER)), tag("none")] {
        assert_eq!(scene.admit(None, &asked).await.unwrap(), Requester::Anyone, "{asked:?}");
        assert_eq!(scene.access.inner.rights.openness(&scene.app), rights::Openness::Open { at: long_ago }, "{asked:?}");
    }
}

/// A registry behind a token service that gives those who show nothing no manifest, for there were too many; and their list of tags with `list`
/// as its status.
async fn limited(list: u16) -> Server {
    Server::http(move |seen| {
        let is_own = seen.authorization() == basic("agent", "its own");
        if seen.path.starts_with("/token") {
            return Reply::ok(format!("{{\"token\":\"{}\"}}", if is_own { "agents" } else { "anybodys" }));
        }
        let empty = |status: u16| Reply::status(status).header("content-length", "0");
        match (seen.authorization(), seen.path.ends_with("/tags/list")) {
            ("Bearer anybodys", false) => empty(429).header("retry-after", "600"),
            ("Bearer anybodys", true) if list == 200 => Reply::ok("{\"name\":\"app\",\"tags\":[]}"),
            ("Bearer agents", false) => {
                let body = manifest();
                let digest = digest(&body).to_string();
                Reply::ok(body).header("content-type", MANIFEST).header("docker-content-digest", &digest)
            }
            _ => empty(401).header("www-authenticate", &format!("Bearer realm=\"http://{}/token\"", seen.header("host"))),
        }
    })
    .await
}

#[tokio::test]
async fn a_limit_for_those_who_show_nothing_is_what_the_agents_own_credentials_are_for() {
    for (list, whose, is_open) in [(200, "", true), (401, "", false), (200, "another.", false)] {
        let scene = Scene::new(401, HOUR).await;
        let server = limited(list).await;
        let login = json!({ "auths": { format!("{whose}{}", server.host()): { "auth": STANDARD.encode("agent:its own") } } });
        let file = scene.dir.path().join("auth.json");
        std::fs::write(&file, login.to_string()).unwrap();
        let mut config = Config { upstream: mk_plain(&server), auth: scene.auth.clone(), ..Config::default() };
        config.upstream.auth_file = Some(file);
        let (cache, access) = scene.beside(&config).await;
        let app = repo(&server.registry, "app");
        let admitted = access.admit(None, &app, &tag("1")).await;
        if !is_open {
            assert!(matches!(admitted, Err(Refusal::Unauthorized { .. })), "{admitted:?}");
            continue;
        }
        let by = admitted.unwrap();
        cache.manifest(&by, &app, &Target::Tag("1".parse().unwrap())).await.expect("its own credentials must have fetched it");
        let asked = server.count();
        assert_eq!(access.admit(None, &app, &Asked::Blob(digest(LAYER))).await.unwrap(), Requester::Anyone);
        assert_eq!(server.count(), asked, "it is remembered: {:?}", &server.seen()[asked..]);
    }
}

#[tokio::test]
async fn a_registry_that_is_away_is_waited_for_once_and_not_by_each_request() {
    let scene = Scene::new(401, Duration::ZERO).await;
    let hangs = Server::http(|_| Reply::never()).await;
    let mut config = Config { upstream: mk_plain(&hangs), auth: scene.auth.clone(), ..Config::default() };
    config.tags.revalidate_timeout = Duration::from_millis(200);
    let (_, access) = scene.beside(&config).await;
    let token = scene.token("team");
    let app = repo(&hangs.registry, "app");
    access.inner.rights.prove(&app, "team", now_seconds() - 10);
    for asked in [tag("1"), Asked::Blob(digest(LAYER)), Asked::Blob(digest(b"another layer"))] {
        assert_eq!(access.admit(Some(&token), &app, &asked).await.unwrap(), namespace("team"), "{asked:?}");
    }
    assert_eq!(hangs.count(), 2, "as who shows nothing, and as the team: {:?}", hangs.seen());
}

#[tokio::test]
async fn a_public_image_that_was_fetched_ahead_starts_with_its_registry_away() {
    let scene = Scene::new(0, HOUR).await;
    let image = format!("{}:1", scene.app).parse().unwrap();
    scene.cache.fetch(&image, &crate::cache::Platforms::All).await.unwrap();
    scene.access.learn(&image).await;
    scene.set_door(503);
    let by = scene.admit(None, &tag("1")).await.unwrap();
    scene.cache.manifest(&by, &scene.app, &Target::Tag("1".parse().unwrap())).await.unwrap();
    let by = scene.admit(None, &Asked::Blob(digest(LAYER))).await.unwrap();
    scene.cache.blob(&by, &scene.app, &digest(LAYER)).await.unwrap();
}

#[tokio::test]
async fn what_was_open_once_does_not_wait_for_a_registry_that_hangs() {
    let scene = Scene::new(0, Duration::ZERO).await;
    scene.pull(None).await.unwrap();
    let mut config = Config { upstream: mk_plain(&scene.server), auth: scene.auth.clone(), ..Config::default() };
    config.tags.revalidate_timeout = Duration::from_millis(200);
    let (_, access) = scene.beside(&config).await;
    access.inner.rights.set_openness(&scene.app, rights::Openness::Closed { since: now_seconds() + 1, at: 0 });
    scene.set_door(1);
    let token = scene.token("bare");
    let admitted = tokio::time::timeout(Duration::from_secs(20), access.admit(Some(&token), &scene.app, &tag("1"))).await;
    assert_eq!(admitted.expect("it must not wait for the registry").unwrap(), Requester::Nobody);
}

#[tokio::test]
async fn a_registry_that_is_slow_for_those_who_show_nothing_is_asked_about_a_proof_all_the_same() {
    let scene = Scene::denying().await;
    let server = Server::http(move |seen| {
        if seen.path.starts_with("/token") {
            return match seen.authorization() {
                "" => Reply::never(),
                shown if shown == basic("user", "right") => Reply::ok("{\"token\":\"teams\"}"),
                _ => Reply::status(401).header("content-length", "0"),
            };
        }
        if seen.authorization() == "Bearer teams" {
            let body = manifest();
            let digest = digest(&body).to_string();
            return Reply::ok(body).header("content-type", MANIFEST).header("docker-content-digest", &digest);
        }
        let challenge = format!("Bearer realm=\"http://{}/token\"", seen.header("host"));
        Reply::status(401).header("content-length", "0").header("www-authenticate", &challenge)
    })
    .await;
    let mut config = Config { upstream: mk_plain(&server), auth: scene.auth.clone(), ..Config::default() };
    config.upstream.stall_timeout = Duration::from_secs(30);
    config.tags.revalidate_timeout = Duration::from_secs(2);
    let (_, access) = scene.beside(&config).await;
    let app = repo(&server.registry, "app");
    access.inner.rights.prove(&app, "team", now_seconds() - 10);
    assert_eq!(access.admit(Some(&scene.token("team")), &app, &tag("1")).await.unwrap(), namespace("team"));
}

#[tokio::test]
async fn by_the_other_choice_an_upstream_that_is_away_confirms_nothing() {
    let scene = Scene::denying().await;
    scene.pull(Some("team")).await.unwrap();
    scene.set_door(503);
    let refusal = scene.admit(Some("team"), &tag("1")).await.unwrap_err();
    assert_eq!(refusal.reason(), "unavailable", "{refusal}");
}

#[tokio::test]
async fn by_the_other_choice_a_list_in_the_place_of_an_image_confirms_nothing() {
    let scene = Scene::denying().await;
    scene.pull(Some("team")).await.unwrap();
    assert!(matches!(scene.admit(Some("team"), &tag("none")).await, Err(Refusal::NotThere { .. })));
}
