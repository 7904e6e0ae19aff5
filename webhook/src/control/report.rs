//! `POST /v1/report`: read within bounds, checked, and handed to the board.

use std::time::Duration;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use kuik_crd::control::{
    Disk, Finding, Held, PROVEN_NAMES_MAX, REFUSALS_MAX, REPORT_MAX_BYTES, REPORT_MAX_IMAGES, Refused, Report, ReportAnswer,
};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::limits::TooOften;
use super::poll::too_many_calls;
use super::refusal::Refusal;
use super::{Caller, Control};
use crate::board::{Board, Leadership};

/// What the bodies that are being read may take together, in KiB.
const READING_KIB_MAX: u32 = 4 * KIB_MAX;

/// What one body may take, in KiB.
const KIB_MAX: u32 = 8 << 10;
const _: () = assert!(KIB_MAX as usize * 1024 == REPORT_MAX_BYTES, "one report must fit");

/// A body must be here after this, the wait for room included.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// A report beyond this is not parsed where others wait for the thread.
const SMALL_BYTES: usize = 64 << 10;

/// The longest reference: host, repository, tag and digest at their limits.
const IMAGE_CHARS_MAX: usize = 1024;
const DIGEST_CHARS_MAX: usize = 160;
const WORD_CHARS_MAX: usize = 128;

/// The longest name of a namespace (RFC 1123).
const NAMESPACE_CHARS_MAX: usize = 63;

/// What is kept of an error.
const ERROR_CHARS_MAX: usize = 1024;

/// What is kept of the reasons that hold images back: the first, which are the largest.
const REASONS_MAX: usize = 8;

/// What is kept of each.
const REASON_CHARS_MAX: usize = 40;

/// Room for the bodies that are being read.
#[derive(Debug)]
pub(super) struct Intake {
    room_kib: Semaphore,
}

impl Default for Intake {
    fn default() -> Self {
        Self { room_kib: Semaphore::new(READING_KIB_MAX as usize) }
    }
}

impl Intake {
    /// The whole body, and the room that it takes.
    pub(super) async fn read(&self, headers: &HeaderMap, body: Body) -> Result<(Bytes, SemaphorePermit<'_>), Refusal> {
        let said = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        if said.is_some_and(|bytes| bytes > REPORT_MAX_BYTES) {
            return Err(too_large());
        }
        let kib = said.and_then(|bytes| u32::try_from(bytes.div_ceil(1024)).ok()).unwrap_or(KIB_MAX);
        let read = async {
            let room = self.room_kib.acquire_many(kib).await.expect("the semaphore must never be closed");
            to_bytes(body, REPORT_MAX_BYTES).await.map(|bytes| (bytes, room))
        };
        match timeout(READ_TIMEOUT, read).await {
            Ok(Ok(read)) => Ok(read),
            Ok(Err(error)) if is_too_large(&error) => Err(too_large()),
            Ok(Err(_)) => Err(Refusal::new(StatusCode::BAD_REQUEST, "the body broke off")),
            Err(_) => Err(Refusal::later("the body did not arrive in 10 s, or too many others were arriving: send it again")),
        }
    }
}

fn too_large() -> Refusal {
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the report is larger than {REPORT_MAX_BYTES} bytes: report the images used last"))
}

pub(super) fn is_too_large(error: &axum::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<http_body_util::LengthLimitError>())
}

/// `POST /v1/report`.
pub(super) async fn report(State(control): State<Control>, caller: Caller, request: Request) -> Result<Response, Refusal> {
    control.report(&caller, request).await.map(|answer| Json(answer).into_response()).map_err(|refusal| refusal.of(&caller.node))
}

impl Control {
    async fn report(&self, caller: &Caller, request: Request) -> Result<ReportAnswer, Refusal> {
        self.limits.call(&caller.node).map_err(too_many_calls)?;
        self.limits.report(&caller.node).map_err(|TooOften { retry_after }| {
            Refusal::too_often("reports of a node are to be 10 s apart: send it again later", retry_after)
        })?;
        let (parts, body) = request.into_parts();
        if !is_json(&parts.headers) {
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the content type is another one: send application/json"));
        }
        let (bytes, _room) = self.intake.read(&parts.headers, body).await?;
        self.metrics.report_bytes.inc_by(bytes.len() as u64);
        if bytes.len() <= SMALL_BYTES {
            return take(&self.board, &caller.node, &bytes);
        }
        let (board, node) = (self.board.clone(), caller.node.clone());
        let taken = tokio::task::spawn_blocking(move || take(&board, &node, &bytes)).await;
        taken.unwrap_or_else(|_| {
            Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "reading the report failed: this is a defect of the webhook"))
        })
    }
}

pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).and_then(|value| value.split(';').next());
    kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

fn take(board: &Board, node: &str, bytes: &[u8]) -> Result<ReportAnswer, Refusal> {
    let report = parse(bytes)?;
    let received_at = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default();
    // A report that was read while the lead went to another replica belongs there.
    if *board.leadership().borrow() != Leadership::Us {
        return Err(Refusal::later("this replica does not lead any more: send the report again"));
    }
    Ok(board.report(node, report, received_at))
}

fn parse(bytes: &[u8]) -> Result<Report, Refusal> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let report = serde_path_to_error::deserialize(&mut json).map_err(|error| error.to_string());
    let report = report.and_then(|report| json.end().map(|()| report).map_err(|error| error.to_string()));
    let mut report: Report = report.map_err(|error| malformed(&format!("not a report: {error}")))?;
    check(&report)?;
    for error in report.findings.iter_mut().filter_map(|finding| finding.error.as_mut()) {
        shorten(error, ERROR_CHARS_MAX);
    }
    bound(&mut report.disk);
    report.images.iter_mut().for_each(|held| held.proven.truncate(PROVEN_NAMES_MAX));
    bound_refusals(&mut report.refusals);
    Ok(report)
}

/// The latest stay, with as much of each message as of an error.
fn bound_refusals(refusals: &mut Vec<Refused>) {
    if refusals.len() > REFUSALS_MAX {
        refusals.sort_by_key(|refused| std::cmp::Reverse(refused.at));
        refusals.truncate(REFUSALS_MAX);
    }
    refusals.iter_mut().for_each(|refused| shorten(&mut refused.message, ERROR_CHARS_MAX));
}

/// Cuts off what people would not read, so that a report with too many words is taken all the same.
fn bound(disk: &mut Disk) {
    if let Some(last) = &mut disk.last_quarantined {
        shorten(last, ERROR_CHARS_MAX);
    }
    if let Some(pressure) = &mut disk.pressure {
        pressure.held.truncate(REASONS_MAX);
        pressure.held.iter_mut().for_each(|held| shorten(&mut held.reason, REASON_CHARS_MAX));
    }
}

fn shorten(text: &mut String, chars_max: usize) {
    if let Some((end, _)) = text.char_indices().nth(chars_max) {
        text.truncate(end);
    }
}

/// What a report may hold beyond what its form allows.
fn check(report: &Report) -> Result<(), Refusal> {
    let Report { boot, agent_version, images, removed, findings, refusals, sequence: _, full: _, started_at: _, disk: _, traffic: _ } =
        report;
    let counts = [("images", images.len()), ("removed", removed.len()), ("findings", findings.len()), ("refusals", refusals.len())];
    for (name, count) in counts {
        if count > REPORT_MAX_IMAGES {
            let message = format!("{name}: {count} entries: at most {REPORT_MAX_IMAGES}: report the images used last");
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message));
        }
    }
    let short = |name: &str, text: &str, max: usize| {
        if text.len() > max { Err(malformed(&format!("{name}: {} characters: at most {max}", text.len()))) } else { Ok(()) }
    };
    let reference = |name: &str, text: &str| match text {
        "" => Err(malformed(&format!("{name}: empty: expected an image reference"))),
        text => short(name, text, IMAGE_CHARS_MAX),
    };
    if boot.is_empty() {
        return Err(malformed("boot: empty: expected what tells this start of the agent from others"));
    }
    short("boot", boot, WORD_CHARS_MAX)?;
    short("agentVersion", agent_version, WORD_CHARS_MAX)?;
    for (nth, Held { image, digest, proven, .. }) in images.iter().enumerate() {
        reference(&format!("images[{nth}].image"), image)?;
        short(&format!("images[{nth}].digest"), digest, DIGEST_CHARS_MAX)?;
        proven.iter().try_for_each(|namespace| short(&format!("images[{nth}].proven"), namespace, NAMESPACE_CHARS_MAX))?;
    }
    for (nth, image) in removed.iter().enumerate() {
        reference(&format!("removed[{nth}]"), image)?;
    }
    for (nth, Finding { image, .. }) in findings.iter().enumerate() {
        reference(&format!("findings[{nth}].image"), image)?;
    }
    for (nth, Refused { image, namespace, reason, .. }) in refusals.iter().enumerate() {
        reference(&format!("refusals[{nth}].image"), image)?;
        short(&format!("refusals[{nth}].namespace"), namespace, NAMESPACE_CHARS_MAX)?;
        short(&format!("refusals[{nth}].reason"), reason, WORD_CHARS_MAX)?;
    }
    Ok(())
}

fn malformed(message: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, message.to_owned())
}
