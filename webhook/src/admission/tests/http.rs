//! The router.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use prometheus_client::registry::Registry;
use serde_json::Value;
use tower::ServiceExt;

use super::reviews::mk_review;
use super::{rules, simple};
use crate::admission::{Metrics, PATH, REVIEW_BYTES_MAX, REVIEW_TIMEOUT, router};

fn mk_router() -> (Router, Registry) {
    let mut registry = crate::metrics::registry();
    let metrics = Metrics::register(&mut registry);
    (router(Arc::new(rules()), &metrics), registry)
}

async fn send(router: &Router, request: Request<Body>) -> (StatusCode, Value) {
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

fn post(body: impl Into<Body>) -> Request<Body> {
    Request::post(PATH).header("content-type", "application/json").body(body.into()).unwrap()
}

fn metrics(registry: &Registry) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    text
}

#[tokio::test]
async fn a_review_is_answered_and_counted() {
    let (router, registry) = mk_router();
    let (status, answer) = send(&router, post(mk_review("CREATE", simple("nginx"), Value::Null).to_string())).await;
    assert_eq!((status, &answer["response"]["allowed"]), (StatusCode::OK, &Value::Bool(true)));
    assert!(answer["response"]["patch"].is_string());
    send(&router, post(mk_review("CREATE", simple("NGINX"), Value::Null).to_string())).await;
    let text = metrics(&registry);
    for line in [
        "kuik_webhook_admission_reviews_total{result=\"patched\"} 1",
        "kuik_webhook_admission_reviews_total{result=\"unpatched\"} 1",
        "kuik_webhook_admission_images_rewritten_total 1",
        "kuik_webhook_admission_images_skipped_total{reason=\"inexpressible\"} 1",
        "kuik_webhook_admission_review_duration_seconds_count 2",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}

#[tokio::test]
async fn what_is_no_review_gets_an_error_that_says_so() {
    let (router, registry) = mk_router();
    for (request, status, part) in [
        (post("{}"), StatusCode::BAD_REQUEST, "expected kind \"AdmissionReview\""),
        (post("nonsense"), StatusCode::BAD_REQUEST, "no AdmissionReview"),
        (Request::get(PATH).body(Body::empty()).unwrap(), StatusCode::METHOD_NOT_ALLOWED, "POST"),
        (Request::post("/elsewhere").body(Body::empty()).unwrap(), StatusCode::NOT_FOUND, PATH),
    ] {
        let (is, body) = send(&router, request).await;
        assert_eq!((is, &body["kind"], &body["code"]), (status, &Value::from("Status"), &Value::from(status.as_u16())));
        assert!(body["message"].as_str().unwrap().contains(part), "{body}");
    }
    assert!(metrics(&registry).contains("kuik_webhook_admission_reviews_total{result=\"malformed\"} 2"));
}

#[tokio::test]
async fn large_reviews_are_taken_and_larger_ones_refused() {
    let (router, _registry) = mk_router();
    let mut pod = simple("nginx");
    pod["metadata"]["annotations"] = serde_json::json!({ "big": "x".repeat(200 << 10) });
    pod["metadata"]["managedFields"] =
        (0..30_000).map(|n| serde_json::json!({ "fieldsV1": { "f": n }, "manager": "m".repeat(30) })).collect();
    let review = mk_review("UPDATE", pod.clone(), pod).to_string();
    assert!(review.len() > 3 << 20, "{}", review.len());
    let (status, _) = send(&router, post(review)).await;
    assert_eq!(status, StatusCode::OK);

    let (status, body) = send(&router, post(vec![b' '; REVIEW_BYTES_MAX + 1])).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{body}");
    let endless = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 65536])));
    let (status, body) = send(&router, post(Body::from_stream(endless))).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{body}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_given_up() {
    let (router, registry) = mk_router();
    let started = tokio::time::Instant::now();
    let (status, body) = send(&router, post(Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>()))).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    assert_eq!(started.elapsed().as_secs(), REVIEW_TIMEOUT.as_secs());
    assert!(metrics(&registry).contains("result=\"overloaded\"} 1"));
}
