//! Manifests, lists, statuses.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::support::*;
use crate::oci::{self, MANIFEST_BYTES_MAX, Page, Registry};
use crate::upstream::{List, Upstream, UpstreamError};

#[tokio::test]
async fn a_manifest_comes_as_it_is() {
    let body = b"{ \"any\": [bytes] \n}";
    let claimed = digest(body);
    let server = Server::http(move |seen| match seen.path.as_str() {
        "/v2/a/b/manifests/v1" => Reply::ok(&body[..]).header("content-type", "x/y").header("docker-content-digest", &claimed.to_string()),
        _ => Reply::ok("x").header("docker-content-digest", "sha256:zz"),
    })
    .await;
    let upstream = mk_for(&server);
    let repository = repo(&server.registry, "a/b");
    let fetched = upstream.get_manifest(&repository, &tag("v1")).await.unwrap();
    assert_eq!((&fetched.bytes[..], fetched.media_type.as_deref(), fetched.digest), (&body[..], Some("x/y"), Some(claimed)));
    let seen = server.last();
    assert_eq!(seen.header("accept"), oci::ACCEPT);
    assert_eq!(seen.header("accept-encoding"), "identity");
    assert_eq!(seen.header("user-agent"), concat!("kuik-agent/", env!("CARGO_PKG_VERSION")));
    let fetched = upstream.get_manifest(&repository, &tag(&claimed.to_string())).await.unwrap();
    assert_eq!((fetched.media_type, fetched.digest), (None, None), "a digest that is none");
    assert_eq!(server.last().path, format!("/v2/a/b/manifests/{claimed}"));
}

#[tokio::test]
async fn a_head_tells_what_a_manifest_is() {
    let claimed = digest(b"m");
    let server = Server::http(move |seen| {
        let whole = Reply::status(200).header("content-type", "x/y").header("docker-content-digest", &claimed.to_string());
        match (seen.path.as_str(), seen.method.as_str()) {
            ("/v2/a/manifests/no-head", "HEAD") => Reply::status(405),
            ("/v2/a/manifests/no-head", _) => whole.header("content-length", "5").bytes("12345"),
            _ => whole.header("content-length", "12345"),
        }
    })
    .await;
    let upstream = mk_for(&server);
    let repository = repo(&server.registry, "a");
    let head = upstream.head_manifest(&repository, &tag("v1")).await.unwrap();
    assert_eq!((head.digest, head.media_type.as_deref(), head.size), (Some(claimed), Some("x/y"), Some(12345)));
    assert_eq!(server.last().method, "HEAD");
    let head = upstream.head_manifest(&repository, &tag("no-head")).await.unwrap();
    assert_eq!((head.digest, head.size), (Some(claimed), Some(5)));
}

#[tokio::test]
async fn a_manifest_has_a_largest_size() {
    let server = Server::http(|seen| {
        let body = |size: usize| vec![b'x'; size];
        match seen.path.rsplit('/').next().unwrap() {
            "fits" => Reply::ok(body(MANIFEST_BYTES_MAX)),
            "long" => Reply::ok(body(MANIFEST_BYTES_MAX + 1)),
            "announced" => Reply::status(200).header("content-length", &(MANIFEST_BYTES_MAX + 1).to_string()).then(Piece::Hang),
            _ => Reply::status(200).bytes(body(MANIFEST_BYTES_MAX)).bytes("x"),
        }
    })
    .await;
    let upstream = mk_for(&server);
    let repository = repo(&server.registry, "a");
    assert_eq!(upstream.get_manifest(&repository, &tag("fits")).await.unwrap().bytes.len(), MANIFEST_BYTES_MAX);
    for name in ["long", "announced", "chunked"] {
        let error = upstream.get_manifest(&repository, &tag(name)).await.unwrap_err();
        assert!(matches!(error, UpstreamError::TooLarge { limit_bytes: MANIFEST_BYTES_MAX, .. }), "{error:?}");
    }
}

