//! Which keys sign pull tokens, and which agents are told of: a state machine without IO and without a clock of its own.
//!
//! ```text
//!   signs:  ──────────── key 1 ───────────────┬──────────── key 2 ──────────── …
//!   told:    1              1, 2              │  2, 1               2
//!                           ▲                 ▲                     ▲
//!             2/3 of its life: 2 is made   end of its life     the last token of 1 has expired
//! ```
//!
//! Nothing is signed with the next key before this leader has told agents of it for an overlap: 5 minutes, or a quarter of a token's life
//! if that is less. Long before that an agent hears of it that could not ask for days. A key is told of for as long as a token that it
//! signed may be valid, and an overlap longer, for clocks that differ. Between two keys there is room for one more only if the one before
//! is forgotten, so the next one waits for that; keys live at least twice as long as tokens.
//!
//! *Unsupported:* a key in use that is lost. The next one, or a new one, signs at once; agents hear of it within seconds, and until a
//! namespace's Secret is written anew its pods are refused private images.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use kuik_crd::PullKey;
use kuik_crd::pull_token::{PullSigner, PullSignerError};

use crate::config::Auth;

/// The longest overlap.
const OVERLAP_MAX: Duration = Duration::from_secs(300);

/// The overlap, by the life of a token.
const OVERLAP_DIVISOR: u32 = 4;

/// A key pair that can sign.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Pair {
    /// The pair itself (RFC 5958).
    pub(super) pkcs8: Vec<u8>,
    /// In seconds since 1970.
    pub(super) made_at: u64,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("made_at", &self.made_at).finish_non_exhaustive()
    }
}

impl Pair {
    fn make(now: u64) -> Result<Self, PullSignerError> {
        Ok(Self { pkcs8: PullSigner::generate()?, made_at: now })
    }

    fn key(&self) -> Option<PullKey> {
        PullSigner::read(&self.pkcs8).ok().map(|signer| signer.key().clone())
    }
}

/// The key in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Current {
    pub(super) pair: Pair,
    /// Since when it signs, in seconds since 1970.
    pub(super) signs_from: u64,
    /// The longest life of a token that it may have signed, in seconds.
    pub(super) longest_token: u64,
}

/// A key that does not sign any more. Its private half is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Retired {
    pub(super) key: PullKey,
    /// Since when, in seconds since 1970.
    pub(super) retired_at: u64,
    /// The longest life of a token that it may have signed, in seconds.
    pub(super) longest_token: u64,
}

/// What was found, whole or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) current: Option<Current>,
    pub(super) next: Option<Pair>,
    pub(super) previous: Option<Retired>,
}

/// What there is after a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    pub(super) current: Current,
    pub(super) next: Option<Pair>,
    pub(super) previous: Option<Retired>,
}

impl State {
    /// What signs.
    pub(super) fn signer(&self) -> Result<PullSigner, PullSignerError> {
        PullSigner::read(&self.current.pair.pkcs8)
    }

    /// What agents check tokens with.
    pub(super) fn published(&self) -> Vec<PullKey> {
        let previous = self.previous.as_ref().map(|retired| retired.key.clone());
        [self.current.pair.key(), previous, self.next.as_ref().and_then(Pair::key)].into_iter().flatten().collect()
    }
}

impl From<State> for Found {
    fn from(state: State) -> Self {
        let State { current, next, previous } = state;
        Self { current: Some(current), next, previous }
    }
}

/// Something that a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum KeyEvent {
    /// There was no key that could sign.
    Made,
    /// The key gets old: its successor was made, and is told of.
    Prepared,
    /// The successor signs now.
    Replaced,
    /// The one before is not told of any more.
    Forgotten,
}

impl KeyEvent {
    /// The value of the metric's label.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Made => "made",
            Self::Prepared => "prepared",
            Self::Replaced => "replaced",
            Self::Forgotten => "forgotten",
        }
    }
}

