//! Tokens, Basic, and which credential is used when.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;

use super::support::*;
use crate::config::UpstreamConfig;
use crate::upstream::{Errand, UpstreamError};

/// A registry and its token service.
struct Hub {
    registry: Server,
    tokens: Server,
    _dir: tempfile::TempDir,
    auth_file: PathBuf,
}

/// The registry takes the tokens in `accepted`, and asks for one of its service otherwise.
async fn mk_hub(tokens: impl Fn(&Seen) -> Reply + Send + Sync + 'static, accepted: impl Fn(&str) -> bool + Send + Sync + 'static) -> Hub {
    let tokens = Server::http(tokens).await;
    let realm = format!("http://{}/token?account=x", tokens.host());
    let registry = Server::http(move |seen| {
        if seen.authorization().strip_prefix("Bearer ").is_some_and(&accepted) {
            return Reply::ok("m");
        }
        let name = seen.path.strip_prefix("/v2/").unwrap().split("/manifests/").next().unwrap();
        let challenge = format!("Bearer realm=\"{realm}\",service=\"the hub\",scope=\"repository:{name}:pull\"");
        Reply::status(401).header("www-authenticate", &challenge).bytes(r#"{"errors":[{"message":"authentication required"}]}"#)
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let auth_file = dir.path().join("config.json");
    Hub { registry, tokens, _dir: dir, auth_file }
}

/// Every token request is answered with another token, `t0`, `t1`, …
fn counting() -> impl Fn(&Seen) -> Reply + Send + Sync + 'static {
    let count = AtomicU64::new(0);
    move |_| Reply::ok(format!(r#"{{"token":"t{}","expires_in":300}}"#, count.fetch_add(1, Ordering::SeqCst)))
}

impl Hub {
    fn upstream(&self) -> Errand {
        mk_for(&self.registry)
    }

    /// With these entries under `auths`: a path below the registry, and what is there.
    fn with_auths(&self, auths: &[(&str, serde_json::Value)]) -> Errand {
        let auths: serde_json::Map<_, _> =
            auths.iter().map(|(path, auth)| (format!("{}{path}", self.registry.host()), auth.clone())).collect();
        std::fs::write(&self.auth_file, serde_json::json!({ "auths": auths }).to_string()).unwrap();
        mk_upstream(UpstreamConfig { auth_file: Some(self.auth_file.clone()), ..mk_plain(&self.registry) })
    }

    async fn get(&self, upstream: &Errand, name: &str) -> Result<(), UpstreamError> {
        upstream.get_manifest(&repo(&self.registry.registry, name), &tag("t")).await.map(|_| ())
    }

    fn counts(&self) -> (usize, usize) {
        (self.registry.count(), self.tokens.count())
    }
}

fn user(name: &str) -> serde_json::Value {
    serde_json::json!({ "username": name, "password": "secret" })
}

/// What [`user`] sends.
fn basic(name: &str) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{name}:secret")))
}

#[tokio::test]
async fn a_token_is_fetched_when_asked_for_and_used_again() {
    let hub = mk_hub(counting(), |_| true).await;
    let upstream = hub.upstream();
    hub.get(&upstream, "a/b").await.unwrap();
    assert_eq!(hub.counts(), (2, 1), "a challenge, a token, an answer");
    let asked = hub.tokens.last();
    assert_eq!((asked.path.as_str(), asked.method.as_str(), asked.authorization()), ("/token", "GET", ""));
    assert_eq!(asked.query, "account=x&service=the+hub&scope=repository%3Aa%2Fb%3Apull");
    assert_eq!(hub.registry.last().authorization(), "Bearer t0");
    hub.get(&upstream, "a/b").await.unwrap();
    assert_eq!(hub.counts(), (3, 1), "the token is kept");
    hub.get(&upstream, "c").await.unwrap();
    assert_eq!(hub.counts(), (4, 2), "another repository's token is fetched without being challenged first");
    assert!(hub.tokens.last().query.ends_with("scope=repository%3Ac%3Apull"));
    assert_eq!(hub.registry.last().authorization(), "Bearer t1");
}

#[tokio::test]
async fn a_token_is_used_until_shortly_before_it_expires() {
    for (answer, lifetime) in [
        (r#"{"access_token":"t","expires_in":100}"#, 100),
        (r#"{"token":"t"}"#, 60),
        (r#"{"token":"","access_token":"t","expires_in":null}"#, 60),
        (r#"{"token":"t","expires_in":"soon"}"#, 60),
        (r#"{"token":"t","expires_in":100.9}"#, 100),
        (r#"{"token":"t","expires_in":1e300}"#, 24 * 3600),
    ] {
        let hub = mk_hub(move |_| Reply::ok(answer), |_| true).await;
        let upstream = hub.upstream();
        hub.get(&upstream, "a").await.unwrap();
        pass(Duration::from_secs(lifetime - (lifetime / 10).min(30) - 2)).await;
        hub.get(&upstream, "a").await.unwrap();
        assert_eq!(hub.tokens.count(), 1, "{answer}");
        pass(Duration::from_secs(4)).await;
        hub.get(&upstream, "a").await.unwrap();
        assert_eq!(hub.tokens.count(), 2, "{answer}");
    }
}

#[tokio::test]
async fn all_who_wait_share_one_token_request() {
    let hub = mk_hub(|_| Reply::ok(r#"{"token":"t"}"#).after(Duration::from_millis(200)), |_| true).await;
    let upstream = hub.upstream();
    let asks = (0..20).map(|_| hub.get(&upstream, "a"));
    for result in join_all(asks).await {
        result.unwrap();
    }
    assert_eq!(hub.tokens.count(), 1);
}

#[tokio::test]
async fn a_token_request_survives_who_asked_for_it() {
    let hub = mk_hub(|_| Reply::ok(r#"{"token":"t"}"#).after(Duration::from_millis(200)), |_| true).await;
    let upstream = hub.upstream();
    let gone = tokio::time::timeout(Duration::from_millis(100), hub.get(&upstream, "a")).await;
    assert!(gone.is_err());
    hub.get(&upstream, "a").await.unwrap();
    assert_eq!(hub.tokens.count(), 1);
}

#[tokio::test]
async fn a_failed_token_request_is_not_remembered() {
    let count = AtomicU64::new(0);
    let fails_first = move |_: &Seen| match count.fetch_add(1, Ordering::SeqCst) {
        0 | 1 => Reply::status(503),
        _ => Reply::ok(r#"{"token":"t"}"#),
    };
    let hub = mk_hub(fails_first, |_| true).await;
    let upstream = hub.upstream();
    let error = hub.get(&upstream, "a").await.unwrap_err();
    assert!(matches!(error, UpstreamError::Status { status: 503, .. }), "{error:?}");
    assert!(error.to_string().contains(&format!("(token service http://{})", hub.tokens.host())), "{error}");
    hub.get(&upstream, "a").await.unwrap();
}

#[tokio::test]
async fn a_rejected_token_is_fetched_anew_once() {
    let revoked = Arc::new(AtomicU64::new(0));
    let hub = mk_hub(counting(), {
        let revoked = Arc::clone(&revoked);
        move |token| token[1..].parse::<u64>().unwrap() >= revoked.load(Ordering::SeqCst)
    })
    .await;
    let upstream = hub.upstream();
    hub.get(&upstream, "a").await.unwrap();
    revoked.store(1, Ordering::SeqCst);
    hub.get(&upstream, "a").await.unwrap();
    assert_eq!(hub.counts(), (4, 2));
    revoked.store(1000, Ordering::SeqCst);
    let error = hub.get(&upstream, "a").await.unwrap_err();
    assert!(error.to_string().ends_with("status 401: authentication required"), "{error}");
    assert_eq!(hub.counts(), (6, 3), "one new token, and no more when that is rejected too");
}

#[tokio::test]
async fn tokens_that_are_none_are_the_service_s_fault() {
    for answer in ["", "[]", "{}", r#"{"token":""}"#, r#"{"token":1}"#, r#"{"token":"a\nb"}"#, "<html>"] {
        let hub = mk_hub(move |_| Reply::ok(answer), |_| true).await;
        assert_eq!(hub.get(&hub.upstream(), "a").await.unwrap_err().reason(), "protocol", "{answer}");
    }
    for (status, reason) in [(400, "denied"), (401, "denied"), (403, "denied"), (404, "status"), (500, "status")] {
        let hub = mk_hub(move |_| Reply::status(status), |_| true).await;
        assert_eq!(hub.get(&hub.upstream(), "a").await.unwrap_err().reason(), reason, "{status}");
    }
    let hub = mk_hub(|_| Reply::ok(vec![b' '; (1 << 20) + 1]), |_| true).await;
    assert_eq!(hub.get(&hub.upstream(), "a").await.unwrap_err().reason(), "too_large");
    let hub = mk_hub(|_| Reply::never(), |_| true).await;
    assert_eq!(hub.get(&hub.upstream(), "a").await.unwrap_err().reason(), "stalled");
}

#[tokio::test]
async fn a_user_gets_tokens_by_basic() {
    let hub = mk_hub(counting(), |_| true).await;
    hub.get(&hub.with_auths(&[("", user("me"))]), "a").await.unwrap();
    assert_eq!(hub.tokens.last().authorization(), basic("me"));
    assert!(hub.registry.seen().iter().all(|seen| !seen.authorization().starts_with("Basic")), "the registry asked for no password");
}

#[tokio::test]
async fn an_identity_token_is_traded_for_an_access_token() {
    let hub = mk_hub(|_| Reply::ok(r#"{"access_token":"t"}"#), |_| true).await;
    hub.get(&hub.with_auths(&[("", serde_json::json!({ "identitytoken": "i&d" }))]), "a").await.unwrap();
    let asked = hub.tokens.last();
    assert_eq!((asked.method.as_str(), asked.authorization()), ("POST", ""));
    assert_eq!(asked.body, "grant_type=refresh_token&refresh_token=i%26d&client_id=kuik-agent&service=the+hub&scope=repository%3Aa%3Apull");
}

#[tokio::test]
async fn credentials_are_tried_in_turn_and_the_one_that_works_is_remembered() {
    // Who is unknown is refused a token; who is known but may not, is refused by the registry.
    let tokens = |seen: &Seen| match seen.authorization() {
        auth if auth == basic("unknown") => Reply::status(401),
        auth if auth == basic("weak") => Reply::ok(r#"{"token":"weak"}"#),
        auth if auth == basic("right") => Reply::ok(r#"{"token":"right"}"#),
        _ => Reply::ok(r#"{"token":"anonymous"}"#),
    };
    let hub = mk_hub(tokens, |token| token == "right").await;
    let upstream = hub.with_auths(&[("/a/b/c", user("unknown")), ("/a/b", user("weak")), ("/a", user("right"))]);
    hub.get(&upstream, "a/b/c").await.unwrap();
    let before = hub.counts();
    hub.get(&upstream, "a/b/c").await.unwrap();
    assert_eq!(hub.counts(), (before.0 + 1, before.1));
    assert_eq!(hub.registry.last().authorization(), "Bearer right");
}

#[tokio::test]
async fn who_is_refused_comes_as_nobody() {
    let tokens = |seen: &Seen| match seen.authorization() {
        "" => Reply::ok(r#"{"token":"anonymous"}"#),
        _ => Reply::status(401).bytes(r#"{"details":"incorrect username or password"}"#),
    };
    let hub = mk_hub(tokens, |token| token == "anonymous").await;
    hub.get(&hub.with_auths(&[("", user("old"))]), "a").await.unwrap();
    let hub = mk_hub(tokens, |_| false).await;
    let error = hub.get(&hub.with_auths(&[("", user("old"))]), "a").await.unwrap_err();
    assert!(error.to_string().ends_with("incorrect username or password"), "the credential's own refusal is told: {error}");
}

#[tokio::test]
async fn what_one_may_not_see_another_may() {
    let server = Server::http(|seen| match seen.authorization() {
        "" => Reply::status(401).header("www-authenticate", "Basic"),
        auth if auth == basic("right") => Reply::ok("m"),
        _ => Reply::status(404),
    })
    .await;
    let hub = Hub { registry: server, ..mk_hub(counting(), |_| true).await };
    let upstream = hub.with_auths(&[("/a", user("wrong")), ("", user("right"))]);
    hub.get(&upstream, "a").await.unwrap();
}

#[tokio::test]
async fn basic_is_sent_at_once_after_the_first_challenge() {
    let server = Server::http(|seen| match seen.authorization() {
        auth if auth == basic("me") => Reply::ok("m"),
        _ => Reply::status(401).header("www-authenticate", "Basic realm=\"x\""),
    })
    .await;
    let hub = Hub { registry: server, ..mk_hub(counting(), |_| true).await };
    let upstream = hub.with_auths(&[("", user("me"))]);
    hub.get(&upstream, "a").await.unwrap();
    assert_eq!(hub.registry.count(), 2);
    hub.get(&upstream, "b").await.unwrap();
    assert_eq!(hub.registry.count(), 3);

    let wrong = hub.with_auths(&[("", user("you"))]);
    let before = hub.registry.count();
    assert_eq!(hub.get(&wrong, "a").await.unwrap_err().reason(), "denied");
    assert_eq!(hub.registry.count() - before, 3, "without, with, and as nobody; a refused password is not sent again");
    assert_eq!(hub.get(&hub.upstream(), "a").await.unwrap_err().reason(), "denied");
}

#[tokio::test]
async fn a_scope_of_the_registry_s_own_is_learnt() {
    let tokens = Server::http(|seen| {
        let scopes: Vec<_> =
            form_urlencoded::parse(seen.query.as_bytes()).filter(|(key, _)| key == "scope").map(|(_, value)| value).collect();
        Reply::ok(serde_json::json!({ "token": scopes.join("+") }).to_string())
    })
    .await;
    let realm = format!("http://{}/t", tokens.host());
    let registry = Server::http(move |seen| match seen.authorization() {
        "Bearer repository:x/a:pull,push+other" => Reply::ok("m"),
        _ => Reply::status(401).header("www-authenticate", &format!("Bearer realm={realm}, scope=\"repository:x/a:pull,push other\"")),
    })
    .await;
    let hub = Hub { registry, tokens, ..mk_hub(counting(), |_| true).await };
    let upstream = hub.upstream();
    hub.get(&upstream, "a").await.unwrap();
    assert_eq!(hub.counts(), (2, 1));
    pass(Duration::from_secs(100)).await;
    hub.get(&upstream, "a").await.unwrap();
    assert_eq!(hub.counts(), (3, 2), "the scope is remembered");
}

#[tokio::test]
async fn a_token_service_that_moved_is_found_again() {
    let old = nobody().await;
    let hub = mk_hub(counting(), |_| true).await;
    let (new, moved) = (format!("http://{}/t", hub.tokens.host()), AtomicU64::new(0));
    let registry = Server::http(move |seen| match (seen.authorization(), moved.fetch_add(1, Ordering::SeqCst)) {
        ("", 0) => Reply::status(401).header("www-authenticate", &format!("Bearer realm=\"http://{old}/t\"")),
        ("", _) => Reply::status(401).header("www-authenticate", &format!("Bearer realm=\"{new}\"")),
        _ => Reply::ok("m"),
    })
    .await;
    let hub = Hub { registry, ..hub };
    let upstream = hub.upstream();
    hub.get(&upstream, "a").await.unwrap_err();
    pass(Duration::from_secs(1)).await;
    hub.get(&upstream, "a").await.unwrap();
}
