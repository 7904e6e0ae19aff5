//! The upstream made by hand does what a test tells it to: the other tests rest on this.

use std::time::Duration;

use crate::support::client::{self, Got, read_at_least, send, try_send};
use crate::support::images::{self, digest_of, noise};
use crate::support::pki::Ca;
use crate::support::registry::{FakeRegistry, Fault, Gate, On};
use crate::support::wait::{soon, within};

async fn get(upstream: &FakeRegistry, path: &str) -> Got {
    send(client::new().get(format!("{}{path}", upstream.url()))).await
}

fn with_blob(size: usize) -> (FakeRegistry, Vec<u8>, String) {
    let upstream = FakeRegistry::start();
    let bytes = noise(1, size);
    let digest = upstream.add_blob("app", bytes.clone());
    (upstream, bytes, format!("/v2/app/blobs/{digest}"))
}

#[tokio::test]
async fn content_is_served_as_it_was_pushed() {
    let upstream = FakeRegistry::start();
    let image = images::nested(1, 1000);
    image.push(&upstream, "a/app", "1");
    for reference in ["1".to_owned(), image.digest.to_string()] {
        let got = get(&upstream, &format!("/v2/a/app/manifests/{reference}")).await.expect(200).expect_bytes(&image.bytes);
        assert_eq!(got.header("docker-content-digest"), Some(image.digest.to_string().as_str()));
        assert_eq!(got.header("content-type"), Some(images::OCI_INDEX));
    }
    let layer = image.children[1].layer();
    let path = format!("/v2/a/app/blobs/{}", layer.digest);
    get(&upstream, &path).await.expect(200).expect_bytes(&layer.bytes);
    let head = send(client::new().head(format!("{}{path}", upstream.url()))).await.expect(200);
    assert_eq!((head.header("content-length"), head.body.len()), (Some("1000"), 0));
    upstream.untag("a/app", "1");
    assert_eq!(get(&upstream, "/v2/a/app/manifests/1").await.expect(404).error_code(), "MANIFEST_UNKNOWN");
    upstream.delete_repository("a/app");
    assert_eq!(get(&upstream, &path).await.expect(404).error_code(), "NAME_UNKNOWN");
    assert_eq!(upstream.count(&On::blob(&layer.digest).get()), 2);
    assert_eq!(upstream.sent_bytes(&On::blob(&layer.digest)), 1000);
}

#[tokio::test]
async fn ranges_are_served() {
    let (upstream, bytes, path) = with_blob(100);
    let range = async |range: &str| send(client::new().get(format!("{}{path}", upstream.url())).header("range", range)).await;
    let got = range("bytes=10-19").await.expect(206).expect_bytes(&bytes[10..20]);
    assert_eq!(got.header("content-range"), Some("bytes 10-19/100"));
    range("bytes=90-").await.expect(206).expect_bytes(&bytes[90..]);
    range("bytes=-5").await.expect(206).expect_bytes(&bytes[95..]);
    range("bytes=100-").await.expect(416);
    upstream.fault_times(1, On::blobs(), Fault::NoRange);
    range("bytes=10-").await.expect(200).expect_bytes(&bytes);
    upstream.fault_times(1, On::blobs(), Fault::ShiftRange(1));
    let got = range("bytes=10-").await.expect(206);
    assert_eq!(got.header("content-range"), Some("bytes 11-99/100"));
}

#[tokio::test]
async fn a_gate_holds_a_body_until_it_is_opened() {
    let (upstream, bytes, path) = with_blob(1 << 20);
    let gate = Gate::new();
    upstream.fault(On::blobs(), Fault::HoldBody(700_000, gate.clone()));
    let mut response = client::new().get(format!("{}{path}", upstream.url())).send().await.unwrap();
    let mut got = read_at_least(&mut response, 700_000).await;
    gate.reached().await;
    assert_eq!((got.len(), upstream.sent_bytes(&On::blobs())), (700_000, 700_000));
    gate.open();
    got.extend_from_slice(&soon("the rest", response.bytes()).await.unwrap());
    client::same_bytes(&got, &bytes);
}

