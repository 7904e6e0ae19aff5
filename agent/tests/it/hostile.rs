//! Whatever a client sends gets the specification's error, or is cut off in time, and the agent serves on.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::time::Instant;

use crate::support::images::{digest_of, noise};
use crate::support::raw::{Raw, exchange, status_of};
use crate::support::registry::On;
use crate::support::scene::Scene;
use crate::support::wait::{until_some, within};

const MIB: usize = 1 << 20;

/// Sends a head as it is, and closes; what came back.
async fn raw_get(scene: &Scene, path: &str) -> String {
    exchange(scene.agent.registry_address(), format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await
}

#[tokio::test]
async fn malformed_paths_get_the_specifications_errors() {
    let scene = Scene::new(&[10]).await;
    let digest = digest_of(b"x");
    let long = "a/".repeat(2000);
    let cases = [
        ("/", 404),
        ("/v1/", 404),
        ("/v2/_catalog", 404),
        ("/v2/a.b/c/manifests", 404),
        ("/v2/a.b/UPPER/manifests/t", 400),
        ("/v2/a.b/../c/manifests/t", 400),
        ("/v2/a.b//c/manifests/t", 400),
        ("/v2//manifests/t", 400),
        ("/v2/a.b/%00/manifests/t", 400),
        ("/v2/a.b/%ff/manifests/t", 400),
        ("/v2/a.b/%2e%2e%2f%2e%2e%2fetc/manifests/t", 400),
        ("/v2/a.b/c%2f..%2f..%2f/manifests/t", 400),
        ("/v2/a.b/c/blobs/sha256:12", 400),
        ("/v2/a.b/c/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", 400),
        ("/v2/a.b/c/blobs/../../../../etc/passwd", 404),
        ("/v2/a.b/c/blobs/..%2f..%2fetc%2fpasswd", 404),
        ("/v2/a.b/c/manifests/-tag", 404),
        ("/v2/a.b/c/manifests/sha256:zz", 400),
        ("/v2/a.b__99999/c/manifests/t", 400),
        ("/v2/a/manifests/t?ns=a_b", 400),
        ("/v2/a.b/c/referrers/nothing", 400),
    ];
    for (path, status) in cases {
        let answer = raw_get(&scene, path).await;
        assert_eq!(status_of(&answer), status, "{path}: {answer}");
        assert!(answer.contains("{\"errors\":[{\"code\":\""), "{path}: {answer}");
    }
    for path in [format!("/v2/a.b/{long}manifests/t"), format!("/v2/a.b/c/blobs/{digest}{}", "0".repeat(9000))] {
        assert!(matches!(status_of(&raw_get(&scene, &path).await), 400 | 404 | 414), "{}", path.len());
    }
    assert_eq!(scene.upstream.count(&On::any()), 0);
    scene.pull().await;
}

#[tokio::test]
async fn nothing_can_be_pushed() {
    let scene = Scene::new(&[10]).await;
    let manifest = scene.app.manifest("1");
    let uploads = format!("{}/blobs/uploads/", manifest.strip_suffix("/manifests/1").unwrap());
    for (method, path) in [
        (Method::PUT, &manifest),
        (Method::DELETE, &manifest),
        (Method::PATCH, &manifest),
        (Method::POST, &uploads),
        (Method::POST, &manifest),
        (Method::DELETE, &scene.layer_path()),
        (Method::OPTIONS, &manifest),
    ] {
        let got = scene.agent.send(method.clone(), path).await.expect(405);
        assert_eq!(got.error_code(), "UNSUPPORTED", "{method}");
        assert_eq!(got.header("allow"), Some("GET, HEAD"));
    }
    let answer = exchange(
        scene.agent.registry_address(),
        format!("PUT {manifest} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"),
    );
    assert_eq!(status_of(&answer.await), 405);
    assert_eq!(scene.upstream.count(&On::any()), 0);
}

#[tokio::test]
async fn heads_that_are_none_are_refused() {
    let scene = Scene::new(&[10]).await;
    let heads = [
        "GET\r\n\r\n".to_owned(),
        "GET /v2/\r\n\r\n".to_owned(),
        "GET /v2/ HTTP/9.9\r\n\r\n".to_owned(),
        "GET /v2/ HTTP/1.1\r\nno colon\r\n\r\n".to_owned(),
        "GET /v2/ HTTP/1.1\r\nBad Name: x\r\n\r\n".to_owned(),
        "GET /v2/ HTTP/1.1\r\nA: \0\r\n\r\n".to_owned(),
        "GET /v2/ HTTP/1.1\r\n : x\r\n\r\n".to_owned(),
        "\0\0\0\0\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        format!("GET /v2/ HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(200_000)),
        format!("GET /v2/ HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(5000)),
        format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000)),
        "GET /v2/ HTTP/1.1\r\nContent-Length: -1\r\n\r\n".to_owned(),
        "GET /v2/ HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n".to_owned(),
        "GET /v2/ HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n".to_owned(),
    ];
    for head in heads {
        let mut raw = Raw::connect(scene.agent.registry_address()).await;
        raw.send(&head).await;
        raw.finish().await;
        let answer = String::from_utf8_lossy(&raw.read_to_end().await).into_owned();
        let begin: String = head.chars().take(60).collect();
        assert!(matches!(status_of(&answer), 0 | 400..=499 | 505), "{begin:?}: {answer}");
    }
    scene.pull().await;
}

