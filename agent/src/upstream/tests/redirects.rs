//! Redirects: followed, but not with what is none of the other host's business.

use super::support::*;
use crate::config::UpstreamConfig;
use crate::oci::Digest;
use crate::upstream::{Errand, UpstreamError};

const BLOB: &[u8] = b"blob";

fn mk_auth(config: UpstreamConfig, server: &Server, dir: &tempfile::TempDir) -> UpstreamConfig {
    let path = dir.path().join("config.json");
    let entry = serde_json::json!({ "auths": { server.host(): { "username": "user", "password": "pass" } } });
    std::fs::write(&path, entry.to_string()).unwrap();
    UpstreamConfig { auth_file: Some(path), ..config }
}

/// A registry that wants Basic and then redirects to `target`.
async fn redirecting(target: String) -> Server {
    Server::http(move |seen| match seen.authorization() {
        "" => Reply::status(401).header("www-authenticate", "Basic realm=\"r\""),
        _ => Reply::status(307).header("location", &target),
    })
    .await
}

async fn get(upstream: &Errand, server: &Server) -> Result<Vec<u8>, UpstreamError> {
    read(upstream.get_blob(&repo(&server.registry, "a"), &digest(BLOB), 2, &[]).await?).await
}

#[tokio::test]
async fn credentials_stay_with_the_host_they_are_for() {
    let elsewhere = Server::http(|_| Reply::ok(BLOB)).await;
    let server = redirecting(format!("http://evil:secret@{}/cdn?signature=s", elsewhere.host())).await;
    let dir = tempfile::tempdir().unwrap();
    let upstream = mk_upstream(mk_auth(mk_plain(&server), &server, &dir));
    assert_eq!(get(&upstream, &server).await.unwrap(), &BLOB[2..]);
    let seen = elsewhere.last();
    assert_eq!(seen.authorization(), "");
    assert_eq!((seen.header("range"), seen.query.as_str(), seen.header("referer")), ("bytes=2-", "signature=s", ""));
}

#[tokio::test]
async fn another_host_s_challenge_is_not_answered() {
    // It would like our password for its own token service.
    let elsewhere = Server::http(|seen| {
        let realm = format!("Bearer realm=\"http://{}/token\"", seen.header("host"));
        Reply::status(401).header("www-authenticate", &realm)
    })
    .await;
    let server = redirecting(format!("http://{}/cdn", elsewhere.host())).await;
    let dir = tempfile::tempdir().unwrap();
    let upstream = mk_upstream(mk_auth(mk_plain(&server), &server, &dir));
    assert_eq!(get(&upstream, &server).await.unwrap_err().reason(), "denied");
    let seen: Vec<_> = elsewhere.seen().into_iter().map(|seen| (seen.path.clone(), seen.authorization().to_owned())).collect();
    assert_eq!(seen, [("/cdn".to_owned(), String::new())]);
}

#[tokio::test]
async fn the_same_host_keeps_its_credentials() {
    let server = Server::http(|seen| match (seen.path.as_str(), seen.authorization()) {
        (_, "") => Reply::status(401).header("www-authenticate", "Basic realm=\"r\""),
        ("/moved", _) => Reply::ok(BLOB),
        _ => Reply::status(302).header("location", "/moved"),
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let upstream = mk_upstream(mk_auth(mk_plain(&server), &server, &dir));
    assert_eq!(get(&upstream, &server).await.unwrap(), &BLOB[2..]);
}

#[tokio::test]
async fn redirects_come_to_an_end() {
    for (hops, works) in [(5, true), (6, false)] {
        let server = Server::http(move |seen| {
            let hop: u32 = seen.path.strip_prefix("/hop/").map_or(0, |hop| hop.parse().unwrap());
            if hop == hops { Reply::ok(BLOB) } else { Reply::status(301).header("location", &format!("/hop/{}", hop + 1)) }
        })
        .await;
        let result = get(&mk_for(&server), &server).await;
        assert_eq!((result.is_ok(), server.count()), (works, 6), "{hops}: {result:?}");
    }
}

#[tokio::test]
async fn a_redirect_must_lead_to_a_url() {
    for location in ["ftp://a/b", "http://", "file:///etc/passwd", "http://[::1"] {
        let server = Server::http(move |_| Reply::status(302).header("location", location)).await;
        assert_eq!(get(&mk_for(&server), &server).await.unwrap_err().reason(), "protocol", "{location}");
    }
    let server = Server::http(|_| Reply::status(302)).await;
    assert_eq!(get(&mk_for(&server), &server).await.unwrap_err().reason(), "status", "without a location");
}

#[tokio::test]
async fn a_redirect_proves_that_a_blob_is_there() {
    let elsewhere = Server::http(|seen| Reply::status(seen.path[1..].parse().unwrap())).await;
    for (status, want) in [(403, Some(None)), (405, Some(None)), (404, None)] {
        let target = format!("http://{}/{status}", elsewhere.host());
        let server = Server::http(move |_| Reply::status(307).header("location", &target)).await;
        let head = mk_for(&server).head_blob(&repo(&server.registry, "a"), &digest(BLOB)).await;
        assert_eq!(head.as_ref().ok(), want.as_ref(), "{head:?}");
    }
    let server = Server::http(|_| Reply::status(403)).await;
    let head = mk_for(&server).head_blob(&repo(&server.registry, "a"), &Digest::Sha256([0; 32])).await;
    assert_eq!(head.unwrap_err().reason(), "denied", "no redirect proves nothing");
}