#[tokio::test]
async fn a_break_comes_after_exactly_the_bytes_before_it() {
    let (upstream, bytes, path) = with_blob(3 << 20);
    for at in [0, 1, 70_000, 3_000_000] {
        upstream.fault_times(1, On::blobs(), Fault::BreakAfter(at));
        let mut response = client::new().get(format!("{}{path}", upstream.url())).send().await.unwrap();
        let got = read_at_least(&mut response, at).await;
        client::same_bytes(&got, &bytes[..at]);
        soon("the break", response.chunk()).await.expect_err("the connection must break");
    }
    get(&upstream, &path).await.expect(200).expect_bytes(&bytes);
}

#[tokio::test]
async fn bytes_and_lengths_lie_as_told() {
    let (upstream, bytes, path) = with_blob(1000);
    let faulty = async |fault| {
        upstream.fault_times(1, On::blobs(), fault);
        get(&upstream, &path).await.expect(200)
    };
    assert_ne!(faulty(Fault::FlipFirst).await.body[0], bytes[0]);
    assert_ne!(faulty(Fault::FlipLast).await.body[999], bytes[999]);
    faulty(Fault::CutLast(10)).await.expect_bytes(&bytes[..990]);
    assert_eq!(faulty(Fault::Append(10)).await.body.len(), 1010);
    let chunked = faulty(Fault::NoLength).await.expect_bytes(&bytes);
    assert_eq!((chunked.header("content-length"), chunked.header("transfer-encoding")), (None, Some("chunked")));
    assert_eq!(faulty(Fault::NoDigest).await.header("docker-content-digest"), None);
    assert_eq!(faulty(Fault::SayDigest("x".to_owned())).await.header("docker-content-digest"), Some("x"));
}

#[tokio::test]
async fn heads_misbehave_as_told() {
    let (upstream, _, path) = with_blob(10);
    upstream.fault_times(2, On::blobs().get(), Fault::StatusWith(429, "retry-after", "7".to_owned()));
    assert_eq!(get(&upstream, &path).await.expect(429).header("retry-after"), Some("7"));
    get(&upstream, &path).await.expect(429);
    get(&upstream, &path).await.expect(200);
    upstream.fault_times(1, On::any(), Fault::BreakHead);
    try_send(client::new().get(format!("{}{path}", upstream.url()))).await.expect_err("no answer");
    let hang = upstream.fault_until_end(On::any(), Fault::Hang);
    let url = format!("{}{path}", upstream.url());
    tokio::time::timeout(Duration::from_millis(50), client::new().get(url).send()).await.expect_err("it must hang");
    hang.end();
    let gate = Gate::new();
    upstream.fault(On::any(), Fault::HoldHead(gate.clone()));
    let (got, ()) = tokio::join!(get(&upstream, &path), async {
        gate.reached().await;
        gate.open();
    });
    got.expect(200);
}

#[tokio::test]
async fn a_blob_may_come_from_elsewhere() {
    let (upstream, bytes, path) = with_blob(500);
    let cdn = FakeRegistry::builder().host([127, 0, 0, 2]).start();
    let digest = cdn.add_blob("any", bytes.clone());
    upstream.fault(On::blobs(), Fault::Redirect(cdn.cdn_url(&digest)));
    let location = get(&upstream, &path).await.expect(307).header("location").unwrap().to_owned();
    send(client::new().get(location)).await.expect(200).expect_bytes(&bytes);
    assert_eq!(cdn.seen(&On::cdn())[0].query, "signature=abc%2Fdef");
}

#[tokio::test]
async fn a_stopped_upstream_refuses_connections_and_comes_back_on_its_port() {
    let (mut upstream, bytes, path) = with_blob(1 << 20);
    upstream.fault_times(1, On::blobs(), Fault::StallAfter(10));
    let url = format!("{}{path}", upstream.url());
    let mut open = client::new().get(&url).send().await.unwrap();
    read_at_least(&mut open, 10).await;
    for _ in 0..3 {
        upstream.stop().await;
        within(Duration::from_secs(1), "a refusal", client::new().get(&url).send()).await.expect_err("refused");
        upstream.start_again();
        get(&upstream, &path).await.expect(200).expect_bytes(&bytes);
    }
    soon("the break", open.chunk()).await.expect_err("open connections must break");
}

