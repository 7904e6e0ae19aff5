//! The state machine of keys, over simulated months and minutes.

use std::collections::VecDeque;

use kuik_crd::PullKey;
use kuik_crd::pull_token::verify;
use proptest::prelude::*;

use super::auth;
use crate::config::Auth;
use crate::pull::keys::{Current, Found, KeyEvent, KeyStep, Pair, State, Told, overlap, step};

const START: u64 = 1_800_000_000;
const DAY: u64 = 86_400;

fn first(auth: &Auth) -> State {
    step(Found::default(), &Told::new(), START, auth).unwrap().state
}

/// A step of a leader that has told agents of every key since `told`.
fn later(state: &State, told: Option<u64>, now: u64, auth: &Auth) -> KeyStep {
    let told = told.map(|since| state.published().into_iter().map(|key| (key.id, since)).collect()).unwrap_or_default();
    step(state.clone().into(), &told, now, auth).unwrap()
}

fn id(state: &State) -> String {
    state.signer().unwrap().key().id.clone()
}

#[test]
fn nothing_found_makes_a_key_that_signs_at_once() {
    let made = step(Found::default(), &Told::new(), START, &Auth::default()).unwrap();
    assert_eq!(made.events, [KeyEvent::Made]);
    assert_eq!(made.state.published().iter().map(|key| &key.id).collect::<Vec<_>>(), [&id(&made.state)]);
    assert_eq!(made.next_check.as_secs(), 20 * DAY, "two thirds of 30 days");
    let again = later(&made.state, None, START + 20 * DAY - 1, &Auth::default());
    assert_eq!((again.state, again.events, again.next_check.as_secs()), (made.state, vec![], 1));
}

#[test]
fn the_next_key_is_told_for_ten_days_before_it_signs_and_the_last_one_for_as_long_as_its_tokens_live() {
    let auth = Auth::default();
    let old = first(&auth);
    let prepared = later(&old, Some(START), START + 20 * DAY, &auth);
    assert_eq!((prepared.events, prepared.next_check.as_secs()), (vec![KeyEvent::Prepared], 10 * DAY));
    assert_eq!((id(&prepared.state), prepared.state.published().len()), (id(&old), 2));
    let replaced = later(&prepared.state, Some(START + 20 * DAY), START + 30 * DAY, &auth);
    assert_eq!((replaced.events, replaced.next_check.as_secs()), (vec![KeyEvent::Replaced], 7 * DAY + 300));
    assert_ne!(id(&replaced.state), id(&old));
    assert_eq!(replaced.state.published().len(), 2);
    let kept = later(&replaced.state, Some(START), START + 37 * DAY + 299, &auth);
    assert_eq!((kept.events, kept.state.published().len()), (vec![], 2));
    let forgotten = later(&replaced.state, Some(START), START + 37 * DAY + 300, &auth);
    assert_eq!((forgotten.events, forgotten.state.published().len()), (vec![KeyEvent::Forgotten], 1));
}

#[test]
fn nothing_is_signed_with_a_key_that_this_leader_has_not_told_of_for_an_overlap() {
    let auth = Auth::default();
    let due = START + 30 * DAY;
    let prepared = later(&first(&auth), None, START + 20 * DAY, &auth).state;
    let check = |told: Option<u64>, wait: u64| {
        let done = later(&prepared, told, due, &auth);
        assert_eq!((done.events, done.next_check.as_secs()), (vec![], wait), "{told:?}");
    };
    check(None, 300);
    check(Some(due), 300);
    check(Some(due - 299), 1);
    assert_eq!(later(&prepared, Some(due - 300), due, &auth).events, [KeyEvent::Replaced]);
    assert_eq!(overlap(&super::auth(60, 120)).as_secs(), 15, "a quarter of a short token's life");
}

#[test]
fn a_token_that_lived_longer_under_another_setting_keeps_its_key() {
    let (long, short) = (auth(10 * DAY, 20 * DAY), auth(3600, 7200));
    let state = first(&long);
    // The setting was another for a while only: tokens from then may still be there.
    let state = later(&state, Some(START), START + 1, &short).state;
    let prepared = later(&state, Some(START), START + 4800, &short).state;
    let replaced = later(&prepared, Some(START), START + 7200, &short).state;
    let previous = replaced.previous.clone().unwrap();
    assert_eq!((previous.retired_at, previous.longest_token), (START + 7200, 10 * DAY));
    // There is no room for the one after that until then.
    let next = later(&replaced, Some(START), START + 20_000, &short);
    assert_eq!(next.events, [KeyEvent::Prepared]);
    let waiting = later(&next.state, Some(START), START + 5 * DAY, &short);
    assert_eq!((waiting.events, waiting.state.published().len()), (vec![], 3));
    let done = later(&waiting.state, Some(START), START + 7200 + 10 * DAY + 300, &short);
    assert_eq!(done.events, [KeyEvent::Forgotten, KeyEvent::Replaced]);
}