#[tokio::test]
async fn no_request_hides_in_another() {
    let scene = Scene::new(&[10]).await;
    let hidden = format!("GET {} HTTP/1.1\r\nHost: hidden\r\n\r\n", scene.app.manifest("hidden"));
    let heads = [
        format!("GET /v2/ HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}", hidden.len()),
        format!("GET /v2/ HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: {}\r\n\r\n{hidden}", hidden.len()),
        format!("GET /v2/ HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{hidden}", hidden.len()),
        format!("GET /v2/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len()),
        format!("GET /v2/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\nContent-Length: 3\r\n\r\n{hidden}"),
        format!("GET /v2/ HTTP/1.1\r\nHost: a\r\nX: y\r\n folded: Z\r\nContent-Length: {}\r\n\r\n{hidden}", hidden.len()),
    ];
    for head in heads {
        let mut raw = Raw::connect(scene.agent.registry_address()).await;
        raw.send(&head).await;
        raw.finish().await;
        raw.read_to_end().await;
    }
    // The last of two requests in a row is no hidden one: it must be seen, which shows that the others would have been.
    let open = hidden.replace("hidden", "open");
    let mut raw = Raw::connect(scene.agent.registry_address()).await;
    raw.send(format!("GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n{open}")).await;
    raw.read_until("MANIFEST_UNKNOWN").await;
    assert_eq!(scene.upstream.count(&On::manifest("app", "open")), 1);
    assert_eq!(scene.upstream.count(&On::manifest("app", "hidden")), 0);
}

#[tokio::test]
async fn a_client_that_sends_its_head_slowly_is_cut_off() {
    let scene = Scene::configured(&[10], json!({ "limits": { "headerTimeout": "400ms" } })).await;
    for begin in ["", "GET /v2/ HTTP/1.1\r\n", "GET /v2/ HTTP/1.1\r\nHost: a\r\nX: "] {
        let mut raw = Raw::connect(scene.agent.registry_address()).await;
        raw.send(begin).await;
        let began = Instant::now();
        let answer = within(Duration::from_secs(5), "the cut", raw.read_to_end()).await;
        assert!(matches!(status_of(&String::from_utf8_lossy(&answer)), 0 | 400 | 408), "{begin:?}");
        assert!(began.elapsed() >= Duration::from_millis(200), "{begin:?}: {:?}", began.elapsed());
    }
    scene.pull().await;
}

#[tokio::test]
async fn a_tls_client_on_the_plain_port_is_refused_at_once() {
    let scene = Scene::new(&[10]).await;
    let hello = [&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03][..], &noise(1, 506)].concat();
    let mut raw = Raw::connect(scene.agent.registry_address()).await;
    raw.send(hello).await;
    within(Duration::from_secs(1), "the refusal", raw.read_to_end()).await;
    let https = format!("https://{}/v2/", scene.agent.registry_address());
    let asked = crate::support::client::new().get(https).send();
    within(Duration::from_secs(1), "the refusal", asked).await.expect_err("the agent speaks no TLS");
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut_off() {
    let config = json!({ "limits": { "writeTimeout": "500ms" } });
    let scene = Scene::configured(&[24 * MIB], config).await;
    scene.pull().await;
    let mut idle = Raw::connect(scene.agent.registry_address()).await;
    idle.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", scene.layer_path())).await;
    let connections = async || scene.agent.metric("kuik_agent_connections", &[]).await;
    until_some("its request is being answered", async || (connections().await > 1.5).then_some(())).await;
    until_some("it is cut off", async || (connections().await < 1.5).then_some(())).await;
    assert!(idle.read_to_end().await.len() < 24 * MIB);
}

#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let config = json!({ "limits": { "maxConnections": 3, "headerTimeout": "60s" } });
    let scene = Scene::configured(&[10], config).await;
    let request = "GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut raw = Raw::connect(scene.agent.registry_address()).await;
        raw.send(request).await;
        raw.read_until("{}").await;
        held.push(raw);
    }
    let mut waiting = Raw::connect(scene.agent.registry_address()).await;
    waiting.send(request).await;
    tokio::time::timeout(Duration::from_millis(200), waiting.read_until("{}")).await.expect_err("it must wait");
    held.pop();
    waiting.read_until("{}").await;
}

