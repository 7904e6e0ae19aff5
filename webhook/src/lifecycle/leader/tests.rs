//! The decision by itself, and elections before an API server that knows one Lease.

use std::sync::{Arc, Mutex};

use http::Method;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::*;
use crate::lifecycle::mock;

fn held_by(holder: &str) -> LeaseSpec {
    LeaseSpec { holder_identity: Some(holder.to_owned()), lease_duration_seconds: Some(15), ..LeaseSpec::default() }
}

#[test]
fn a_lease_that_nobody_holds_is_taken() {
    assert_eq!(decide(None, "us", Duration::ZERO), Decision::Acquire);
    assert_eq!(decide(Some(&LeaseSpec::default()), "us", Duration::ZERO), Decision::Acquire);
    assert_eq!(decide(Some(&held_by("")), "us", Duration::ZERO), Decision::Acquire, "released");
}

#[test]
fn our_own_lease_is_renewed_however_old_it_is() {
    assert_eq!(decide(Some(&held_by("us")), "us", Duration::from_secs(3600)), Decision::Renew);
}

#[test]
fn a_holder_is_dead_when_its_lease_did_not_change_here_whatever_its_clock_says() {
    let mut lease = held_by("them");
    for renewed in ["1970-01-01T00:00:00Z", "2999-01-01T00:00:00Z"] {
        lease.renew_time = Some(MicroTime(renewed.parse().unwrap()));
        assert_eq!(decide(Some(&lease), "us", Duration::from_millis(14_999)), Decision::Wait);
        assert_eq!(decide(Some(&lease), "us", Duration::from_secs(15)), Decision::Acquire);
    }
}

#[test]
fn the_lease_says_how_long_it_lasts() {
    let lease = LeaseSpec { lease_duration_seconds: Some(60), ..held_by("them") };
    assert_eq!(decide(Some(&lease), "us", Duration::from_secs(59)), Decision::Wait);
    assert_eq!(decide(Some(&lease), "us", Duration::from_secs(60)), Decision::Acquire);
    let nonsense = LeaseSpec { lease_duration_seconds: Some(-1), ..held_by("them") };
    assert_eq!(decide(Some(&nonsense), "us", Duration::ZERO), Decision::Acquire);
}

#[test]
fn the_leader_stops_before_others_may_take_over() {
    let lasts = Duration::from_secs(u64::try_from(LEASE_SECONDS).unwrap());
    assert!(RENEW_WITHIN + STOP_TIMEOUT < lasts);
    assert!(RENEW_EVERY + REQUEST_TIMEOUT < RENEW_WITHIN, "one renewal may fail");
}

#[tokio::test(start_paused = true)]
async fn what_changes_is_new_again() {
    let mut seen = Seen { spec: None, since: Instant::now() };
    seen.look(Some(&held_by("them")));
    tokio::time::advance(Duration::from_secs(14)).await;
    assert_eq!(seen.look(Some(&held_by("them"))), Duration::from_secs(14));
    let renewed = LeaseSpec { renew_time: Some(MicroTime(Timestamp::UNIX_EPOCH)), ..held_by("them") };
    assert_eq!(seen.look(Some(&renewed)), Duration::ZERO);
}

#[test]
fn identities_tell_the_address() {
    assert_eq!(address("kuik-webhook-0_192.0.2.7"), Some("192.0.2.7".parse().unwrap()));
    assert_eq!(address("kuik-webhook-0_2001:db8::7"), Some("2001:db8::7".parse().unwrap()));
    assert_eq!(address("somebody"), None);
}

#[test]
fn jitter_stays_within_its_bounds() {
    for _ in 0..1000 {
        let jittered = jittered(Duration::from_secs(4));
        assert!((Duration::from_secs(3)..=Duration::from_secs(4)).contains(&jittered));
    }
}

/// An API server with one Lease. Whoever is cut off gets no answers.
#[derive(Debug, Clone, Default)]
struct Server {
    lease: Arc<Mutex<Option<Value>>>,
}

impl Server {
    fn answer(&self, method: &Method, body: Option<Value>) -> (u16, Value) {
        let mut lease = self.lease.lock().unwrap();
        let version = |lease: &Value| lease["metadata"]["resourceVersion"].as_str().unwrap_or("0").parse::<u64>().unwrap();
        match (method, &*lease, body) {
            (&Method::GET, None, _) => (404, json!({})),
            (&Method::GET, Some(lease), _) => (200, lease.clone()),
            (&Method::POST, Some(_), _) => (409, json!({})),
            (&Method::PUT, None, _) => (404, json!({})),
            (&Method::PUT, Some(old), Some(new)) if version(old) != version(&new) => (409, json!({})),
            (_, old, Some(mut new)) => {
                new["metadata"]["resourceVersion"] = json!((old.as_ref().map_or(0, version) + 1).to_string());
                *lease = Some(new.clone());
                (200, new)
            }
            _ => (400, json!({})),
        }
    }

    fn holder(&self) -> String {
        let lease = self.lease.lock().unwrap();
        lease.as_ref().and_then(|lease| lease["spec"]["holderIdentity"].as_str()).unwrap_or_default().to_owned()
    }
}

/// A replica that takes part.
struct Replica {
    leadership: watch::Receiver<Leadership>,
    /// Whether it works as the leader.
    works: watch::Receiver<bool>,
    cut_off: watch::Sender<bool>,
    stop: CancellationToken,
}

