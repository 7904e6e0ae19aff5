//! Lists are upstream's where it answers, and the cache's where it does not.

use serde_json::json;

use crate::support::agent::TestAgent;
use crate::support::images::{self, Image, OCI_INDEX};
use crate::support::registry::{FakeRegistry, Fault, On};
use crate::support::scene::{Scene, pull, pull_by_digest};
use crate::support::wait::until_some;

const SIGNATURE: &str = "application/vnd.example.signature";
const SBOM: &str = "application/vnd.example.sbom";

/// Where the answer's `Link` goes on, as a path at the agent.
fn next(link: &str) -> &str {
    let (path, parameters) = link.strip_prefix('<').and_then(|rest| rest.split_once('>')).unwrap_or_else(|| panic!("{link}"));
    assert!(parameters.contains("rel=\"next\""), "{link}");
    path
}

#[tokio::test]
async fn tags_are_upstreams_page_by_page() {
    let upstream = FakeRegistry::start();
    let agent = TestAgent::start(&upstream).await;
    let image = images::simple(1, &[10]);
    for tag in ["a", "b", "c", "d", "e"] {
        image.push(&upstream, "app", tag);
    }
    let path = upstream.repository("app").tags();
    let whole = agent.get(&path).await.expect(200);
    assert_eq!(whole.json()["tags"], json!(["a", "b", "c", "d", "e"]));
    assert_eq!((whole.header("link"), whole.header("content-type")), (None, Some("application/json")));
    let first = agent.get(&format!("{path}?n=2")).await.expect(200);
    assert_eq!(first.json()["tags"], json!(["a", "b"]));
    let mut tags = Vec::new();
    let mut page = Some(format!("{path}?n=2"));
    while let Some(path) = page {
        assert!(path.starts_with(&upstream.repository("app").tags()), "{path} does not lead back to the agent");
        let got = agent.get(&path).await.expect(200);
        tags.extend(got.json()["tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap().to_owned()));
        page = got.header("link").map(|link| next(link).to_owned());
    }
    assert_eq!(tags, ["a", "b", "c", "d", "e"]);
    assert_eq!(agent.get(&format!("{path}?last=c")).await.expect(200).json()["tags"], json!(["d", "e"]));
    assert!(agent.head(&path).await.expect(200).body.is_empty());
}

#[tokio::test]
async fn a_registrys_own_page_size_is_followed() {
    let upstream = FakeRegistry::start();
    let agent = TestAgent::start(&upstream).await;
    for tag in ["a", "b", "c"] {
        images::simple(1, &[10]).push(&upstream, "app", tag);
    }
    upstream.set_page_size(2);
    let got = agent.get(&upstream.repository("app").tags()).await.expect(200);
    let link = got.header("link").unwrap().to_owned();
    assert_eq!(agent.get(next(&link)).await.expect(200).json()["tags"], json!(["c"]));
}

#[tokio::test]
async fn tags_of_a_repository_that_does_not_exist_are_unknown() {
    let upstream = FakeRegistry::start();
    let agent = TestAgent::start(&upstream).await;
    assert_eq!(agent.get(&upstream.repository("none").tags()).await.expect(404).error_code(), "NAME_UNKNOWN");
}

#[tokio::test]
async fn tags_are_those_known_here_when_upstream_is_down() {
    let upstream = FakeRegistry::start();
    let mut agent = TestAgent::start(&upstream).await;
    let app = upstream.repository("app");
    for tag in ["a", "b", "c", "unseen"] {
        images::simple(1, &[10]).push(&upstream, "app", tag);
    }
    for tag in ["c", "a", "b"] {
        agent.get(&app.manifest(tag)).await.expect(200);
    }
    for fault in [Fault::Status(500), Fault::Status(429)] {
        upstream.fault(On::any(), fault);
        let got = until_some("three tags are stored", async || {
            let got = agent.get(&app.tags()).await;
            (got.status == 200 && got.json()["tags"].as_array().is_some_and(|tags| tags.len() == 3)).then_some(got)
        })
        .await;
        assert_eq!(got.json(), json!({ "name": got.json()["name"], "tags": ["a", "b", "c"] }));
        assert!(got.header("warning").is_some());
        let first = agent.get(&format!("{}?n=2", app.tags())).await.expect(200);
        assert_eq!(first.json()["tags"], json!(["a", "b"]));
        let link = first.header("link").unwrap().to_owned();
        assert_eq!(agent.get(next(&link)).await.expect(200).json()["tags"], json!(["c"]));
        agent.crash().await;
    }
    let got = agent.get(&upstream.repository("none").tags()).await;
    assert!(got.status >= 400, "{}", got.status);
}

/// An image with a signature and an SBOM.
async fn signed() -> (Scene, [Image; 2]) {
    let scene = Scene::new(&[10]).await;
    let referrers = [images::referrer(1, SIGNATURE, &scene.image), images::referrer(2, SBOM, &scene.image)];
    for referrer in &referrers {
        referrer.push_untagged(&scene.upstream, "app");
    }
    (scene, referrers)
}

fn digests(list: &serde_json::Value) -> Vec<String> {
    list["manifests"].as_array().unwrap().iter().map(|entry| entry["digest"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn referrers_are_upstreams() {
    let (scene, [signature, sbom]) = signed().await;
    let path = scene.app.referrers(&scene.image.digest);
    let got = scene.agent.get(&path).await.expect(200);
    assert_eq!(got.header("content-type"), Some(OCI_INDEX));
    let found = digests(&got.json());
    assert!(found.len() == 2 && found.contains(&signature.digest.to_string()) && found.contains(&sbom.digest.to_string()));
    let filtered = scene.agent.get(&format!("{path}?artifactType={SBOM}")).await.expect(200);
    assert_eq!(digests(&filtered.json()), [sbom.digest.to_string()]);
    assert_eq!(filtered.header("oci-filters-applied"), Some("artifactType"));
    pull_by_digest(&scene.agent, &scene.app, &sbom).await;
}

#[tokio::test]
async fn referrers_are_those_known_here_when_upstream_is_down() {
    let (mut scene, [signature, sbom]) = signed().await;
    scene.pull().await;
    pull_by_digest(&scene.agent, &scene.app, &signature).await;
    pull_by_digest(&scene.agent, &scene.app, &sbom).await;
    let path = scene.app.referrers(&scene.image.digest);
    let known = scene.agent.get(&path).await.expect(200).json();
    scene.upstream.stop().await;
    for _before_and_after_a_crash in 0..2 {
        let got = scene.agent.get(&path).await.expect(200);
        assert_eq!(got.header("content-type"), Some(OCI_INDEX));
        let mut entries = got.json()["manifests"].as_array().unwrap().clone();
        entries.sort_by_key(|entry| entry["digest"].to_string());
        assert_eq!(json!(entries), known["manifests"]);
        let filtered = scene.agent.get(&format!("{path}?artifactType={SIGNATURE}")).await.expect(200);
        assert_eq!(digests(&filtered.json()), [signature.digest.to_string()]);
        scene.agent.crash().await;
    }
}

#[tokio::test]
async fn an_upstream_without_referrers_sends_clients_to_the_tag() {
    let (scene, [signature, _]) = signed().await;
    scene.upstream.disable_referrers();
    scene.agent.get(&scene.app.referrers(&scene.image.digest)).await.expect(404);
    let fallback = format!("sha256-{}", scene.image.digest.hex());
    signature.push(&scene.upstream, "app", &fallback);
    pull(&scene.agent, &scene.app, &fallback, &signature).await;
}

#[tokio::test]
async fn lists_of_nonsense_are_not_passed_on_as_if_they_were_lists() {
    let scene = Scene::new(&[10]).await;
    for query in ["n=-1", "n=x", "n=99999999999"] {
        let got = scene.agent.get(&format!("{}?{query}", scene.app.tags())).await;
        assert_eq!(got.status, 400, "{query}");
        got.error_code();
    }
    scene.agent.get(&format!("{}?n=0", scene.app.tags())).await.expect(200);
    let got = scene.agent.get(&format!("{}?last=%00%ff&n=1", scene.app.tags())).await;
    assert!(matches!(got.status, 200 | 400), "{}", got.status);
}
