//! How often a download is resumed. Time passes at once here.

use std::time::Duration;

use super::*;
use crate::cache::source::{Source, Wanted};
use crate::upstream::UpstreamError;
use crate::upstream::tests::support::{Piece, mk_upstream};

const MIB: usize = 1 << 20;

/// A blob of this size from a registry that breaks off after each `step` bytes: how much came, what it ended with, and how often the
/// registry was asked.
async fn fetch(size: usize, step: usize) -> (usize, Result<(), UpstreamError>, usize) {
    let bytes = noise(1, size);
    let wanted = digest(&bytes);
    let server = Server::http(move |seen| {
        let from = seen.header("range").trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap_or(0);
        let part = bytes.slice(from..size.min(from + step));
        let is_last = from + part.len() == size;
        let range = format!("bytes {from}-{}/{size}", size - 1);
        let head = Reply::status(if from == 0 { 200 } else { 206 }).header("content-length", &(size - from).to_string());
        let reply = head.header("content-range", &range).bytes(part);
        if is_last { reply } else { reply.then(Piece::Break) }
    })
    .await;
    let mut config = mk_plain(&server);
    // Nothing here stalls, and a clock that leaps must not say so.
    (config.stall_timeout, config.connect_timeout) = (Duration::from_secs(86_400), Duration::from_secs(86_400));
    let wanted = Wanted {
        upstream: mk_upstream(config),
        repository: repo(&server.registry, "app"),
        digest: wanted,
        max_attempts: 4,
        avoid: Vec::new(),
    };
    let mut source = Source::open(wanted, 0).await.unwrap();
    let mut count = 0;
    let ended = loop {
        let (back, chunk) = source.next().await;
        source = back;
        match chunk {
            Ok(Some(bytes)) => count += bytes.len(),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    (count, ended, server.count())
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_always_breaks_off_is_given_up() {
    let (count, ended, asked) = fetch(MIB, 1000).await;
    assert!(matches!(ended, Err(UpstreamError::Broken { .. })), "{ended:?}");
    // The first request, and twenty more.
    assert_eq!((count, asked), (21_000, 21));
}

#[tokio::test(start_paused = true)]
async fn one_that_gets_well_on_each_time_is_not() {
    let (count, ended, asked) = fetch(24 * MIB, MIB).await;
    assert!(ended.is_ok(), "{ended:?}");
    assert_eq!((count, asked), (24 * MIB, 24));
}