/// The result of a step.
#[derive(Debug)]
pub(super) struct KeyStep {
    pub(super) state: State,
    pub(super) events: Vec<KeyEvent>,
    /// When something is due next, from now.
    pub(super) next_check: Duration,
}

/// Since when agents were told of keys by this leader, by the keys' identifiers, in seconds since 1970.
pub(super) type Told = BTreeMap<String, u64>;

/// Brings what was found up to date. Nothing is to be signed, and nobody told, before the state has been written.
///
/// # Errors
/// When there is no randomness to make a key of.
pub(super) fn step(found: Found, told: &Told, now: u64, auth: &Auth) -> Result<KeyStep, PullSignerError> {
    let mut events = Vec::new();
    let (overlap, token) = (overlap(auth).as_secs(), auth.token_lifetime.as_secs());
    let was_there = found.previous.is_some();
    let mut previous = found.previous.map(|retired| Retired { retired_at: retired.retired_at.min(now), ..retired });
    previous = previous.filter(|retired| now < forgotten_at(retired, overlap));
    if was_there && previous.is_none() {
        events.push(KeyEvent::Forgotten);
    }
    let new = |pair| Current { pair, signs_from: now, longest_token: token };
    // A key from before a clock was set back counts from now on.
    let kept = |current: &Current| {
        let key = current.pair.key()?;
        let (signs_from, longest_token) = (current.signs_from.min(now), current.longest_token.max(token));
        Some((Current { signs_from, longest_token, ..current.clone() }, key))
    };
    let next = found.next.filter(|next| next.key().is_some());
    let (current, mut next) = match (found.current.as_ref().and_then(kept), next) {
        (Some((current, key)), Some(next)) if previous.is_none() && now >= replaced_at(&current, &next, told, auth, now) => {
            events.push(KeyEvent::Replaced);
            previous = Some(Retired { key, retired_at: now, longest_token: current.longest_token });
            (new(next), None)
        }
        (Some((current, _)), next) => (current, next),
        (None, Some(next)) => {
            events.push(KeyEvent::Replaced);
            (new(next), None)
        }
        (None, None) => {
            events.push(KeyEvent::Made);
            (new(Pair::make(now)?), None)
        }
    };
    if next.is_none() && now >= prepared_at(&current, auth) {
        events.push(KeyEvent::Prepared);
        next = Some(Pair::make(now)?);
    }
    let forgotten = previous.as_ref().map(|retired| forgotten_at(retired, overlap));
    let due = match &next {
        Some(next) => replaced_at(&current, next, told, auth, now).max(forgotten.unwrap_or(0)),
        None => prepared_at(&current, auth),
    };
    let due = forgotten.map_or(due, |at| at.min(due));
    let next_check = Duration::from_secs(due.saturating_sub(now).max(1));
    Ok(KeyStep { state: State { current, next, previous }, events, next_check })
}

/// When the successor of a key is made.
fn prepared_at(current: &Current, auth: &Auth) -> u64 {
    current.signs_from.saturating_add(auth.key_lifetime.as_secs() * 2 / 3)
}

/// When the successor signs, as far as is known now.
fn replaced_at(current: &Current, next: &Pair, told: &Told, auth: &Auth, now: u64) -> u64 {
    let told_since = next.key().and_then(|key| told.get(&key.id).copied()).unwrap_or(now);
    let end = current.signs_from.saturating_add(auth.key_lifetime.as_secs());
    end.max(told_since.saturating_add(overlap(auth).as_secs()))
}

/// When no token of a key can be valid any more, on any clock.
fn forgotten_at(retired: &Retired, overlap: u64) -> u64 {
    retired.retired_at.saturating_add(retired.longest_token).saturating_add(overlap)
}

/// How long agents know a key, at least, before it signs.
pub(super) fn overlap(auth: &Auth) -> Duration {
    (auth.token_lifetime / OVERLAP_DIVISOR).clamp(Duration::from_secs(1), OVERLAP_MAX)
}
