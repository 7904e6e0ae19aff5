//! Certificates that change while clients come and go: everything real but the API server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::api::FakeApi;
use super::{mk_names, provider};
use crate::board::Leadership;
use crate::certs::{Certificates, Lifetimes, spawn};
use crate::tls_server::{Limits, bind, serve};

const HOST: &str = "kuik-webhook.kuik-system.svc";

/// Without an answer for so long, it is the test itself that did not run.
const STALL: Duration = Duration::from_millis(1500);

/// After a stall, there are answers again by then.
const RECOVERY: Duration = Duration::from_secs(15);

struct Replica {
    certificates: Certificates,
    address: SocketAddr,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
}

async fn replica(
    api: &FakeApi,
    lifetimes: Lifetimes,
    tls_dir: Option<std::path::PathBuf>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Replica {
    provider();
    // The channel outlives the test: who leads does not change.
    let leadership = Box::leak(Box::new(watch::channel(Leadership::Us))).1.clone();
    let certificates = spawn(api.client(), Arc::new(mk_names()), lifetimes, tls_dir, leadership, tasks, stop.clone());
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/", get(|| async { "hello" }));
    let limits = Limits { shutdown_delay: Duration::ZERO, ..Limits::default() };
    let server = tokio::spawn(serve(listener, router, certificates.server_config(), limits, stop.clone()));
    certificates.ready().await;
    Replica { certificates, address, server }
}

/// A client of its own each time: a handshake, by what the bundle says now.
async fn ask(replica: &Replica) -> Result<String, reqwest::Error> {
    let bundle = replica.certificates.ca_bundle().borrow().clone().unwrap();
    let mut client = reqwest::Client::builder().resolve(HOST, replica.address).tls_certs_only([]);
    for authority in reqwest::Certificate::from_pem_bundle(&bundle).unwrap() {
        client = client.tls_certs_merge([authority]);
    }
    let url = format!("https://{HOST}:{}/", replica.address.port());
    client.build().unwrap().get(url).send().await?.text().await
}

#[tokio::test]
async fn rotation_fails_no_request_and_needs_no_restart() {
    let api = FakeApi::new();
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    // The certificate changes every 16 s, the authority after 34 s: with seconds to spare on a machine that does other things as well.
    let lifetimes = Lifetimes { certificate: Duration::from_secs(24), authority: Duration::from_secs(45) };
    let replica = replica(&api, lifetimes, None, &tasks, &stop).await;
    let first = replica.certificates.ca_bundle().borrow().clone().unwrap();
    let rotated = AtomicBool::new(false);
    let until_rotated = async {
        let mut bundle = replica.certificates.ca_bundle();
        // The first authority has come, overlapped and gone.
        let first = String::from_utf8(first.to_vec()).unwrap();
        bundle.wait_for(|now| !String::from_utf8_lossy(now.as_ref().unwrap()).contains(&first)).await.unwrap();
        rotated.store(true, Ordering::Relaxed);
    };
    let asking = async {
        let (mut asked, mut answered, mut stalled) = (0, Instant::now(), None::<Instant>);
        while stalled.is_some() || !rotated.load(Ordering::Relaxed) {
            match ask(&replica).await {
                Ok(said) => {
                    assert_eq!(said, "hello");
                    (asked, answered, stalled) = (asked + 1, Instant::now(), None);
                }
                // A machine that stood still for longer than certificates overlap proves nothing, if all is well soon after.
                Err(error) => {
                    assert!(answered.elapsed() >= STALL, "{:?} after the last answer: {error:?}", answered.elapsed());
                    let since = stalled.get_or_insert_with(Instant::now).elapsed();
                    assert!(since < RECOVERY, "no answer for {since:?}: {error:?}");
                }
            }
            // A core of the machine is left to other tests.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        asked
    };
    let ((), asked) = tokio::time::timeout(Duration::from_secs(120), async { tokio::join!(until_rotated, asking) }).await.unwrap();
    assert!(asked > 10, "{asked} requests");
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    replica.server.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_replica_that_restarts_serves_with_what_was_kept() {
    let api = FakeApi::new();
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let one = replica(&api, Lifetimes::default(), None, &tasks, &stop).await;
    let other = replica(&api, Lifetimes::default(), None, &tasks, &stop).await;
    let bundles = [&one, &other].map(|replica| replica.certificates.ca_bundle().borrow().clone().unwrap());
    assert_eq!(bundles[0], bundles[1]);
    for replica in [&one, &other] {
        assert_eq!(ask(replica).await.unwrap(), "hello");
    }
    stop.cancel();
}

#[tokio::test]
async fn files_are_taken_up_when_they_change() {
    let dir = tempfile::tempdir().unwrap();
    let lay = |source: &crate::certs::plan::State| {
        std::fs::write(dir.path().join("tls.crt"), &source.serving.certificate).unwrap();
        std::fs::write(dir.path().join("tls.key"), &source.serving.key).unwrap();
        std::fs::write(dir.path().join("ca.crt"), &source.authority.certificate).unwrap();
    };
    provider();
    let made = || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        crate::certs::plan::step(crate::certs::plan::Found::default(), now, &Lifetimes::default(), &mk_names().hosts()).unwrap().state
    };
    lay(&made());
    let api = FakeApi::new();
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let replica = replica(&api, Lifetimes::default(), Some(dir.path().to_owned()), &tasks, &stop).await;
    assert_eq!(ask(&replica).await.unwrap(), "hello");
    let mut bundle = replica.certificates.ca_bundle();
    bundle.mark_unchanged();
    // Half of a change is no change.
    std::fs::write(dir.path().join("tls.key"), "half").unwrap();
    lay(&made());
    tokio::time::timeout(Duration::from_secs(30), bundle.changed()).await.unwrap().unwrap();
    assert_eq!(ask(&replica).await.unwrap(), "hello");
    stop.cancel();
}
