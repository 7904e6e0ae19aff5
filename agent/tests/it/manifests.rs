//! Manifests are served exactly as upstream sent them, whatever kind they are of.

use futures_util::future::join_all;

use crate::support::agent::TestAgent;
use crate::support::client::Got;
use crate::support::images::{self, Image, digest_of};
use crate::support::registry::{FakeRegistry, Fault, LocalPath, On};
use crate::support::scene::{Scene, pull, pull_by_digest};
use crate::support::wait::until_some;

/// Every header that a client reads.
fn check_headers(got: &Got, image: &Image) {
    assert_eq!(got.header("docker-content-digest"), Some(image.digest.to_string().as_str()));
    assert_eq!(got.header("content-type"), Some(image.media_type));
    assert_eq!(got.header("content-length"), Some(image.bytes.len().to_string().as_str()));
    assert_eq!(got.header("etag"), Some(format!("\"{}\"", image.digest).as_str()));
}

#[tokio::test]
async fn every_kind_is_served_byte_for_byte_with_and_without_upstream() {
    let simple = images::simple(1, &[1000, 2000]);
    let kinds = [
        images::docker(2, &[1000]),
        images::docker_list(3, 1000),
        images::multi_platform(4, 1000),
        images::nested(5, 1000),
        images::zstd(6, &[1000]),
        images::referrer(7, "application/vnd.example.signature", &simple),
        simple,
    ];
    let mut upstream = FakeRegistry::start();
    let agent = TestAgent::start(&upstream).await;
    let app = upstream.repository("team/app");
    for (tag, image) in kinds.iter().enumerate() {
        image.push(&upstream, "team/app", &tag.to_string());
        pull(&agent, &app, &tag.to_string(), image).await;
    }
    upstream.stop().await;
    for (tag, image) in kinds.iter().enumerate() {
        pull(&agent, &app, &tag.to_string(), image).await;
        let got = agent.get(&app.manifest(tag)).await.expect(200).expect_bytes(&image.bytes);
        check_headers(&got, image);
    }
}

#[tokio::test]
async fn head_says_what_get_says() {
    let scene = Scene::new(&[10]).await;
    for _cold_then_warm in 0..2 {
        for reference in ["1".to_owned(), scene.image.digest.to_string()] {
            let head = scene.agent.head(&scene.app.manifest(reference)).await.expect(200);
            check_headers(&head, &scene.image);
            assert!(head.body.is_empty());
        }
    }
}

#[tokio::test]
async fn head_of_an_unknown_tag_is_one_get_upstream_and_the_clients_get_is_none() {
    let scene = Scene::new(&[10]).await;
    scene.agent.head(&scene.app.manifest("1")).await.expect(200);
    scene.manifest().await;
    scene.agent.get(&scene.app.manifest(scene.image.digest)).await.expect(200).expect_bytes(&scene.image.bytes);
    assert_eq!(scene.upstream.count(&On::manifests().get()), 1);
    assert_eq!(scene.upstream.count(&On::manifests().head()), 0);
}

#[tokio::test]
async fn a_manifest_by_digest_is_fetched_once() {
    let scene = Scene::new(&[10]).await;
    let path = scene.app.manifest(scene.image.digest);
    for _ in 0..3 {
        scene.agent.head(&path).await.expect(200);
        scene.agent.get(&path).await.expect(200).expect_bytes(&scene.image.bytes);
    }
    assert_eq!(scene.upstream.count(&On::manifests()), 1);
}

#[tokio::test]
async fn many_who_ask_for_one_manifest_cause_one_request() {
    let scene = Scene::new(&[10]).await;
    let path = scene.app.manifest("1");
    let answers = join_all((0..32).map(|_| scene.agent.get(&path))).await;
    for got in answers {
        got.expect(200).expect_bytes(&scene.image.bytes);
    }
    assert_eq!(scene.upstream.count(&On::manifests()), 1);
}

#[tokio::test]
async fn what_the_client_has_already_is_not_sent_again() {
    let scene = Scene::new(&[10]).await;
    let own = format!("\"{}\"", scene.image.digest);
    for header in [own.clone(), format!("W/{own}"), format!("\"other\", {own}"), "*".to_owned()] {
        for reference in ["1".to_owned(), scene.image.digest.to_string()] {
            let path = scene.app.manifest(reference);
            let got = scene.agent.get_with(&path, &[("if-none-match", &header)]).await.expect(304);
            assert_eq!((got.body.len(), got.header("etag")), (0, Some(own.as_str())), "{header}");
        }
    }
    for header in ["\"other\"", "garbage", &scene.image.digest.to_string()[..20]] {
        let got = scene.agent.get_with(&scene.app.manifest("1"), &[("if-none-match", header)]).await;
        got.expect(200).expect_bytes(&scene.image.bytes);
    }
}

