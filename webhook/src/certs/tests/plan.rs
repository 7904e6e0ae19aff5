//! The state machine, over simulated years and seconds.

use std::time::Duration;

use super::provider;
use crate::certs::Lifetimes;
use crate::certs::plan::{Event, Found, State, Step, overlap, step};
use crate::certs::x509::{self, Pair};

const START: u64 = 1_800_000_000;
const DAY: u64 = 86_400;

fn hosts() -> Vec<String> {
    vec!["kuik-webhook.kuik-system.svc".to_owned(), "kuik-control.kuik-system.svc".to_owned()]
}

fn lifetimes(certificate: u64, authority: u64) -> Lifetimes {
    Lifetimes { certificate: Duration::from_secs(certificate), authority: Duration::from_secs(authority) }
}

fn first(lifetimes: &Lifetimes) -> Step {
    provider();
    step(Found::default(), START, lifetimes, &hosts()).unwrap()
}

/// Whether a client with this bundle takes this certificate.
fn trusts(bundle: &str, serving: &Pair, now: u64) -> bool {
    let begin = "-----BEGIN CERTIFICATE-----";
    let authorities = bundle.split(begin).skip(1).map(|rest| format!("{begin}{rest}"));
    authorities.into_iter().any(|authority| x509::is_served_by(serving, &authority, &hosts(), now))
}

#[test]
fn nothing_found_makes_everything() {
    let made = first(&Lifetimes::default());
    assert_eq!(made.events, [Event::AuthorityMade, Event::CertificateMade]);
    assert!(trusts(&made.state.bundle(), &made.state.serving, START));
    // Clocks behind ours take it as well, up to an hour.
    assert!(trusts(&made.state.bundle(), &made.state.serving, START - 3599));
    assert!(!trusts(&made.state.bundle(), &made.state.serving, START - 3601));
    assert_eq!(made.next_check.as_secs(), 60 * DAY, "two thirds of 90 days");
}

#[test]
fn what_is_whole_and_young_stays() {
    let lifetimes = Lifetimes::default();
    let made = first(&lifetimes);
    let again = step(made.state.clone().into(), START + 59 * DAY, &lifetimes, &hosts()).unwrap();
    assert_eq!((again.state, again.events), (made.state, vec![]));
    assert_eq!(again.next_check.as_secs(), DAY);
}

#[test]
fn the_certificate_is_renewed_after_two_thirds_of_its_life() {
    let lifetimes = Lifetimes::default();
    let made = first(&lifetimes);
    let renewed = step(made.state.clone().into(), START + 60 * DAY, &lifetimes, &hosts()).unwrap();
    assert_eq!(renewed.events, [Event::CertificateMade]);
    assert_eq!(renewed.state.authority, made.state.authority);
    assert_ne!(renewed.state.serving, made.state.serving);
}

#[test]
fn a_shorter_lifetime_counts_at_once() {
    let made = first(&Lifetimes::default());
    let shorter = step(made.state.into(), START + 61, &lifetimes(90, 3650 * DAY), &hosts()).unwrap();
    assert_eq!(shorter.events, [Event::CertificateMade]);
    assert_eq!(shorter.next_check.as_secs(), 60);
}

#[test]
fn other_hosts_get_another_certificate() {
    let lifetimes = Lifetimes::default();
    let made = first(&lifetimes);
    let more = [hosts(), vec!["renamed-webhook.kuik-system.svc".to_owned()]].concat();
    let renewed = step(made.state.clone().into(), START + 1, &lifetimes, &more).unwrap();
    assert_eq!(renewed.events, [Event::CertificateMade]);
    assert!(x509::is_served_by(&renewed.state.serving, &made.state.authority.certificate, &more, START + 1));
}