#[tokio::test]
async fn statuses_become_errors() {
    let server = Server::http(|seen| {
        let status: u16 = seen.path.rsplit('/').next().unwrap().parse().unwrap();
        Reply::status(status).bytes(r#"{"errors":[{"code":"X","message":"said so"}]}"#)
    })
    .await;
    let upstream = mk_for(&server);
    let repository = repo(&server.registry, "a");
    let mut before = 0;
    for (status, reason, requests) in [
        (404, "not_found", 1),
        (410, "not_found", 1),
        (401, "denied", 1),
        (403, "denied", 1),
        (400, "status", 1),
        (500, "status", 2),
        (503, "status", 2),
        (304, "status", 1),
        (429, "too_many_requests", 1),
    ] {
        let error = upstream.get_manifest(&repository, &tag(&status.to_string())).await.unwrap_err();
        assert_eq!((error.reason(), server.count() - before), (reason, requests), "{status}: {error}");
        assert!(error.to_string().starts_with(&format!("{repository} at http://{}", server.host())), "{error}");
        if matches!(reason, "denied" | "status") && status != 304 {
            assert!(error.to_string().ends_with(&format!("status {status}: said so")), "{error}");
        }
        before = server.count();
    }
}

#[tokio::test]
async fn a_failure_that_passes_is_not_seen() {
    let server = Server::http(|_| Reply::status(500)).await;
    let upstream = mk_for(&server);
    let repository = repo(&server.registry, "a");
    upstream.get_manifest(&repository, &tag("t")).await.unwrap_err();
    assert_eq!(server.count(), 2, "one retry, not more");

    let calls = std::sync::atomic::AtomicU64::new(0);
    let server = Server::http(move |_| match calls.fetch_add(1, Ordering::SeqCst) {
        0 | 3 => Reply::status(502),
        1 | 4 => Reply::ok("fine"),
        _ => Reply::status(200).header("content-length", "9").bytes("br").then(Piece::Break),
    })
    .await;
    let upstream = mk_for(&server);
    let repository = repo(&server.registry, "a");
    assert_eq!(upstream.get_manifest(&repository, &tag("t")).await.unwrap().bytes, "fine");
    let error = upstream.get_manifest(&repository, &tag("t")).await.unwrap_err();
    assert_eq!(error.reason(), "status", "broken, then 502: {error}");
    assert_eq!(upstream.get_manifest(&repository, &tag("t")).await.unwrap().bytes, "fine");
}

/// A server that answers everyone with these bytes and hangs up.
async fn raw(bytes: &'static [u8]) -> Registry {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let registry = listener.local_addr().unwrap().to_string().parse().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(bytes).await;
        }
    });
    registry
}

async fn ask(registry: &Registry) -> UpstreamError {
    let mut config = mk_config();
    config.registries.insert(registry.clone(), plain());
    mk_upstream(config).get_manifest(&repo(registry, "a"), &tag("t")).await.unwrap_err()
}

