//! What upstream is spared.

use std::time::Duration;

use futures_util::StreamExt as _;

use super::support::*;
use crate::config::{RegistryConfig, UpstreamConfig};
use crate::upstream::UpstreamError;

fn retry_after(error: &UpstreamError) -> u64 {
    match error {
        UpstreamError::TooManyRequests { retry_after, .. } => retry_after.as_millis().div_ceil(1000).try_into().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn after_a_429_upstream_is_left_alone_for_as_long_as_it_said() {
    let server = Server::http(|_| Reply::status(429).header("retry-after", "100")).await;
    let upstream = mk_for(&server);
    let repository = repo(&server.registry, "a");
    assert_eq!(retry_after(&upstream.head_manifest(&repository, &tag("t")).await.unwrap_err()), 100);
    pass(Duration::from_secs(40)).await;
    let other = repo(&server.registry, "b");
    let error = upstream.get_blob(&other, &digest(b""), 0, &[]).await.unwrap_err();
    assert!((59..=60).contains(&retry_after(&error)), "{error}");
    assert_eq!(server.count(), 1, "nothing more was sent");
    pass(Duration::from_secs(61)).await;
    upstream.head_manifest(&repository, &tag("t")).await.unwrap_err();
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn a_token_service_limits_too() {
    let tokens = Server::http(|_| Reply::status(429)).await;
    let realm = format!("Bearer realm=\"http://{}/t\"", tokens.host());
    let server = Server::http(move |_| Reply::status(401).header("www-authenticate", &realm)).await;
    let upstream = mk_for(&server);
    for _ in 0..3 {
        let error = upstream.head_manifest(&repo(&server.registry, "a"), &tag("t")).await.unwrap_err();
        assert_eq!(retry_after(&error), 60);
    }
    assert_eq!((server.count(), tokens.count()), (1, 1));
}

#[tokio::test]
async fn one_credential_s_limit_is_not_another_s() {
    let server = Server::http(|seen| match seen.authorization() {
        "" => Reply::status(401).header("www-authenticate", "Basic realm=r"),
        // first:x, on the repository /a only.
        "Basic Zmlyc3Q6eA==" => Reply::status(429).header("retry-after", "100"),
        _ => Reply::ok("m"),
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let auths = serde_json::json!({ "auths": {
        format!("{}/a", server.host()): { "username": "first", "password": "x" },
        format!("{}/b", server.host()): { "username": "second", "password": "x" },
    }});
    std::fs::write(&path, auths.to_string()).unwrap();
    let upstream = mk_upstream(UpstreamConfig { auth_file: Some(path), ..mk_plain(&server) });
    assert_eq!(retry_after(&upstream.get_manifest(&repo(&server.registry, "a"), &tag("t")).await.unwrap_err()), 100);
    upstream.get_manifest(&repo(&server.registry, "b"), &tag("t")).await.unwrap();
    let before = server.count();
    upstream.get_manifest(&repo(&server.registry, "a"), &tag("t")).await.unwrap_err();
    assert_eq!(server.count(), before);
}

#[tokio::test]
async fn the_last_request_of_a_quota_is_no_limit_yet() {
    let server = Server::http(|_| Reply::ok("m").header("ratelimit-remaining", "0;w=21600")).await;
    let upstream = mk_for(&server);
    for _ in 0..2 {
        upstream.get_manifest(&repo(&server.registry, "a"), &tag("t")).await.unwrap();
    }
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn a_turn_lasts_until_the_body_is_dropped() {
    let server = Server::http(|seen| match seen.path.contains("blobs") {
        true => Reply::status(200).header("content-length", "9").bytes("abc").then(Piece::Hang),
        false => Reply::ok("m"),
    })
    .await;
    let mut config = mk_plain(&server);
    config.registries.insert(server.registry.clone(), RegistryConfig { max_connections: Some(3), ..plain() });
    let upstream = mk_upstream(config);
    let repository = repo(&server.registry, "a");
    let open = async || upstream.get_blob(&repository, &digest(b""), 0, &[]).await.unwrap();
    let (first, _second) = (open().await, open().await);
    let third = {
        let (upstream, repository) = (upstream.clone(), repository.clone());
        tokio::spawn(async move { upstream.get_blob(&repository, &digest(b""), 0, &[]).await })
    };
    // A question has a turn of its own, however long the downloads last.
    upstream.get_manifest(&repository, &tag("t")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!third.is_finished());
    assert_eq!(server.count(), 3);
    drop(first);
    third.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_turn_is_over_when_the_body_is() {
    for pieces in [vec![Piece::Bytes("123456789".into())], vec![Piece::Break], vec![Piece::Hang]] {
        let reply = Reply::status(200).header("content-length", "9");
        let reply = pieces.into_iter().fold(reply, Reply::then);
        let server = Server::http(move |_| reply.clone()).await;
        let upstream = mk_upstream(UpstreamConfig { max_connections_per_registry: 1, ..mk_plain(&server) });
        let repository = repo(&server.registry, "a");
        let open = async || upstream.get_blob(&repository, &digest(b""), 0, &[]).await.unwrap();
        let mut kept = open().await;
        while let Some(Ok(_)) = kept.body.next().await {}
        let _kept = (kept.body.next().await, kept);
        tokio::time::timeout(STALL, open()).await.expect("who resumes may still hold what broke");
    }
}

#[tokio::test]
async fn waiting_for_a_turn_comes_to_an_end() {
    let server = Server::http(|_| Reply::status(200).header("content-length", "9").then(Piece::Hang)).await;
    let upstream = mk_upstream(UpstreamConfig { max_connections_per_registry: 1, ..mk_plain(&server) });
    let repository = repo(&server.registry, "a");
    let _blob = upstream.get_blob(&repository, &digest(b""), 0, &[]).await.unwrap();
    let waiting = {
        let (upstream, repository) = (upstream.clone(), repository.clone());
        tokio::spawn(async move { upstream.get_blob(&repository, &digest(b""), 0, &[]).await })
    };
    tokio::time::sleep(Duration::from_millis(20)).await;
    pass(Duration::from_secs(31)).await;
    let error = waiting.await.unwrap().unwrap_err();
    assert!(matches!(error, UpstreamError::Busy { .. }), "{error:?}");
    assert!(error.is_retryable());
    assert_eq!(server.count(), 1);
}
