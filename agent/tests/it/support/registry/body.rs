//! Bodies that are sent as a script says: so many bytes, then a gate, a pause, silence or a break.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;

use super::fault::Fault;
use super::gate::Gate;
use super::journal::Seen;
use super::serve::Flush;

const CHUNK_BYTES: usize = 32 << 10;

#[derive(Debug)]
enum Step {
    Bytes(Bytes),
    Hold(Gate),
    Pause(Duration),
    Stall,
    Break,
}

/// A body that is still to be sent.
#[derive(Debug)]
pub(super) struct Script {
    steps: VecDeque<Step>,
    seen: Seen,
    flush: Flush,
}

impl Script {
    pub(super) fn new(bytes: &Bytes, faults: &[Fault], seen: Seen, flush: Flush) -> Self {
        let mut events = events(faults);
        events.sort_by_key(|(at, _)| *at);
        let pace = faults.iter().find_map(|fault| match fault {
            Fault::Trickle(bytes, pause) => Some((*bytes, *pause)),
            _ => None,
        });
        let mut steps = VecDeque::new();
        let mut from = 0;
        for (at, event) in events {
            let at = at.clamp(from, bytes.len());
            push_bytes(&mut steps, &bytes.slice(from..at), pace);
            steps.push_back(event);
            from = at;
        }
        push_bytes(&mut steps, &bytes.slice(from..), pace);
        Self { steps, seen, flush }
    }

    pub(super) fn into_body(self) -> Body {
        Body::from_stream(futures_util::stream::unfold(self, |mut script| async move { script.next().await.map(|item| (item, script)) }))
    }

    async fn next(&mut self) -> Option<Result<Bytes, io::Error>> {
        loop {
            match self.steps.pop_front()? {
                Step::Bytes(bytes) => {
                    self.seen.count_sent(bytes.len());
                    return Some(Ok(bytes));
                }
                Step::Hold(gate) => gate.pass().await,
                Step::Pause(pause) => tokio::time::sleep(pause).await,
                Step::Stall => std::future::pending().await,
                Step::Break => {
                    self.flush.flushed().await;
                    return Some(Err(io::Error::other("the connection breaks on command")));
                }
            }
        }
    }
}

fn events(faults: &[Fault]) -> Vec<(usize, Step)> {
    let mut events = Vec::new();
    for fault in faults {
        match fault {
            Fault::HoldBody(at, gate) => events.push((*at, Step::Hold(gate.clone()))),
            Fault::StallAfter(at) => events.push((*at, Step::Stall)),
            Fault::BreakAfter(at) => events.push((*at, Step::Break)),
            _ => {}
        }
    }
    events
}

fn push_bytes(steps: &mut VecDeque<Step>, bytes: &Bytes, pace: Option<(usize, Duration)>) {
    let chunk_bytes = pace.map_or(CHUNK_BYTES, |(bytes, _)| bytes);
    for start in (0..bytes.len()).step_by(chunk_bytes) {
        steps.push_back(Step::Bytes(bytes.slice(start..bytes.len().min(start + chunk_bytes))));
        if let Some((_, pause)) = pace {
            steps.push_back(Step::Pause(pause));
        }
    }
}