#[tokio::test]
async fn four_mebibytes_are_served_and_more_than_sixteen_refused() {
    let upstream = FakeRegistry::start();
    let agent = TestAgent::start(&upstream).await;
    let app = upstream.repository("app");
    let large = images::padded(1, 4 << 20);
    large.push(&upstream, "app", "large");
    pull(&agent, &app, "large", &large).await;
    let huge = images::padded(2, (16 << 20) + 1);
    huge.push(&upstream, "app", "huge");
    for reference in ["huge".to_owned(), huge.digest.to_string()] {
        for fault in [None, Some(Fault::NoLength)] {
            upstream.fault_times(1, On::manifests(), fault.unwrap_or(Fault::Header("x-nothing", "1".to_owned())));
            let got = agent.get(&app.manifest(&reference)).await;
            assert!(got.status >= 400, "{}", got.status);
            got.error_code();
        }
    }
    assert!(!agent.blob_file(&huge.digest).exists());
    pull(&agent, &app, "large", &large).await;
}

#[tokio::test]
async fn unknown_manifests_are_unknown() {
    let scene = Scene::new(&[10]).await;
    let nowhere = scene.upstream.repository("nowhere");
    let absent = digest_of(b"absent");
    for path in [scene.app.manifest("2"), scene.app.manifest(absent), nowhere.manifest("1"), nowhere.manifest(scene.image.digest)] {
        let code = scene.agent.get(&path).await.expect(404).error_code();
        assert!(matches!(code.as_str(), "MANIFEST_UNKNOWN" | "NAME_UNKNOWN"), "{path}: {code}");
        assert!(scene.agent.head(&path).await.expect(404).body.is_empty());
    }
    scene.image.push(&scene.upstream, "app", "2");
    scene.agent.get(&scene.app.manifest("2")).await.expect(200);
}

#[tokio::test]
async fn a_manifest_of_one_repository_is_none_of_another() {
    let scene = Scene::new(&[10]).await;
    scene.pull().await;
    images::simple(9, &[10]).push(&scene.upstream, "other", "1");
    let other = scene.upstream.repository("other");
    scene.agent.get(&other.manifest(scene.image.digest)).await.expect(404);
    scene.image.push_untagged(&scene.upstream, "other");
    pull_by_digest(&scene.agent, &other, &scene.image).await;
}

#[tokio::test]
async fn wrong_bytes_by_digest_are_neither_served_nor_kept() {
    let scene = Scene::new(&[10]).await;
    let path = scene.app.manifest(scene.image.digest);
    for fault in [Fault::FlipFirst, Fault::FlipLast, Fault::CutLast(1), Fault::Append(1)] {
        let lies = scene.upstream.fault_until_end(On::manifests(), fault);
        let got = scene.agent.get(&path).await;
        assert!(got.status >= 500, "{}", got.status);
        got.error_code();
        assert!(!scene.agent.blob_file(&scene.image.digest).exists());
        lies.end();
    }
    scene.agent.get(&path).await.expect(200).expect_bytes(&scene.image.bytes);
}

#[tokio::test]
async fn the_digest_is_that_of_the_bytes_whatever_upstream_says() {
    let scene = Scene::new(&[10]).await;
    let wrong = digest_of(b"other").to_string();
    for (tag, fault) in ["a", "b", "c"].into_iter().zip([Fault::NoDigest, Fault::SayDigest(wrong), Fault::SayDigest("x".to_owned())]) {
        scene.upstream.tag("app", tag, scene.image.digest);
        scene.upstream.fault_times(1, On::manifest("app", tag), fault);
        let got = scene.agent.get(&scene.app.manifest(tag)).await;
        if got.status == 200 {
            check_headers(&got.expect_bytes(&scene.image.bytes), &scene.image);
        } else {
            assert_eq!((tag, got.status), ("b", 502), "only a digest that contradicts the bytes may be refused");
        }
        scene.agent.get(&scene.app.manifest(tag)).await.expect(200).expect_bytes(&scene.image.bytes);
    }
}

#[tokio::test]
async fn without_a_type_from_upstream_the_manifests_own_is_served() {
    let upstream = FakeRegistry::start();
    let agent = TestAgent::start(&upstream).await;
    let app = upstream.repository("app");
    upstream.fault(On::manifests(), Fault::NoType);
    for image in [images::docker_list(1, 10), images::simple(2, &[10])] {
        image.push(&upstream, "app", "1");
        check_headers(&agent.get(&app.manifest(image.digest)).await.expect(200).expect_bytes(&image.bytes), &image);
    }
}

#[tokio::test]
async fn a_login_page_is_no_manifest() {
    let scene = Scene::new(&[10]).await;
    let page = Fault::Body("text/html", "<html>Please log in</html>".to_owned());
    scene.upstream.fault_times(1, On::manifest("app", "1"), page);
    let got = scene.agent.get(&scene.app.manifest("1")).await;
    assert!(got.status >= 500, "{}", got.status);
    got.error_code();
    assert_eq!(scene.agent.files("blobs"), Vec::<std::path::PathBuf>::new());
    until_some("the manifest is served", async || (scene.agent.get(&scene.app.manifest("1")).await.status == 200).then_some(())).await;
    scene.manifest().await;
}

