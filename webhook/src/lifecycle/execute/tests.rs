//! Plans before an API server that answers what it is told to.

use std::sync::{Arc, Mutex};

use http::Method;
use kuik_crd::{CachedImageSpec, NodeCacheSpec};
use prometheus_client::registry::Registry;
use serde_json::json;

use super::*;
use crate::lifecycle::events::events;
use crate::lifecycle::mock;

/// The requests that came, as `METHOD PATH`.
type Requests = Arc<Mutex<Vec<String>>>;

fn executor(status: u16) -> (Executor, Requests) {
    let requests = Requests::default();
    let seen = Arc::clone(&requests);
    let client = mock::client(move |method, path, body| {
        seen.lock().unwrap().push(format!("{method} {path}"));
        let done = json!({"kind": "Status", "apiVersion": "v1", "status": "Success"});
        async move { (status, if method == Method::DELETE { done } else { body.unwrap_or_default() }) }
    });
    let metrics = Metrics::register(&mut Registry::default());
    let (events, _) = events(client.clone(), "webhook-1".to_owned(), metrics.clone());
    (Executor::new(&client, events, metrics), requests)
}

fn take(requests: &Requests) -> Vec<String> {
    std::mem::take(&mut *requests.lock().unwrap())
}

fn step(action: Action) -> Step {
    Step { action, notes: Vec::new() }
}

fn object(name: &str, version: &str) -> Box<CachedImage> {
    let mut object = CachedImage::new(name, CachedImageSpec { source_image: "nginx".to_owned(), ..CachedImageSpec::default() });
    object.metadata.resource_version = Some(version.to_owned());
    Box::new(object)
}

fn status(name: &str, version: &str) -> Step {
    step(Action::WriteImageStatus(object(name, version)))
}

fn target(name: &str) -> Target {
    Target { name: name.to_owned(), uid: Some("u".to_owned()), version: Some("1".to_owned()) }
}

fn expired() -> Expired {
    Expired { image: "image".to_owned(), since: 7 }
}

const PATH: &str = "/apis/kuik.enix.io/v1alpha1/cachedimages";

#[tokio::test(start_paused = true)]
async fn each_action_is_one_request() {
    let (mut executor, requests) = executor(200);
    let patch = json!({"metadata": {"name": "b"}, "spec": {"sourceImage": "x"}});
    let steps = [
        step(Action::CreateImage(object("a", "1"))),
        step(Action::PatchImage(target("b"), patch)),
        status("c", "1"),
        step(Action::DeleteImage(target("d"), Some(expired()))),
    ];
    let (expired, is_more) = executor.execute(steps.to_vec()).await;
    assert_eq!((expired, is_more), (vec![self::expired()], false));
    let mut requests = take(&requests);
    requests.sort();
    let expected = [format!("DELETE {PATH}/d?"), format!("PATCH {PATH}/b?"), format!("POST {PATH}?"), format!("PUT {PATH}/c/status?")];
    assert_eq!(requests, expected);
}