#[tokio::test]
async fn tls_comes_with_both_versions_of_http() {
    let ca = Ca::new();
    let dir = tempfile::tempdir().unwrap();
    let pem = std::fs::read(ca.write(dir.path())).unwrap();
    for http2 in [false, true] {
        let upstream = FakeRegistry::builder().tls(ca.server_config(&["127.0.0.1"], http2)).start();
        let digest = upstream.add_blob("app", noise(3, 200_000));
        let url = format!("{}/v2/app/blobs/{digest}", upstream.url());
        client::new().get(&url).send().await.expect_err("the authority is not trusted");
        let trusting = reqwest::Client::builder().tls_certs_only([reqwest::Certificate::from_pem(&pem).unwrap()]).build().unwrap();
        let response = trusting.get(&url).send().await.unwrap();
        assert_eq!(response.version() == reqwest::Version::HTTP_2, http2);
        assert_eq!(digest_of(&response.bytes().await.unwrap()), digest);
    }
}

#[tokio::test]
async fn bearer_tokens_are_issued_by_permission() {
    let (upstream, bytes, path) = with_blob(100);
    upstream.require_bearer();
    upstream.add_user("bob", "hunter2");
    upstream.make_private("app", &["bob"]);
    let challenge = get(&upstream, &path).await.expect(401).header("www-authenticate").unwrap().to_owned();
    let want = format!("Bearer realm=\"{}/token\",service=\"test registry\",scope=\"repository:app:pull\"", upstream.url());
    assert_eq!(challenge, want);
    let token = async |user: Option<(&str, &str)>| {
        let request = client::new().get(format!("{}/token?scope=repository:app:pull", upstream.url()));
        send(if let Some((user, password)) = user { request.basic_auth(user, Some(password)) } else { request }).await
    };
    let blob = async |token: &Got| {
        send(client::new().get(format!("{}{path}", upstream.url())).bearer_auth(token.json()["token"].as_str().unwrap())).await
    };
    token(Some(("bob", "wrong"))).await.expect(401);
    blob(&token(None).await.expect(200)).await.expect(401);
    let good = token(Some(("bob", "hunter2"))).await.expect(200);
    blob(&good).await.expect(200).expect_bytes(&bytes);
    upstream.revoke_tokens();
    blob(&good).await.expect(401);
    assert_eq!(upstream.count(&On::token()), 3);
}

#[tokio::test]
async fn lists_come_in_pages() {
    let upstream = FakeRegistry::start();
    let image = images::simple(1, &[10]);
    for tag in ["a", "b", "c"] {
        image.push(&upstream, "app", tag);
    }
    let got = get(&upstream, "/v2/app/tags/list?n=2").await.expect(200);
    assert_eq!(got.json(), serde_json::json!({ "name": "app", "tags": ["a", "b"] }));
    assert_eq!(got.header("link"), Some("</v2/app/tags/list?last=b&n=2>; rel=\"next\""));
    let got = get(&upstream, "/v2/app/tags/list?last=b&n=2").await.expect(200);
    assert_eq!((got.json()["tags"].clone(), got.header("link")), (serde_json::json!(["c"]), None));
    let signature = images::referrer(5, "application/vnd.example.signature", &image);
    signature.push_untagged(&upstream, "app");
    let path = format!("/v2/app/referrers/{}", image.digest);
    assert_eq!(get(&upstream, &path).await.expect(200).json()["manifests"][0]["digest"], signature.digest.to_string());
    let none = get(&upstream, &format!("{path}?artifactType=other")).await.expect(200);
    assert_eq!(none.json()["manifests"], serde_json::json!([]));
    upstream.disable_referrers();
    get(&upstream, &path).await.expect(404);
}

#[test]
fn a_padded_manifest_has_its_size() {
    assert_eq!(images::padded(1, 4 << 20).bytes.len(), 4 << 20);
}