#[test]
fn what_is_damaged_is_done_without() {
    let auth = Auth::default();
    let prepared = later(&first(&auth), None, START + 20 * DAY, &auth).state;
    let garbage = || Pair { pkcs8: b"garbage".to_vec(), made_at: 0 };
    let lost = |current: Option<Current>, next: Option<Pair>| {
        let found = Found { current, next, ..prepared.clone().into() };
        let done = step(found, &Told::new(), START + 20 * DAY, &auth).unwrap();
        done.state.signer().unwrap();
        (done.events, id(&done.state))
    };
    let damaged = || Some(Current { pair: garbage(), ..prepared.current.clone() });
    let next = State { current: Current { pair: prepared.next.clone().unwrap(), ..prepared.current.clone() }, ..prepared.clone() };
    // Agents know the next one already.
    assert_eq!(lost(None, prepared.next.clone()), (vec![KeyEvent::Replaced], id(&next)));
    assert_eq!(lost(damaged(), prepared.next.clone()), (vec![KeyEvent::Replaced], id(&next)));
    assert_eq!(lost(damaged(), Some(garbage())).0, [KeyEvent::Made]);
    assert_eq!(lost(Some(prepared.current.clone()), Some(garbage())), (vec![KeyEvent::Prepared], id(&prepared)));
}

#[test]
fn times_that_lie_ahead_count_from_now_on() {
    let auth = Auth::default();
    let far = START + 3650 * DAY;
    let state = step(Found::default(), &Told::new(), far, &auth).unwrap().state;
    let done = later(&state, None, START, &auth);
    assert_eq!((done.state.current.signs_from, done.next_check.as_secs()), (START, 20 * DAY));
}

/// What one moment is like, and what leads to the next.
#[derive(Debug, Clone)]
enum Then {
    /// Time passes, in thousandths of a key's life.
    Wait(u64),
    /// Another replica leads: it knows what is kept, and has told nobody.
    Lead,
    /// The settings are others: 60 s and a multiple.
    Set(u64, u64),
}

fn then() -> impl Strategy<Value = Then> {
    prop_oneof![
        10 => (1_u64..400).prop_map(Then::Wait),
        3 => Just(Then::Lead),
        1 => (1_u64..50, 2_u64..6).prop_map(|(token, key)| Then::Set(token, key)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Each moment something is signed. An agent that heard of the keys at any time within an overlap before knows the key, but for the
    /// very first; and every token that has not expired is good for an agent that has heard of the latest keys.
    #[test]
    fn there_is_always_a_key_and_every_token_that_is_not_over_is_good(thens in prop::collection::vec(then(), 1..80)) {
        let (mut auth, mut now) = (auth(600, 1800), START);
        let (mut found, mut told) = (Found::default(), Told::new());
        let mut tokens: Vec<(u64, String)> = Vec::new();
        let mut heard: VecDeque<(u64, Vec<PullKey>)> = VecDeque::new();
        for then in thens {
            match then {
                Then::Wait(part) => now += (auth.key_lifetime.as_secs() * part / 1000).max(1),
                Then::Lead => told.clear(),
                Then::Set(token, key) => auth = super::auth(60 * token, 60 * token * key),
            }
            let is_first = found.current.is_none();
            let done = step(found.clone(), &told, now, &auth).unwrap();
            let published = done.state.published();
            prop_assert!((1..=3).contains(&published.len()));
            prop_assert!(!done.next_check.is_zero());
            told.retain(|id, _| published.iter().any(|key| key.id == *id));
            for key in &published {
                told.entry(key.id.clone()).or_insert(now);
            }
            let signer = done.state.signer().unwrap();
            let within = overlap(&auth).as_secs();
            if done.events.contains(&KeyEvent::Replaced) && !is_first {
                // What an agent knows that last heard an overlap ago is what was said last before that.
                let as_of = heard.iter().rev().find(|(at, _)| *at <= now - within);
                prop_assert!(as_of.is_some_and(|(_, keys)| keys.contains(signer.key())), "{within}");
            }
            heard.push_back((now, published.clone()));
            let until = now + auth.token_lifetime.as_secs();
            tokens.push((until, signer.sign("team", until)));
            tokens.retain(|(until, _)| *until > now);
            for (until, token) in &tokens {
                prop_assert_eq!(verify(&published, "team", token, now), Ok(*until));
            }
            found = done.state.into();
        }
    }
}