#[tokio::test(start_paused = true)]
async fn an_object_is_left_alone_until_another_version_of_it_is_seen_or_for_five_seconds() {
    let (mut executor, requests) = executor(200);
    executor.execute(vec![status("a", "1")]).await;
    executor.execute(vec![status("a", "1")]).await;
    assert_eq!(take(&requests).len(), 1);
    executor.execute(vec![status("a", "2")]).await;
    assert_eq!(take(&requests).len(), 1);
    tokio::time::advance(SEEN_WITHIN).await;
    executor.execute(vec![status("a", "2")]).await;
    assert_eq!(take(&requests).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_comes_too_late_waits_for_what_is_new() {
    for code in [404, 409] {
        let (mut executor, requests) = executor(code);
        let (expired, _) = executor.execute(vec![step(Action::DeleteImage(target("a"), Some(expired())))]).await;
        assert!(expired.is_empty(), "it was not deleted by us");
        executor.execute(vec![status("a", "1")]).await;
        assert_eq!(take(&requests).len(), 1);
        executor.execute(vec![status("a", "2")]).await;
        assert_eq!(take(&requests).len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_made_for_want_of_a_definition_has_failed() {
    for (code, pause) in [(404, 10), (409, 5)] {
        let (mut executor, requests) = executor(code);
        let create = || vec![step(Action::CreateImage(object("a", "1")))];
        executor.execute(create()).await;
        tokio::time::advance(Duration::from_secs(5)).await;
        executor.execute(create()).await;
        assert_eq!(take(&requests).len(), 2);
        tokio::time::advance(Duration::from_secs(pause - 1)).await;
        executor.execute(create()).await;
        assert!(take(&requests).is_empty(), "{code}");
        tokio::time::advance(Duration::from_secs(1)).await;
        executor.execute(create()).await;
        assert_eq!(take(&requests).len(), 1, "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_tried_again_less_and_less_often() {
    let (mut executor, requests) = executor(422);
    let start = Instant::now();
    let mut at = Vec::new();
    while start.elapsed() < Duration::from_secs(1_000) {
        executor.execute(vec![status("a", "1")]).await;
        if !take(&requests).is_empty() {
            at.push(start.elapsed().as_secs());
        }
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert_eq!(at, [0, 5, 15, 35, 75, 155, 315, 615, 915]);
}

#[tokio::test(start_paused = true)]
async fn a_long_plan_is_carried_out_in_part_and_at_a_rate() {
    let (mut executor, requests) = executor(200);
    let steps: Vec<Step> = (0..250).map(|i| status(&format!("a{i}"), "1")).collect();
    let start = Instant::now();
    let (_, is_more) = executor.execute(steps.clone()).await;
    assert_eq!((take(&requests).len(), is_more), (100, true));
    assert!(start.elapsed() >= Duration::from_millis(990), "50 at once, 50 a second: {:?}", start.elapsed());
    executor.execute(steps.clone()).await;
    let (_, is_more) = executor.execute(steps).await;
    assert_eq!((take(&requests).len(), is_more), (150, false));
}

#[tokio::test(start_paused = true)]
async fn an_event_about_a_node_s_cache_names_it_after_its_status_was_written() {
    let events_seen = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&events_seen);
    let client = mock::client(move |method, path, body| {
        let body = body.unwrap_or_default();
        seen.lock().unwrap().push((format!("{method} {path}"), body.clone()));
        async move { (200, body) }
    });
    let metrics = Metrics::register(&mut Registry::default());
    let (events, sender) = events(client.clone(), "webhook-1".to_owned(), metrics.clone());
    let mut cache = NodeCache::new("n1", NodeCacheSpec {});
    cache.metadata.uid = Some("uid-of-cache".to_owned());
    let note = Note { is_warning: true, reason: "BudgetExceeded", text: "1Gi over".to_owned() };
    let step = Step { action: Action::WriteNodeCacheStatus(Box::new(cache)), notes: vec![note] };
    let mut executor = Executor::new(&client, events, metrics);
    executor.execute(vec![step]).await;
    drop(executor);
    sender.run().await;
    let seen = events_seen.lock().unwrap();
    let requests: Vec<&str> = seen.iter().map(|(request, _)| request.as_str()).collect();
    let expected = ["PUT /apis/kuik.enix.io/v1alpha1/nodecaches/n1/status?", "POST /apis/events.k8s.io/v1/namespaces/default/events?"];
    assert_eq!(requests, expected);
    let event = &seen[1].1;
    let expected = json!({"apiVersion": "kuik.enix.io/v1alpha1", "kind": "NodeCache", "name": "n1", "uid": "uid-of-cache"});
    assert_eq!((&event["regarding"], &event["reason"], &event["type"]), (&expected, &json!("BudgetExceeded"), &json!("Warning")));
}

#[tokio::test(start_paused = true)]
async fn an_image_that_cannot_be_deleted_at_its_expiry_is_told() {
    for (code, cause, expected) in [(500, Some(expired()), Some("ExpiringFailed")), (500, None, None), (409, Some(expired()), None)] {
        let said = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&said);
        let client = mock::client(move |method, _, body| {
            let is_event = method == Method::POST;
            seen.lock().unwrap().extend(body.clone().filter(|_| is_event));
            async move { (if is_event { 201 } else { code }, body.unwrap_or_default()) }
        });
        let metrics = Metrics::register(&mut Registry::default());
        let (events, sender) = events(client.clone(), "webhook-1".to_owned(), metrics.clone());
        let mut executor = Executor::new(&client, events, metrics);
        executor.execute(vec![step(Action::DeleteImage(target("a"), cause))]).await;
        drop(executor);
        sender.run().await;
        let said = said.lock().unwrap();
        let reasons: Vec<_> = said.iter().map(|event| (&event["reason"], &event["type"], &event["regarding"]["name"])).collect();
        let expected: Vec<_> = expected.into_iter().map(|reason| (json!(reason), json!("Warning"), json!("a"))).collect();
        assert_eq!(reasons, expected.iter().map(|(reason, kind, name)| (reason, kind, name)).collect::<Vec<_>>(), "{code}");
    }
}