#[tokio::test]
async fn garbage_from_many_clients_leaves_the_agent_serving() {
    let scene = Scene::new(&[100_000]).await;
    let address = scene.agent.registry_address();
    let mut clients = Vec::new();
    for seed in 0..200_u64 {
        let size = usize::try_from(seed).unwrap() * 7 + 1;
        let mut bytes = noise(seed, size);
        if seed % 2 == 0 {
            bytes.splice(0..0, *b"GET /v2/");
        }
        if seed % 3 == 0 {
            bytes.extend(b"\r\n\r\n");
        }
        let mut raw = Raw::connect(address).await;
        raw.send(&bytes).await;
        clients.push(raw);
    }
    scene.pull().await;
    for client in &mut clients {
        client.finish().await;
        client.read_to_end().await;
    }
    scene.pull().await;
}

#[tokio::test]
async fn headers_of_every_kind_do_no_harm() {
    let scene = Scene::new(&[100_000]).await;
    scene.pull().await;
    let values = [
        "",
        "\"",
        "W/",
        "bytes=",
        "bytes=0-0,0-0",
        "*",
        "\u{80}",
        "sha256:",
        "application/json;q=nonsense,,,;",
        "%00",
        "Basic ====",
        "Bearer",
    ];
    for path in [scene.app.manifest("1"), scene.layer_path(), scene.app.tags(), "/v2/".to_owned()] {
        for name in
            ["range", "if-range", "if-none-match", "if-match", "accept", "accept-encoding", "authorization", "expect", "te", "user-agent"]
        {
            for value in values {
                let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{name}: {value}\r\n\r\n");
                let status = status_of(&exchange(scene.agent.registry_address(), request).await);
                assert!(matches!(status, 200 | 206 | 304 | 400 | 412 | 416 | 417), "{path} {name}: {value}: {status}");
            }
        }
    }
}

#[tokio::test]
async fn old_and_odd_but_valid_requests_are_answered() {
    let scene = Scene::new(&[1000]).await;
    scene.pull().await;
    let path = scene.layer_path();
    let heads = [
        format!("GET {path} HTTP/1.0\r\n\r\n"),
        format!("\r\n\r\nGET {path} HTTP/1.1\r\nhOsT: a\r\nconnection: CLOSE\r\n\r\n"),
        format!("GET http://anything.example{path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
        format!("GET {} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", path.replace("sha256:", "sha256%3A")),
    ];
    for head in heads {
        let answer = exchange(scene.agent.registry_address(), &head).await;
        assert_eq!(status_of(&answer.replacen("HTTP/1.0", "HTTP/1.1", 1)), 200, "{head}");
    }
}