#[tokio::test]
async fn one_broken_connection_fails_no_pull() {
    let scene = Scene::new(&[10]).await;
    for (tag, fault) in ["a", "b", "c"].into_iter().zip([Fault::BreakHead, Fault::Status(500), Fault::BreakAfter(10)]) {
        scene.upstream.tag("app", tag, scene.image.digest);
        scene.upstream.fault_times(1, On::manifests(), fault);
        scene.agent.get(&scene.app.manifest(tag)).await.expect(200).expect_bytes(&scene.image.bytes);
    }
}

#[tokio::test]
async fn upstreams_failures_keep_their_kind() {
    let upstream = FakeRegistry::start();
    let image = images::simple(1, &[10]);
    let agent = TestAgent::start(&upstream).await;
    for (name, status, want) in [("a", 401, 401), ("b", 403, 403), ("c", 404, 404), ("d", 500, 502), ("e", 503, 502)] {
        image.push(&upstream, name, "1");
        upstream.fault(On::repository(name), Fault::Status(status));
        let got = agent.get(&upstream.repository(name).manifest("1")).await;
        let code = got.error_code();
        // 401 would make the runtime look for credentials for the agent itself; 403 says the same without that.
        let same = got.status == want || (want == 401 && got.status == 403) || (want == 502 && (500..=504).contains(&got.status));
        assert!(same, "{status} became {} {code}", got.status);
    }
}

#[tokio::test]
async fn the_mirror_form_names_the_same_image() {
    let mut scene = Scene::new(&[1000]).await;
    scene.pull().await;
    scene.upstream.stop().await;
    let host = scene.upstream.host();
    let path = format!("/v2/app/manifests/1?ns={host}");
    scene.agent.get(&path).await.expect(200).expect_bytes(&scene.image.bytes);
    let path = format!("/v2/app/blobs/{}?ns={host}", scene.layer().digest);
    scene.agent.get(&path).await.expect(200).expect_bytes(&scene.layer().bytes);
}

#[tokio::test]
async fn a_repository_may_be_named_like_a_marker() {
    let upstream = FakeRegistry::start();
    let agent = TestAgent::start(&upstream).await;
    let image = images::simple(1, &[1000]);
    for name in ["manifests", "a/blobs/b", "tags/list", "v2/manifests/x/blobs"] {
        image.push(&upstream, name, "1");
        pull(&agent, &upstream.repository(name), "1", &image).await;
    }
}

#[tokio::test]
async fn a_registry_that_cannot_be_reached_is_a_bad_gateway() {
    let mut scene = Scene::new(&[10]).await;
    scene.upstream.stop().await;
    let got = scene.agent.get(&scene.app.manifest("1")).await;
    assert!((502..=504).contains(&got.status), "{}", got.status);
    got.error_code();
    let nobody = LocalPath::new("registry.invalid", "app");
    let got = scene.agent.get(&nobody.manifest("1")).await;
    assert!((502..=504).contains(&got.status), "{}", got.status);
}

#[tokio::test]
async fn upstream_is_offered_every_kind_of_manifest() {
    let scene = Scene::new(&[10]).await;
    scene.manifest().await;
    let seen = &scene.upstream.seen(&On::manifests())[0];
    let accept = seen.header("accept").unwrap();
    for kind in [images::OCI_INDEX, images::DOCKER_LIST, images::OCI_MANIFEST, images::DOCKER_MANIFEST] {
        assert!(accept.contains(kind), "{kind} is not in {accept}");
    }
    assert_eq!(seen.header("accept-encoding").unwrap_or("identity"), "identity");
}

#[tokio::test]
async fn a_manifest_may_be_redirected_to_another_host() {
    for status in [301, 302, 303, 307, 308] {
        let elsewhere = FakeRegistry::builder().host([127, 0, 0, 2]).start();
        let upstream = FakeRegistry::start();
        let agent = TestAgent::builder().plain_http(&upstream).args(["--tag-fresh-for", "0s"]).start().await;
        let app = upstream.repository("app");
        let image = images::simple(1, &[1000]);
        image.push(&elsewhere, "mirror/app", "1");
        for reference in ["1".to_owned(), image.digest.to_string()] {
            let to = format!("{}/v2/mirror/app/manifests/{reference}", elsewhere.url());
            upstream.fault(On::manifest("app", reference), Fault::RedirectWith(status, to));
        }
        for blob in &image.blobs {
            upstream.fault(On::blob(&blob.digest), Fault::RedirectWith(status, elsewhere.cdn_url(&blob.digest)));
        }
        for _ in 0..2 {
            pull(&agent, &app, "1", &image).await;
            let got = agent.get(&app.manifest("1")).await.expect(200).expect_bytes(&image.bytes);
            assert_eq!(got.header("warning"), None, "{status}");
        }
    }
}

#[tokio::test]
async fn no_header_of_upstream_changes_a_byte() {
    let scene = Scene::new(&[100_000]).await;
    for header in [("content-encoding", "gzip"), ("content-encoding", "zstd"), ("content-type", "text/plain; charset=utf-16")] {
        scene.upstream.fault(On::any(), Fault::Header(header.0, header.1.to_owned()));
    }
    scene.manifest().await;
    scene.get_layer().await;
}
