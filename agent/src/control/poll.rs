//! A long poll: what the control API says of one subject, and what it said last while it is away.

use std::fmt::Debug;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Parts;
use super::backoff::jitter;
use super::client::{ControlError, Polled};
use crate::store::{Store, now_seconds};
use crate::telemetry;

/// The format of the notes.
const VERSION: u32 = 1;

/// What the control API is asked about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject {
    pub(super) path: &'static str,
    /// Its word in the log, and the name of its note.
    pub(super) name: &'static str,
}

#[derive(Serialize)]
struct Written<'a, T> {
    version: u32,
    /// When it was said.
    at: u64,
    said: &'a T,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Deserialize)]
struct Read<T> {
    at: u64,
    said: T,
}

/// What was said last, as far as the disk knows. What cannot be read is as if it had never been said.
pub(super) async fn recall<T: DeserializeOwned>(store: &Store, subject: Subject) -> Option<T> {
    let name = subject.name;
    let bytes = match store.read_note(name).await {
        Ok(bytes) => bytes?,
        Err(error) => {
            tracing::warn!(name, error = %telemetry::chain(&error), "what the control API said last cannot be read: waiting for it to say it again");
            return None;
        }
    };
    match read(&bytes) {
        Ok(Read { at, said }) => {
            tracing::info!(name, at, "going by what the control API said last, until it says more");
            Some(said)
        }
        Err(reason) => {
            tracing::warn!(name, reason, "what the control API said last cannot be used: waiting for it to say it again");
            None
        }
    }
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<Read<T>, String> {
    let Version { version } = serde_json::from_slice(bytes).map_err(|error| format!("damaged: {error}"))?;
    if version != VERSION {
        return Err(format!("format version {version}, not {VERSION}"));
    }
    serde_json::from_slice(bytes).map_err(|error| format!("damaged: {error}"))
}

async fn note<T: Serialize>(store: &Store, subject: Subject, said: &T) {
    let written = Written { version: VERSION, at: now_seconds(), said };
    let bytes = serde_json::to_vec(&written).expect("what came as JSON must serialise: it holds only numbers and strings");
    if let Err(error) = store.write_note(subject.name, bytes).await {
        tracing::warn!(name = subject.name, error = %telemetry::chain(&error), "what the control API said cannot be kept: a restart forgets it");
    }
}

/// Asks again and again. `latest` has what was said last.
pub(super) async fn run<T>(parts: Arc<Parts>, subject: Subject, latest: watch::Sender<Option<T>>)
where
    T: Serialize + DeserializeOwned + PartialEq + Debug + Send + Sync + 'static,
{
    let mut etag: Option<String> = None;
    let mut failures = 0;
    loop {
        let began = Instant::now();
        let polled: Result<Polled<T>, ControlError> = parts.client.poll(subject.path, etag.as_deref()).await;
        match polled {
            Ok(polled) => {
                failures = 0;
                parts.link.succeeded(subject.name);
                if let Polled::Changed { value, etag: new } = polled {
                    etag = new;
                    if latest.borrow().as_ref() != Some(&value) {
                        note(&parts.store, subject, &value).await;
                        tracing::debug!(name = subject.name, "the control API said something new");
                        latest.send_replace(Some(value));
                    }
                }
                // A server that does not hold us back is not asked all the time.
                tokio::time::sleep_until(began + parts.pace.poll_min + jitter(parts.pace.poll_min / 4)).await;
            }
            Err(error) => {
                failures += 1;
                parts.link.failed(subject.name, &error);
                parts.wait_after(&error, failures).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kuik_crd::control::Desired;

    #[test]
    fn what_is_damaged_or_newer_is_not_used() {
        let said = Desired { keep: vec!["docker.io/library/nginx:1".to_owned()], ..Desired::default() };
        let bytes = serde_json::to_vec(&Written { version: VERSION, at: 7, said: &said }).unwrap();
        let Read { at, said: back } = read::<Desired>(&bytes).unwrap();
        assert_eq!((at, back), (7, said.clone()));
        let newer = serde_json::to_vec(&Written { version: VERSION + 1, at: 7, said: &said }).unwrap();
        assert!(read::<Desired>(&newer).is_err_and(|reason| reason.contains("format version 2")));
        for end in 0..bytes.len() {
            assert!(read::<Desired>(&bytes[..end]).is_err(), "cut at {end}");
        }
        assert!(read::<Desired>(b"null").is_err());
    }
}