#[tokio::test]
async fn what_is_no_http_is_told_from_what_broke() {
    let check = async |registry: Registry, reason: &str, text: &str| {
        let error = ask(&registry).await;
        assert_eq!(error.reason(), reason, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    };
    check(raw(b"SSH-2.0-OpenSSH_9.2\r\n").await, "protocol", "invalid HTTP").await;
    check(raw(b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n").await, "protocol", "").await;
    check(raw(b"").await, "broken", "").await;
    check(raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc").await, "broken", "").await;
    check(nobody().await, "unreachable", "refused").await;
    check("no-such-host.invalid:5000".parse().unwrap(), "unreachable", "does not resolve").await;
}

#[tokio::test]
async fn a_silent_server_is_a_stall() {
    let server = Server::http(|seen| match seen.path.as_str() {
        "/v2/a/manifests/head" => Reply::never(),
        _ => Reply::status(200).header("content-length", "9").bytes("abc").then(Piece::Hang),
    })
    .await;
    let upstream = mk_for(&server);
    let repository = repo(&server.registry, "a");
    for name in ["head", "body"] {
        let error = upstream.get_manifest(&repository, &tag(name)).await.unwrap_err();
        assert!(matches!(error, UpstreamError::Stalled { timeout, .. } if timeout == STALL), "{error:?}");
    }
}

#[tokio::test]
async fn lists_are_asked_for_by_page_and_type() {
    let server = Server::http(|seen| {
        let link = "</v2/a/tags/list?n=2&last=b%2Fc>; rel=\"next\"";
        Reply::ok(format!("{}?{}", seen.path, seen.query))
            .header("link", link)
            .header("content-type", "application/json")
            .header("oci-filters-applied", "artifactType")
    })
    .await;
    let upstream = mk_for(&server);
    let repository = repo(&server.registry, "a");
    let list = async |list: List| upstream.list(&repository, &list).await.unwrap();
    let reply = list(List::Tags(Page::default())).await;
    assert_eq!(reply.body, "/v2/a/tags/list?");
    assert_eq!(reply.next.as_deref(), Some("n=2&last=b%2Fc"));
    assert_eq!(reply.content_type.as_deref(), Some("application/json"));
    assert_eq!(reply.filters_applied.as_deref(), Some("artifactType"));
    let reply = list(List::Tags(Page { n: Some(0), last: Some("a&b".to_owned()) })).await;
    assert_eq!(reply.body, "/v2/a/tags/list?n=0&last=a%26b");
    let of = digest(b"x");
    let reply = list(List::Referrers { digest: of, artifact_type: None }).await;
    assert_eq!(reply.body, format!("/v2/a/referrers/{of}?"));
    let reply = list(List::Referrers { digest: of, artifact_type: Some("a/b+c".to_owned()) }).await;
    assert_eq!(reply.body, format!("/v2/a/referrers/{of}?artifactType=a%2Fb%2Bc"));
}

#[tokio::test]
async fn a_list_has_a_largest_size() {
    let server = Server::http(|_| Reply::status(200).bytes(vec![b' '; 16 << 20]).bytes("x")).await;
    let error = mk_for(&server).list(&repo(&server.registry, "a"), &List::Tags(Page::default())).await.unwrap_err();
    assert_eq!(error.reason(), "too_large");
}

#[tokio::test]
async fn what_happens_is_counted() {
    let server = Server::http(|seen| match seen.path.as_str() {
        "/v2/a/manifests/ok" => Reply::ok("12345"),
        path if path.contains("blobs") => Reply::status(200).header("content-length", "9").bytes("abc").then(Piece::Break),
        _ => Reply::status(404),
    })
    .await;
    let counts = Arc::new(Counts::default());
    let upstream = Upstream::new(mk_plain(&server), Arc::clone(&counts) as _).unwrap().by(&crate::requester::Requester::Anyone);
    let repository = repo(&server.registry, "a");
    upstream.get_manifest(&repository, &tag("ok")).await.unwrap();
    upstream.get_manifest(&repository, &tag("gone")).await.unwrap_err();
    let blob = upstream.get_blob(&repository, &digest(b"x"), 0, &[]).await.unwrap();
    read(blob).await.unwrap_err();
    assert_eq!(counts.requests.load(Ordering::SeqCst), 3);
    assert_eq!(counts.bytes.load(Ordering::SeqCst), 8);
    assert_eq!(*counts.errors.lock().unwrap(), ["not_found", "broken"]);
}

#[tokio::test]
async fn the_futures_can_be_spawned() {
    fn check<T: Send>(_: &T) {}
    let upstream = mk_upstream(mk_config());
    let repository = mirrored();
    check(&upstream.get_manifest(&repository, &tag("t")));
    check(&upstream.get_blob(&repository, &digest(b""), 0, &[]));
    check(&upstream.list(&repository, &List::Tags(Page::default())));
    assert!(std::mem::size_of::<UpstreamError>() <= 64);
}