#[test]
fn what_is_damaged_is_replaced() {
    let lifetimes = Lifetimes::default();
    let made = first(&lifetimes).state;
    let other = first(&lifetimes).state;
    let garbage = || Pair { certificate: "garbage".to_owned(), key: "garbage".to_owned() };
    let found = |change: fn(&mut Found, &State, Pair)| {
        let mut found = Found::from(made.clone());
        change(&mut found, &other, garbage());
        let done = step(found, START + 1, &lifetimes, &hosts()).unwrap();
        assert!(trusts(&done.state.bundle(), &done.state.serving, START + 1));
        assert!(x509::is_served_by(&done.state.serving, &done.state.authority.certificate, &hosts(), START + 1));
        done
    };
    use Event::{AuthorityForgotten, AuthorityMade, CertificateMade};
    assert_eq!(found(|found, _, garbage| found.serving = Some(garbage)).events, [CertificateMade]);
    assert_eq!(found(|found, _, _| found.serving = None).events, [CertificateMade]);
    assert_eq!(found(|found, other, _| found.serving = Some(other.serving.clone())).events, [CertificateMade], "signed by another");
    assert_eq!(found(|found, other, _| found.serving.as_mut().unwrap().key = other.serving.key.clone()).events, [CertificateMade]);
    assert_eq!(found(|found, _, garbage| found.next = Some(garbage)).events, []);
    assert_eq!(found(|found, _, _| found.previous = Some("garbage".to_owned())).events, [AuthorityForgotten]);
    assert_eq!(found(|found, _, garbage| found.authority = Some(garbage)).events, [AuthorityMade, CertificateMade]);
    // Its certificate is still trusted: other replicas may serve with it until they hear of the new one.
    let lost_key = found(|found, other, _| found.authority.as_mut().unwrap().key = other.authority.key.clone());
    assert_eq!(lost_key.events, [AuthorityMade, CertificateMade]);
    assert!(trusts(&lost_key.state.bundle(), &made.serving, START + 1));
}

#[test]
fn what_has_expired_is_replaced() {
    let lifetimes = lifetimes(60, 600);
    let made = first(&lifetimes);
    let late = step(made.state.into(), START + 700, &lifetimes, &hosts()).unwrap();
    assert_eq!(late.events, [Event::AuthorityMade, Event::CertificateMade]);
    assert_eq!(late.state.previous, None);
}

/// Lets a leader work through the life of several authorities, and looks at each moment from the outside: a client that hears of bundles
/// an overlap late, and replicas that hear of certificates an overlap late, always understand each other.
fn rotate(lifetimes: Lifetimes) {
    let mut now = START;
    let mut made = first(&lifetimes);
    let mut history: Vec<(u64, State)> = vec![(now, made.state.clone())];
    let mut seen = Vec::new();
    let end = START + 3 * lifetimes.authority.as_secs();
    let late = overlap(&lifetimes).as_secs().saturating_sub(1);
    while now < end {
        now += made.next_check.as_secs();
        made = step(made.state.into(), now, &lifetimes, &hosts()).unwrap();
        seen.extend(made.events.iter().copied());
        history.push((now, made.state.clone()));
        let as_of = |time: u64| &history.iter().rev().find(|(at, _)| *at <= time.max(START)).unwrap().1;
        let (fresh, stale) = (as_of(now), as_of(now - late));
        for (client, server) in [(fresh, fresh), (fresh, stale), (stale, fresh), (stale, stale)] {
            // Expiry is another matter: nobody hears late of what was renewed after two thirds of its life.
            let alive = x509::validity(&server.serving.certificate).unwrap().not_after > now;
            assert!(!alive || trusts(&client.bundle(), &server.serving, now), "{lifetimes:?} after {} s", now - START);
        }
        assert!(trusts(&fresh.bundle(), &fresh.serving, now));
        assert!(fresh.bundle().matches("BEGIN").count() <= 2, "one authority, and one that comes or goes");
    }
    for event in [Event::AuthorityPrepared, Event::AuthorityReplaced, Event::AuthorityForgotten, Event::CertificateMade] {
        let count = seen.iter().filter(|other| **other == event).count();
        assert!(count >= 3, "{event:?} {count} times with {lifetimes:?}");
    }
}

#[test]
fn authorities_follow_each_other_without_a_gap() {
    for (certificate, authority) in [(90 * DAY, 3650 * DAY), (DAY, 30 * DAY), (3600, 7200), (30, 120), (600, 600), (1000, 100), (7, 10)] {
        rotate(lifetimes(certificate, authority));
    }
}
