//! Probes and metrics.

use std::sync::Arc;

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt as _;
use kuik_webhook::health::{HealthState, router};
use kuik_webhook::readiness::Readiness;
use tower::ServiceExt as _;

async fn get(state: &HealthState, path: &str) -> (u16, String) {
    let answer = router(state.clone()).oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
    let status = answer.status().as_u16();
    (status, String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

#[tokio::test]
async fn it_is_ready_when_everything_is_there_and_until_it_ends() {
    let state = HealthState { readiness: Readiness::default(), registry: Arc::new(kuik_webhook::metrics::registry()) };
    let latches = ["certificate", "listeners"].map(|step| state.readiness.latch(step));
    assert_eq!(get(&state, "/readyz").await, (503, "waiting for: certificate, listeners\n".to_owned()));
    assert_eq!(get(&state, "/livez").await, (200, "ok\n".to_owned()));
    drop(latches);
    assert_eq!(get(&state, "/readyz").await, (200, "ok\n".to_owned()));
    let _ending = state.readiness.latch("the end");
    assert_eq!(get(&state, "/readyz").await.0, 503);
    assert_eq!(get(&state, "/livez").await.0, 200);
}

#[tokio::test]
async fn the_metrics_of_all_parts_have_one_prefix() {
    let mut registry = kuik_webhook::metrics::registry();
    kuik_webhook::control::Metrics::register(&mut registry);
    kuik_webhook::admission::Metrics::register(&mut registry);
    kuik_webhook::lifecycle::Metrics::register(&mut registry);
    let (status, text) = get(&HealthState { readiness: Readiness::default(), registry: Arc::new(registry) }, "/metrics").await;
    assert_eq!(status, 200);
    assert!(text.ends_with("# EOF\n"), "{text}");
    let families: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert!(families.len() > 4, "{families:?}");
    for family in families {
        let name = family.strip_prefix("kuik_webhook_").unwrap_or_else(|| panic!("{family} has no prefix"));
        assert!(!name.starts_with("kuik_"), "{family} has it twice");
    }
    let version = env!("CARGO_PKG_VERSION");
    assert!(text.contains(&format!("kuik_webhook_build_info{{version=\"{version}\"}} 1")), "{text}");
}
