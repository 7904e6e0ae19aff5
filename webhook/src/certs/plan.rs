//! When certificates are made and replaced: a state machine without IO and without a clock of its own.
//!
//! ```text
//!   authority:   made ──2/3 of its life──▶ next one made ──overlap──▶ next one signs ──overlap──▶ old one forgotten
//!   trusted:     old                       old, next                  new, old                    new
//!   serving:     by old                    by old                     by new                      by new
//! ```
//!
//! Nothing serves with a new authority before everybody has had an overlap of time to hear of it, and nobody forgets the old one before
//! every replica has had an overlap to serve with the new one. A serving certificate lives for two thirds of its life, or until the
//! hosts change.
//!
//! *Unsupported:* an authority whose key is lost is replaced at once; until its successor is known everywhere, handshakes fail.

use std::time::Duration;

use super::Lifetimes;
use super::x509::{self, Pair, Validity, X509Error};

/// The longest overlap. The slowest to hear of an authority is an agent's mounted `ConfigMap`, after a minute or two.
const OVERLAP_MAX: Duration = Duration::from_secs(86_400);

/// The overlap, by the life of an authority.
const OVERLAP_DIVISOR: u32 = 10;

/// What was found, whole or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) authority: Option<Pair>,
    pub(super) serving: Option<Pair>,
    pub(super) next: Option<Pair>,
    pub(super) previous: Option<String>,
}

/// What there is after a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    /// Signs.
    pub(super) authority: Pair,
    /// Serves; signed by the authority.
    pub(super) serving: Pair,
    /// Will sign, and is trusted already.
    pub(super) next: Option<Pair>,
    /// Does not sign any more, and is trusted still. Its key is gone.
    pub(super) previous: Option<String>,
}

impl State {
    /// What clients should trust.
    pub(super) fn bundle(&self) -> String {
        bundle(Some(&self.authority.certificate), self.next.as_ref().map(|next| &next.certificate), self.previous.as_ref())
    }
}

impl From<State> for Found {
    fn from(state: State) -> Self {
        let State { authority, serving, next, previous } = state;
        Self { authority: Some(authority), serving: Some(serving), next, previous }
    }
}

impl Found {
    /// What clients should trust.
    pub(super) fn bundle(&self) -> String {
        let [authority, next] = [&self.authority, &self.next].map(|pair| pair.as_ref().map(|pair| &pair.certificate));
        bundle(authority, next, self.previous.as_ref())
    }
}

fn bundle(authority: Option<&String>, next: Option<&String>, previous: Option<&String>) -> String {
    let lines = |pem: &String| format!("{}\n", pem.trim_end());
    [authority, next, previous].into_iter().flatten().map(lines).collect()
}

/// Something that a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Event {
    /// There was no authority that could sign.
    AuthorityMade,
    /// The authority gets old: its successor was made, and is told to everybody.
    AuthorityPrepared,
    /// The successor signs now.
    AuthorityReplaced,
    /// The one before is not trusted any more.
    AuthorityForgotten,
    /// A new serving certificate was made.
    CertificateMade,
}

impl Event {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::AuthorityMade => "authority_made",
            Self::AuthorityPrepared => "authority_prepared",
            Self::AuthorityReplaced => "authority_replaced",
            Self::AuthorityForgotten => "authority_forgotten",
            Self::CertificateMade => "certificate_made",
        }
    }
}

/// The result of a step.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) state: State,
    pub(super) events: Vec<Event>,
    /// When something is due next, from now.
    pub(super) next_check: Duration,
}

/// Brings what was found up to date.
pub(super) fn step(found: Found, now: u64, lifetimes: &Lifetimes, hosts: &[String]) -> Result<Step, X509Error> {
    let mut events = Vec::new();
    let Authorities { authority, validity, next, previous } = authorities(&found, now, lifetimes, &mut events)?;
    let kept = found.serving.filter(|serving| is_fresh(serving, &authority, hosts, now, lifetimes));
    let serving = match kept {
        Some(serving) => serving,
        None => {
            events.push(Event::CertificateMade);
            x509::make_serving(&authority, now, lifetimes.certificate, hosts)?
        }
    };
    let overlap = overlap(lifetimes).as_secs();
    let due = [
        Some(x509::validity(&serving.certificate)?.renew_at(lifetimes.certificate)),
        match &next {
            Some((_, next)) => Some(next.made_at + overlap),
            None => Some(validity.renew_at(lifetimes.authority)),
        },
        previous.as_ref().map(|_| validity.made_at + 2 * overlap),
    ];
    let due = due.into_iter().flatten().min().unwrap_or(now);
    let next_check = Duration::from_secs(due.saturating_sub(now).max(1));
    let next = next.map(|(pair, _)| pair);
    Ok(Step { state: State { authority, serving, next, previous }, events, next_check })
}

struct Authorities {
    authority: Pair,
    validity: Validity,
    next: Option<(Pair, Validity)>,
    previous: Option<String>,
}

fn authorities(found: &Found, now: u64, lifetimes: &Lifetimes, events: &mut Vec<Event>) -> Result<Authorities, X509Error> {
    let usable = |pair: &Option<Pair>| {
        let pair = pair.as_ref()?;
        let validity = x509::usable_authority(pair).filter(|validity| validity.contains(now))?;
        Some((pair.clone(), validity))
    };
    let make = || -> Result<(Pair, Validity), X509Error> {
        let pair = x509::make_authority(now, lifetimes.authority)?;
        let validity = x509::validity(&pair.certificate)?;
        Ok((pair, validity))
    };
    let overlap = overlap(lifetimes).as_secs();
    let was = found.authority.as_ref().map(|pair| pair.certificate.clone());
    let mut previous = found.previous.clone();
    let (current, next) = match (usable(&found.authority), usable(&found.next)) {
        (Some(current), Some(next)) if now < next.1.made_at + overlap => (current, Some(next)),
        (_, Some(next)) => {
            events.push(Event::AuthorityReplaced);
            previous = was;
            (next, None)
        }
        (Some(current), None) if now < current.1.renew_at(lifetimes.authority) => (current, None),
        (Some(current), None) => {
            events.push(Event::AuthorityPrepared);
            (current, Some(make()?))
        }
        (None, None) => {
            events.push(Event::AuthorityMade);
            previous = was;
            (make()?, None)
        }
    };
    let (authority, validity) = current;
    let trusted = |pem: &String| x509::validity(pem).is_ok_and(|old| old.contains(now)) && now < validity.made_at + 2 * overlap;
    let kept = previous.clone().filter(trusted);
    if kept.is_none() && found.previous.is_some() && previous == found.previous {
        events.push(Event::AuthorityForgotten);
    }
    Ok(Authorities { authority, validity, next, previous: kept })
}

fn is_fresh(serving: &Pair, authority: &Pair, hosts: &[String], now: u64, lifetimes: &Lifetimes) -> bool {
    x509::validity(&serving.certificate).is_ok_and(|validity| now < validity.renew_at(lifetimes.certificate))
        && x509::is_served_by(serving, &authority.certificate, hosts, now)
}

/// How long two authorities are trusted before and after the change from one to the other.
pub(super) fn overlap(lifetimes: &Lifetimes) -> Duration {
    (lifetimes.authority / OVERLAP_DIVISOR).clamp(Duration::from_secs(1), OVERLAP_MAX)
}
