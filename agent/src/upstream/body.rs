//! The bytes of an answer, as they come, with a limit on how long the next ones may take.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use tokio::time::Sleep;

use super::Observer;
use super::client::Incoming;
use super::error::{Place, UpstreamError};
use super::limits::Turn;
use crate::oci::Registry;

/// An answer that is kept in memory must be there after this, however steadily it trickles.
const COLLECT_TIMEOUT: Duration = Duration::from_secs(60);
/// So much of an error's text is read, and for so long.
const EXCERPT_BYTES_MAX: usize = 8 << 10;
const EXCERPT_TIMEOUT: Duration = Duration::from_secs(2);
/// So much of it is shown.
const EXCERPT_CHARS_MAX: usize = 300;

/// Counts what passes.
#[derive(Debug, Clone)]
pub(super) struct Meter {
    pub(super) observer: Arc<dyn Observer>,
    pub(super) registry: Registry,
}

impl Meter {
    pub(super) fn request(&self) {
        self.observer.request(&self.registry);
    }

    pub(super) fn error(&self, reason: &'static str) {
        self.observer.error(&self.registry, reason);
    }

    fn bytes(&self, bytes: &Bytes) {
        self.observer.bytes(&self.registry, bytes.len() as u64);
    }
}

/// The rest of an answer.
pub(super) struct Body {
    inner: reqwest::Body,
    stall_timeout: Duration,
    /// Runs while a byte is waited for, not while nobody asks for one.
    stall: Option<Pin<Box<Sleep>>>,
    at: Place,
    meter: Meter,
    turn: Option<Turn>,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("at", &self.at).finish_non_exhaustive()
    }
}

impl Body {
    pub(super) fn new(inner: reqwest::Body, stall_timeout: Duration, at: Place, meter: Meter, turn: Option<Turn>) -> Self {
        Self { inner, stall_timeout, stall: None, at, meter, turn }
    }

    /// Nothing more is wanted: the connection and the turn are given back, even if this is kept.
    pub(super) fn release(&mut self) {
        self.inner = reqwest::Body::default();
        self.turn = None;
        self.stall = None;
    }

    pub(super) fn at(&self) -> &Place {
        &self.at
    }

    /// The next bytes, never none; `None` at the end.
    pub(super) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        loop {
            let frame = match Pin::new(&mut self.inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(UpstreamError::from_client(&self.at, error)))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return self.poll_stall(cx),
            };
            self.stall = None;
            // What is no data is a trailer, which says nothing to us.
            if let Ok(bytes) = frame.into_data()
                && !bytes.is_empty()
            {
                self.meter.bytes(&bytes);
                return Poll::Ready(Some(Ok(bytes)));
            }
        }
    }

    fn poll_stall(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        let timeout = self.stall_timeout;
        let stall = self.stall.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        match stall.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Some(Err(UpstreamError::Stalled { at: self.at.clone(), timeout }))),
            Poll::Pending => Poll::Pending,
        }
    }

    async fn chunk(&mut self) -> Option<Result<Bytes, UpstreamError>> {
        std::future::poll_fn(|cx| self.poll_chunk(cx)).await
    }

    /// All of it, which must be at most `limit_bytes`.
    pub(super) async fn collect(self, limit_bytes: usize) -> Result<Bytes, UpstreamError> {
        let at = self.at.clone();
        tokio::time::timeout(COLLECT_TIMEOUT, self.collect_untimed(limit_bytes))
            .await
            .unwrap_or(Err(UpstreamError::Stalled { at, timeout: COLLECT_TIMEOUT }))
    }

    async fn collect_untimed(mut self, limit_bytes: usize) -> Result<Bytes, UpstreamError> {
        let mut all = BytesMut::new();
        let too_large = |at: &Place| UpstreamError::TooLarge { at: at.clone(), limit_bytes };
        if self.inner.size_hint().lower() > limit_bytes as u64 {
            return Err(too_large(&self.at));
        }
        while let Some(chunk) = self.chunk().await {
            let chunk = chunk?;
            if all.len() + chunk.len() > limit_bytes {
                return Err(too_large(&self.at));
            }
            all.extend_from_slice(&chunk);
        }
        Ok(all.freeze())
    }
}

/// What an error answer says, in one short line: the messages of the distribution specification's JSON, or the status' own name.
pub(super) async fn excerpt(incoming: Incoming) -> String {
    let named = incoming.status().canonical_reason().unwrap_or("no reason given").to_owned();
    let mut text = Vec::new();
    let mut body = incoming.response.into_body();
    let read = async {
        while let Some(Ok(frame)) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            if let Ok(bytes) = frame.into_data() {
                text.extend_from_slice(&bytes);
            }
            if text.len() > EXCERPT_BYTES_MAX {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(EXCERPT_TIMEOUT, read).await;
    message(&text).unwrap_or(named)
}

fn message(body: &[u8]) -> Option<String> {
    let json: serde_json::Value = serde_json::from_slice(body).ok()?;
    let text = |value: &serde_json::Value, key: &str| value.get(key).and_then(|value| value.as_str()).map(str::to_owned);
    let from_error = |error: &serde_json::Value| text(error, "message").or_else(|| text(error, "code"));
    let errors = json.get("errors").and_then(|errors| errors.as_array());
    let said = match errors {
        Some(errors) => errors.iter().filter_map(from_error).collect::<Vec<_>>().join("; "),
        // Token services have no common form; these are seen.
        None => ["details", "error_description", "message", "error"].iter().find_map(|key| text(&json, key))?,
    };
    let line: String = said.chars().map(|c| if c.is_control() { ' ' } else { c }).take(EXCERPT_CHARS_MAX).collect();
    (!line.trim().is_empty()).then(|| line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_an_error_says() {
        let check = |body: &str, want: Option<&str>| assert_eq!(message(body.as_bytes()).as_deref(), want, "{body}");
        check(r#"{"errors":[{"code":"DENIED","message":"no\naccess"},{"code":"X"}]}"#, Some("no access; X"));
        check(r#"{"details":"incorrect username or password"}"#, Some("incorrect username or password"));
        check(r#"{"errors":[]}"#, None);
        check(r#"{"errors":{}}"#, None);
        check("<html>", None);
        check("", None);
        assert_eq!(message(format!(r#"{{"message":"{}"}}"#, "é".repeat(900)).as_bytes()).unwrap().chars().count(), EXCERPT_CHARS_MAX);
    }

    proptest! {
        #[test]
        fn no_body_panics(body in "\\PC{0,80}") {
            let _ = message(body.as_bytes());
        }
    }
}