fn replica(tasks: &mut JoinSet<()>, server: &Server, number: u8) -> Replica {
    let (cut_off, is_cut_off) = watch::channel(false);
    let server = server.clone();
    let client = mock::client(move |method, _, body| {
        let (server, mut is_cut_off) = (server.clone(), is_cut_off.clone());
        async move {
            let _ = is_cut_off.wait_for(|cut_off| !cut_off).await;
            server.answer(&method, body)
        }
    });
    let board = Board::default();
    let names = mock::names(&format!("webhook-{number}"), &format!("10.0.0.{number}"));
    let elector = Elector::new(client, &names, board.clone());
    let (working, works) = watch::channel(false);
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tasks.spawn(async move {
        let work = |end: CancellationToken| {
            working.send_replace(true);
            let working = working.clone();
            async move {
                end.cancelled().await;
                working.send_replace(false);
            }
        };
        elector.run(&stopped, work).await;
    });
    Replica { leadership: board.leadership(), works, cut_off, stop }
}

impl Replica {
    async fn leads(&mut self) {
        self.works.wait_for(|works| *works).await.unwrap();
        assert_eq!(*self.leadership.borrow(), Leadership::Us);
    }
}

#[tokio::test(start_paused = true)]
async fn one_leads_and_the_other_knows_its_address() {
    let (server, mut tasks) = (Server::default(), JoinSet::new());
    let mut first = replica(&mut tasks, &server, 1);
    first.leads().await;
    assert_eq!(server.holder(), "webhook-1_10.0.0.1");
    let mut second = replica(&mut tasks, &server, 2);
    let address = "10.0.0.1".parse().unwrap();
    second.leadership.wait_for(|leadership| *leadership == Leadership::Other(address)).await.unwrap();
    sleep(Duration::from_secs(300)).await;
    assert!(*first.works.borrow() && !*second.works.borrow(), "it renews");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_stops_hands_over_within_two_seconds() {
    let (server, mut tasks) = (Server::default(), JoinSet::new());
    let mut first = replica(&mut tasks, &server, 1);
    first.leads().await;
    let mut second = replica(&mut tasks, &server, 2);
    sleep(Duration::from_secs(30)).await;
    let start = Instant::now();
    first.stop.cancel();
    second.leads().await;
    assert!(start.elapsed() <= Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(!*first.works.borrow());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_stops_before_the_other_begins() {
    let (server, mut tasks) = (Server::default(), JoinSet::new());
    let mut first = replica(&mut tasks, &server, 1);
    first.leads().await;
    let mut second = replica(&mut tasks, &server, 2);
    sleep(Duration::from_secs(30)).await;
    let start = Instant::now();
    first.cut_off.send_replace(true);
    first.works.wait_for(|works| !works).await.unwrap();
    let stopped_after = start.elapsed();
    assert!(stopped_after <= RENEW_WITHIN, "{stopped_after:?}");
    second.leads().await;
    let taken_after = start.elapsed();
    assert!(taken_after > stopped_after && taken_after <= Duration::from_secs(17), "{stopped_after:?} {taken_after:?}");
    first.cut_off.send_replace(false);
    let address = "10.0.0.2".parse().unwrap();
    first.leadership.wait_for(|leadership| *leadership == Leadership::Other(address)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_lease_was_taken_stops_at_its_next_renewal() {
    let (server, mut tasks) = (Server::default(), JoinSet::new());
    let mut first = replica(&mut tasks, &server, 1);
    first.leads().await;
    {
        let mut lease = server.lease.lock().unwrap();
        let lease = lease.as_mut().unwrap();
        lease["spec"]["holderIdentity"] = json!("somebody_10.0.0.9");
        lease["metadata"]["resourceVersion"] = json!("77");
    }
    let start = Instant::now();
    first.works.wait_for(|works| !works).await.unwrap();
    assert!(start.elapsed() <= RENEW_EVERY, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn somebody_may_write_to_the_lease_and_leave_us_the_holder() {
    let (server, mut tasks) = (Server::default(), JoinSet::new());
    let mut first = replica(&mut tasks, &server, 1);
    first.leads().await;
    server.lease.lock().unwrap().as_mut().unwrap()["metadata"]["resourceVersion"] = json!("77");
    sleep(Duration::from_secs(60)).await;
    assert!(*first.works.borrow());
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_lease_is_gone_does_not_wait_until_it_would_have_expired() {
    let (server, mut tasks) = (Server::default(), JoinSet::new());
    let mut first = replica(&mut tasks, &server, 1);
    first.leads().await;
    *server.lease.lock().unwrap() = None;
    sleep(RENEW_EVERY + Duration::from_millis(1)).await;
    assert_eq!(server.holder(), "webhook-1_10.0.0.1", "it is elected anew");
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_work_ends_gives_the_lease_back_and_lets_others_take_it() {
    let (server, mut tasks) = (Server::default(), JoinSet::new());
    let names = mock::names("webhook-1", "10.0.0.1");
    let lease = server.clone();
    let client = mock::client(move |method, _, body| {
        let answer = lease.answer(&method, body);
        async move { answer }
    });
    tasks.spawn(async move {
        let elector = Elector::new(client, &names, Board::default());
        elector.run(&CancellationToken::new(), |_| sleep(Duration::from_secs(2))).await;
    });
    sleep(Duration::from_secs(1)).await;
    let mut second = replica(&mut tasks, &server, 2);
    let start = Instant::now();
    second.leads().await;
    assert!(start.elapsed() <= Duration::from_secs(2), "{:?}", start.elapsed());
}
