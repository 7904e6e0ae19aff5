//! Several endpoints: who is asked when, and whose failure is told.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::support::*;
use crate::config::{Endpoint, RegistryConfig, UpstreamConfig};
use crate::oci::Registry;
use crate::upstream::UpstreamError;

async fn ask(config: &UpstreamConfig) -> Result<String, UpstreamError> {
    let fetched = mk_upstream(config.clone()).get_manifest(&mirrored(), &tag("t")).await?;
    Ok(String::from_utf8(fetched.bytes.to_vec()).unwrap())
}

async fn says(status: u16) -> Server {
    Server::http(move |_| if status == 200 { Reply::ok("yes") } else { Reply::status(status) }).await
}

#[tokio::test]
async fn endpoints_are_asked_in_order_until_one_answers() {
    let (first, second) = (says(200).await, says(200).await);
    assert_eq!(ask(&mk_mirrors(&[&first.registry, &second.registry])).await.unwrap(), "yes");
    assert_eq!((first.count(), second.count()), (1, 0));
    for status in [401, 403, 404, 429, 500] {
        let (first, second) = (says(status).await, says(200).await);
        assert_eq!(ask(&mk_mirrors(&[&first.registry, &second.registry])).await.unwrap(), "yes", "{status}");
        assert_eq!((first.count(), second.count()), (1, 1), "{status}: no retry where there is someone else");
    }
    let (broken, works) = (nobody().await, says(200).await);
    assert_eq!(ask(&mk_mirrors(&[&broken, &works.registry])).await.unwrap(), "yes");
}

#[tokio::test]
async fn a_connection_that_was_idle_for_too_long_is_no_reason_to_go_elsewhere() {
    let calls = AtomicU64::new(0);
    let first = Server::http(move |_| match calls.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::status(200).header("content-length", "9").then(Piece::Break),
        _ => Reply::ok("yes"),
    })
    .await;
    let second = says(200).await;
    assert_eq!(ask(&mk_mirrors(&[&first.registry, &second.registry])).await.unwrap(), "yes");
    assert_eq!((first.count(), second.count()), (2, 0));
}

#[tokio::test]
async fn the_most_telling_failure_is_told() {
    for (statuses, reason) in [
        ([404, 404], "not_found"),
        ([404, 403], "denied"),
        ([403, 404], "denied"),
        ([500, 404], "status"),
        ([500, 403], "denied"),
        ([403, 429], "too_many_requests"),
    ] {
        let (first, second) = (says(statuses[0]).await, says(statuses[1]).await);
        let error = ask(&mk_mirrors(&[&first.registry, &second.registry])).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{statuses:?}");
    }
    let (missing, broken) = (says(404).await, nobody().await);
    for order in [[&missing.registry, &broken], [&broken, &missing.registry]] {
        assert_eq!(ask(&mk_mirrors(&order)).await.unwrap_err().reason(), "unreachable");
    }
}

#[tokio::test]
async fn the_list_of_endpoints_is_complete() {
    let (itself, mirror) = (says(200).await, says(404).await);
    let mut config = mk_config();
    config.registries.insert(itself.registry.clone(), RegistryConfig { endpoints: vec![mk_endpoint(&mirror.registry)], ..plain() });
    let error = mk_upstream(config).get_manifest(&repo(&itself.registry, "a"), &tag("t")).await.unwrap_err();
    assert!(error.is_not_found());
    assert_eq!(itself.count(), 0);
}

#[tokio::test]
async fn an_endpoint_has_a_scheme_and_a_prefix() {
    let server = Server::http(|seen| Reply::ok(seen.path.clone())).await;
    let mut config = mk_config();
    let endpoint = Endpoint { plain_http: Some(true), prefix: "/proxy/hub".to_owned(), ..mk_endpoint(&server.registry) };
    let settings = RegistryConfig { endpoints: vec![endpoint], ..RegistryConfig::default() };
    config.registries.insert(mirrored().registry, settings);
    assert_eq!(ask(&config).await.unwrap(), "/proxy/hub/v2/app/manifests/t");
}

#[tokio::test]
async fn an_endpoint_without_a_scheme_follows_its_own_registry_too() {
    let server = says(200).await;
    let mut config = mk_plain(&server);
    let settings = RegistryConfig { endpoints: vec![mk_endpoint(&server.registry)], ..RegistryConfig::default() };
    config.registries.insert(mirrored().registry, settings);
    assert_eq!(ask(&config).await.unwrap(), "yes");
}

#[tokio::test]
async fn an_endpoint_that_is_down_or_silent_is_asked_last_for_a_while() {
    let silent = Server::http(|_| Reply::never()).await;
    let works = says(200).await;
    let upstream = mk_upstream(mk_mirrors(&[&silent.registry, &works.registry]));
    let ask = async || upstream.get_manifest(&mirrored(), &tag("t")).await.unwrap();
    ask().await;
    assert_eq!((silent.count(), works.count()), (1, 1));
    ask().await;
    ask().await;
    assert_eq!((silent.count(), works.count()), (1, 3));
    pass(Duration::from_secs(11)).await;
    ask().await;
    assert_eq!((silent.count(), works.count()), (2, 4), "then it gets its chance");
}

#[tokio::test]
async fn an_address_in_kuik_v1_s_form_is_asked_at_its_port_unless_that_form_is_configured() {
    let server = says(200).await;
    let v1: Registry = server.host().replace(':', "-").parse().unwrap();
    let repository = repo(&v1, "app");
    let upstream = mk_for(&server);
    for _ in 0..2 {
        assert_eq!(upstream.get_manifest(&repository, &tag("t")).await.unwrap().bytes, "yes");
    }
    assert_eq!(server.count(), 2);
    // With a configuration of its own it is what it says.
    let mut config = mk_plain(&server);
    config.registries.insert(v1.clone(), plain());
    let error = mk_upstream(config).get_manifest(&repository, &tag("t")).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Unreachable { unresolved: true, .. }), "{error:?}");
}

#[tokio::test]
async fn a_guess_that_leads_nowhere_is_not_told() {
    let v1: Registry = "no-such-host.invalid-5000".parse().unwrap();
    let upstream = mk_upstream(mk_config());
    let error = upstream.get_manifest(&repo(&v1, "app"), &tag("t")).await.unwrap_err();
    assert!(error.to_string().contains("at https://no-such-host.invalid-5000:"), "{error}");
    let asking = &upstream.asking;
    let endpoints = asking.endpoints.of(&asking.config, &v1);
    let guess = endpoints.iter().find(|endpoint| endpoint.is_guess).expect("there must be a guess");
    assert_eq!(guess.id.to_string(), "https://no-such-host.invalid:5000");
    assert!(asking.endpoints.is_unresolved(&guess.id), "it was asked");
}

#[tokio::test]
async fn docker_hub_is_asked_at_its_own_host() {
    let upstream = mk_upstream(UpstreamConfig { connect_timeout: Duration::from_millis(1), ..mk_config() });
    let error = upstream.get_manifest(&repo(&Registry::docker_hub(), "alpine"), &tag("t")).await.unwrap_err();
    assert!(error.to_string().starts_with("docker.io/library/alpine at https://registry-1.docker.io: "), "{error}");
}
