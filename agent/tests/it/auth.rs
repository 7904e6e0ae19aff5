//! Credentials reach the registry they are for, and nobody else: no other host, no log.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::agent::{Builder, TestAgent, impatient};
use crate::support::images::{self, Image};
use crate::support::registry::{FakeRegistry, Fault, Gate, On, Seen};
use crate::support::scene::pull;
use crate::support::wait::until_some;

const USER: &str = "bob";
const PASSWORD: &str = "hunter2-hunter2";
/// `bob:hunter2-hunter2`
const BASIC: &str = "Ym9iOmh1bnRlcjItaHVudGVyMg==";

/// A registry that gives `app` to bob alone, and `public` to all who have a token.
fn private_registry() -> (FakeRegistry, Image) {
    let upstream = FakeRegistry::start();
    let image = images::simple(1, &[100_000, 1000]);
    image.push(&upstream, "app", "1");
    image.push(&upstream, "public", "1");
    upstream.add_user(USER, PASSWORD);
    upstream.make_private("app", &[USER]);
    (upstream, image)
}

fn write_auth(dir: &TempDir, config: &Value) -> PathBuf {
    let path = dir.path().join("config.json");
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

fn with_auth(path: &Path) -> Builder {
    TestAgent::builder().args(["--registry-auth", path.to_str().unwrap()])
}

/// An agent with bob's password for this upstream.
async fn bobs_agent(dir: &TempDir, upstream: &FakeRegistry) -> TestAgent {
    let auth = write_auth(dir, &json!({ "auths": { upstream.host(): { "auth": BASIC } } }));
    with_auth(&auth).plain_http(upstream).start().await
}

/// Waits until a tag is stored: until then it is answered from memory.
async fn stored(agent: &TestAgent, upstream: &FakeRegistry, repository: &str) {
    let path = upstream.repository(repository).manifest("1");
    until_some("the tag is stored", async || {
        agent.get(&path).await.expect(200);
        (upstream.count(&On::manifests().head()) > 0).then_some(())
    })
    .await;
}

fn statuses(upstream: &FakeRegistry, status: u16) -> usize {
    upstream.seen(&On::any()).iter().filter(|seen| seen.status() == status).count()
}

fn has_secret(seen: &Seen) -> bool {
    let text = format!("{:?} {} {}", seen.headers, seen.path, seen.query);
    [PASSWORD, BASIC, "issued-token"].iter().any(|secret| text.contains(secret))
}

#[tokio::test]
async fn a_token_for_everyone_is_fetched_without_credentials_and_used_again() {
    let (upstream, image) = private_registry();
    upstream.require_bearer();
    let agent = TestAgent::start(&upstream).await;
    pull(&agent, &upstream.repository("public"), "1", &image).await;
    let tokens = upstream.seen(&On::token());
    assert_eq!(tokens.len(), 1);
    assert_eq!(tokens[0].authorization(), None);
    assert!(
        tokens[0].query.contains("service=test+registry") || tokens[0].query.contains("service=test%20registry"),
        "{}",
        tokens[0].query
    );
    assert_eq!(statuses(&upstream, 401), 1);
}

#[tokio::test]
async fn a_private_repository_is_pulled_with_its_credentials() {
    let (upstream, image) = private_registry();
    upstream.require_bearer();
    let dir = tempfile::tempdir().unwrap();
    let agent = bobs_agent(&dir, &upstream).await;
    pull(&agent, &upstream.repository("app"), "1", &image).await;
    assert_eq!((upstream.count(&On::token()), statuses(&upstream, 401)), (1, 1));
}

#[tokio::test]
async fn basic_is_answered_and_then_sent_at_once() {
    let (upstream, image) = private_registry();
    upstream.require_basic();
    let dir = tempfile::tempdir().unwrap();
    let agent = bobs_agent(&dir, &upstream).await;
    pull(&agent, &upstream.repository("app"), "1", &image).await;
    assert_eq!(statuses(&upstream, 401), 1);
}

#[tokio::test]
async fn all_who_wait_share_one_token_request() {
    let (upstream, _) = private_registry();
    upstream.require_bearer();
    for tag in 0..16 {
        images::simple(100 + tag, &[10]).push(&upstream, "app", &format!("t{tag}"));
    }
    let dir = tempfile::tempdir().unwrap();
    let agent = bobs_agent(&dir, &upstream).await;
    let gate = Gate::new();
    upstream.fault(On::token(), Fault::HoldHead(gate.clone()));
    let app = upstream.repository("app");
    let paths: Vec<String> = (0..16).map(|tag| app.manifest(format!("t{tag}"))).collect();
    let (answers, ()) = tokio::join!(join_all(paths.iter().map(|path| agent.get(path))), async {
        gate.reached().await;
        gate.open();
    });
    for got in answers {
        got.expect(200);
    }
    assert_eq!(upstream.count(&On::token()), 1);
}

#[tokio::test]
async fn a_token_may_come_as_access_token() {
    let (upstream, image) = private_registry();
    upstream.require_bearer();
    upstream.set_token_field("access_token");
    let dir = tempfile::tempdir().unwrap();
    let agent = bobs_agent(&dir, &upstream).await;
    pull(&agent, &upstream.repository("app"), "1", &image).await;
}

#[tokio::test]
async fn an_identity_token_is_exchanged_by_post() {
    let (upstream, image) = private_registry();
    upstream.require_bearer();
    let dir = tempfile::tempdir().unwrap();
    let auth = write_auth(&dir, &json!({ "auths": { upstream.host(): { "identitytoken": PASSWORD } } }));
    let agent = with_auth(&auth).plain_http(&upstream).start().await;
    pull(&agent, &upstream.repository("app"), "1", &image).await;
    let asked = &upstream.seen(&On::token())[0];
    assert_eq!(asked.method, reqwest::Method::POST);
    assert!(asked.query.contains("grant_type=refresh_token"), "{}", asked.query);
}

#[tokio::test]
async fn a_token_that_is_no_longer_good_is_replaced_within_the_request() {
    let (upstream, image) = private_registry();
    upstream.require_bearer();
    let dir = tempfile::tempdir().unwrap();
    let agent = bobs_agent(&dir, &upstream).await;
    let app = upstream.repository("app");
    agent.get(&app.manifest("1")).await.expect(200);
    upstream.revoke_tokens();
    pull(&agent, &app, "1", &image).await;
    assert_eq!(upstream.count(&On::token()), 2);
}

#[tokio::test]
async fn an_expired_token_is_not_sent() {
    let (upstream, image) = private_registry();
    upstream.require_bearer();
    upstream.set_token_lifetime(Duration::ZERO);
    let dir = tempfile::tempdir().unwrap();
    let agent = bobs_agent(&dir, &upstream).await;
    let app = upstream.repository("app");
    agent.get(&app.manifest("1")).await.expect(403);
    let in_vain = upstream.count(&On::token());
    upstream.set_token_lifetime(Duration::from_secs(300));
    pull(&agent, &app, "1", &image).await;
    assert_eq!(upstream.count(&On::token()), in_vain + 1);
}

#[tokio::test]
async fn a_download_that_outlives_its_token_is_resumed_with_a_new_one() {
    let (upstream, image) = private_registry();
    upstream.require_bearer();
    let dir = tempfile::tempdir().unwrap();
    let agent = bobs_agent(&dir, &upstream).await;
    let app = upstream.repository("app");
    agent.get(&app.manifest("1")).await.expect(200);
    let gate = Gate::new();
    let layer = image.layer();
    upstream.fault_times(1, On::blob(&layer.digest), Fault::HoldBody(50_000, gate.clone()));
    upstream.fault_times(1, On::blob(&layer.digest), Fault::BreakAfter(50_000));
    let path = app.blob(&layer.digest);
    let (got, ()) = tokio::join!(agent.get(&path), async {
        gate.reached().await;
        upstream.revoke_tokens();
        gate.open();
    });
    got.expect(200).expect_bytes(&layer.bytes);
}

#[tokio::test]
async fn a_wrong_password_is_a_refusal_and_a_cached_tag_still_starts() {
    for bearer in [true, false] {
        let (upstream, image) = private_registry();
        let dir = tempfile::tempdir().unwrap();
        let auth = json!({ "auths": { upstream.host(): { "username": USER, "password": "wrong" } } });
        let agent = with_auth(&write_auth(&dir, &auth)).plain_http(&upstream).args(["--tag-fresh-for", "0s"]).start().await;
        let app = upstream.repository("app");
        // Open as yet: it is pulled. Then the door is shut.
        pull(&agent, &app, "1", &image).await;
        stored(&agent, &upstream, "app").await;
        if bearer {
            upstream.require_bearer()
        } else {
            upstream.require_basic()
        }
        let got = agent.get(&app.manifest("2")).await.expect(403);
        assert_eq!(got.error_code(), "DENIED");
        let got = agent.get(&app.manifest("1")).await.expect(200).expect_bytes(&image.bytes);
        assert!(got.header("warning").is_some());
    }
}

#[tokio::test]
async fn a_wrong_password_does_not_keep_public_images_away() {
    let (upstream, image) = private_registry();
    upstream.require_bearer();
    let dir = tempfile::tempdir().unwrap();
    let auth = json!({ "auths": { upstream.host(): { "username": USER, "password": "wrong" } } });
    let agent = with_auth(&write_auth(&dir, &auth)).plain_http(&upstream).start().await;
    pull(&agent, &upstream.repository("public"), "1", &image).await;
}

#[tokio::test]
async fn no_credential_follows_a_redirect_to_another_host() {
    for bearer in [true, false] {
        let (upstream, image) = private_registry();
        if bearer {
            upstream.require_bearer()
        } else {
            upstream.require_basic()
        }
        let elsewhere = [FakeRegistry::start(), FakeRegistry::builder().host([127, 0, 0, 2]).start()];
        let dir = tempfile::tempdir().unwrap();
        let agent = bobs_agent(&dir, &upstream).await;
        let app = upstream.repository("app");
        agent.get(&app.manifest("1")).await.expect(200);
        for (blob, cdn) in image.blobs[1..].iter().zip(&elsewhere) {
            cdn.add_blob("any", blob.bytes.clone());
            upstream.fault(On::blob(&blob.digest), Fault::Redirect(cdn.cdn_url(&blob.digest)));
            agent.get(&app.blob(&blob.digest)).await.expect(200).expect_bytes(&blob.bytes);
            let seen = cdn.seen(&On::any());
            assert_eq!(seen.len(), 1);
            assert!(seen[0].authorization().is_none() && !has_secret(&seen[0]), "{seen:?}");
        }
    }
}

#[tokio::test]
async fn no_credential_is_given_to_a_host_that_challenges_after_a_redirect() {
    let (upstream, image) = private_registry();
    upstream.require_bearer();
    let thief = FakeRegistry::builder().host([127, 0, 0, 2]).start();
    thief.require_basic();
    image.push(&thief, "app", "1");
    let dir = tempfile::tempdir().unwrap();
    let agent = bobs_agent(&dir, &upstream).await;
    let app = upstream.repository("app");
    agent.get(&app.manifest("1")).await.expect(200);
    let layer = image.layer();
    upstream.fault(On::blob(&layer.digest), Fault::Redirect(format!("{}/v2/app/blobs/{}", thief.url(), layer.digest)));
    let got = agent.get(&app.blob(&layer.digest)).await;
    assert!(got.status >= 400, "{}", got.status);
    assert!(thief.seen(&On::any()).iter().all(|seen| !has_secret(seen)));
}

#[tokio::test]
async fn credentials_of_one_registry_are_not_sent_to_another() {
    let (upstream, image) = private_registry();
    upstream.require_basic();
    let other = FakeRegistry::start();
    other.require_basic();
    image.push(&other, "app", "1");
    let dir = tempfile::tempdir().unwrap();
    let auth = write_auth(&dir, &json!({ "auths": { upstream.host(): { "auth": BASIC } } }));
    let agent = with_auth(&auth).plain_http(&upstream).plain_http(&other).start().await;
    pull(&agent, &upstream.repository("app"), "1", &image).await;
    agent.get(&other.repository("app").manifest("1")).await.expect(403);
    assert!(other.seen(&On::any()).iter().all(|seen| seen.authorization().is_none()));
}

#[tokio::test]
async fn a_token_service_may_be_another_host() {
    let (upstream, image) = private_registry();
    upstream.require_bearer();
    let service = FakeRegistry::builder().host([127, 0, 0, 3]).auth_of(&upstream).start();
    upstream.set_realm(format!("{}/token", service.url()));
    let dir = tempfile::tempdir().unwrap();
    let agent = bobs_agent(&dir, &upstream).await;
    pull(&agent, &upstream.repository("app"), "1", &image).await;
    assert_eq!((service.count(&On::token()), upstream.count(&On::token())), (1, 0));
}

#[tokio::test]
async fn a_token_service_that_fails_is_an_error_and_not_a_hang() {
    let (upstream, image) = private_registry();
    upstream.require_bearer();
    let config = json!({ "upstream": impatient() });
    let agent = TestAgent::builder().plain_http(&upstream).config(config).start().await;
    let app = upstream.repository("public");
    let nonsense = Fault::Body("application/json", "{\"token\":5".to_owned());
    for fault in [Fault::Status(500), Fault::Status(403), Fault::Hang, Fault::BreakHead, nonsense] {
        upstream.fault(On::token(), fault.clone());
        let got = agent.get(&app.manifest("1")).await;
        assert!(matches!(got.status, 403 | 500..=504), "{fault:?}: {}", got.status);
        upstream.behave();
    }
    pull(&agent, &app, "1", &image).await;
}

#[tokio::test]
async fn no_secret_reaches_the_log() {
    let (upstream, image) = private_registry();
    upstream.require_bearer();
    let cdn = FakeRegistry::builder().host([127, 0, 0, 2]).start();
    let dir = tempfile::tempdir().unwrap();
    let auth = write_auth(&dir, &json!({ "auths": { upstream.host(): { "auth": BASIC } } }));
    let agent = with_auth(&auth).plain_http(&upstream).env("KUIK_LOG", "trace").start().await;
    let app = upstream.repository("app");
    cdn.add_blob("any", image.layer().bytes.clone());
    let on_layer = On::blob(&image.layer().digest);
    upstream.fault(on_layer.clone(), Fault::Redirect(cdn.cdn_url(&image.layer().digest)));
    cdn.fault_times(1, On::cdn(), Fault::BreakAfter(1000));
    pull(&agent, &app, "1", &image).await;
    for fault in [Fault::Status(500), Fault::BreakHead, Fault::Body("application/json", "{\"token\":\"issued-token-x".to_owned())] {
        upstream.revoke_tokens();
        upstream.fault_times(2, On::token(), fault);
        agent.get(&app.manifest("other")).await;
    }
    let log = agent.log();
    assert!(log.contains(&upstream.host()), "the log must be a talkative one for this test to mean anything");
    for secret in [PASSWORD, BASIC, "issued-token", "abc%2Fdef", "abc/def"] {
        assert!(!log.contains(secret), "{secret} is in the log: {}", log.lines().find(|line| line.contains(secret)).unwrap());
    }
}

/// A credential helper that knows bob, and writes down what it was asked.
fn write_helper(dir: &TempDir, script: &str) -> String {
    let bin = dir.path().join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let path = bin.join("docker-credential-test");
    std::fs::write(&path, format!("#!/bin/sh\nread host\necho \"$1 $host\" >> {}/asked\n{script}\n", dir.path().display())).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", bin.display(), std::env::var("PATH").unwrap())
}

#[tokio::test]
async fn credential_helpers_are_asked() {
    let script = format!(r#"echo '{{"ServerURL":"'$host'","Username":"{USER}","Secret":"{PASSWORD}"}}'"#);
    for key in ["credHelpers", "credsStore"] {
        let (upstream, image) = private_registry();
        upstream.require_bearer();
        let dir = tempfile::tempdir().unwrap();
        let path = write_helper(&dir, &script);
        let helper = if key == "credHelpers" { json!({ upstream.host(): "test" }) } else { json!("test") };
        let auth = write_auth(&dir, &json!({ key: helper, "auths": { upstream.host(): {} } }));
        let agent = with_auth(&auth).env("PATH", path).plain_http(&upstream).start().await;
        pull(&agent, &upstream.repository("app"), "1", &image).await;
        let asked = std::fs::read_to_string(dir.path().join("asked")).unwrap();
        assert!(asked.lines().all(|line| line == format!("get {}", upstream.host())), "{key}: {asked}");
        assert!(asked.lines().count() <= 2, "{key}: the helper was asked again and again: {asked}");
        assert!(!agent.log().contains(PASSWORD));
    }
}

#[tokio::test]
async fn a_helper_that_fails_leaves_public_images_alone() {
    for script in ["exit 1", "echo credentials not found in native keychain; exit 1", "echo nonsense"] {
        let (upstream, image) = private_registry();
        upstream.require_bearer();
        let dir = tempfile::tempdir().unwrap();
        let path = write_helper(&dir, script);
        let auth = write_auth(&dir, &json!({ "credHelpers": { upstream.host(): "test" } }));
        let agent = with_auth(&auth).env("PATH", path).plain_http(&upstream).start().await;
        pull(&agent, &upstream.repository("public"), "1", &image).await;
        let got = agent.get(&upstream.repository("app").manifest("1")).await;
        assert!(got.status >= 400, "{script}: {}", got.status);
    }
}
