//! One log line and one set of metrics for each request, when its answer is complete or broken off.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::Method;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Instant;

use crate::cache::Origin;
use crate::metrics::{AnswerLabels, KindLabels, Metrics, RequestLabels, seconds};

/// An answer, and what is to be said of it.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) response: Response,
    origin: Option<Origin>,
    reason: Option<String>,
}

impl Outcome {
    pub(super) fn new(response: Response) -> Self {
        Self { response, origin: None, reason: None }
    }

    pub(super) fn from(self, origin: Origin) -> Self {
        Self { origin: Some(origin), ..self }
    }

    pub(super) fn because(self, reason: String) -> Self {
        Self { reason: Some(reason), ..self }
    }
}

/// A request, as far as it is observed.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) kind: &'static str,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) user_agent: Option<String>,
    pub(super) started: Instant,
}

/// Puts the observation around the answer's body.
pub(super) fn observe(request: Request, outcome: Outcome, metrics: &Arc<Metrics>) -> Response {
    let Outcome { response, origin, reason } = outcome;
    let (parts, body) = response.into_parts();
    let observation = Observation {
        status: parts.status.as_u16(),
        expected: body.size_hint().exact(),
        request,
        origin,
        reason,
        bytes: 0,
        failure: None,
        metrics: Arc::clone(metrics),
    };
    observation.began();
    Response::from_parts(parts, Body::new(Observed { body, observation }))
}

struct Observed {
    body: Body,
    observation: Observation,
}

#[derive(Debug)]
struct Observation {
    status: u16,
    expected: Option<u64>,
    request: Request,
    origin: Option<Origin>,
    reason: Option<String>,
    bytes: u64,
    failure: Option<String>,
    metrics: Arc<Metrics>,
}

impl http_body::Body for Observed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => self.observation.bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
            Poll::Ready(Some(Err(error))) => self.observation.failure = Some(error.to_string()),
            Poll::Ready(None) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Observation {
    fn began(&self) {
        let kind = self.request.kind;
        let labels = RequestLabels { kind, method: method_label(&self.request.method), status: self.status };
        self.metrics.requests.get_or_create(&labels).inc();
        if let Some(origin) = self.origin {
            self.metrics.answers.get_or_create(&AnswerLabels { kind, origin: origin.as_str() }).inc();
        }
        self.metrics.first_byte.get_or_create(&KindLabels { kind }).observe(seconds(self.request.started.elapsed()));
    }

    /// Hits are many and say little: they are counted, and logged at `debug`.
    fn log(&self) {
        let quiet = self.failure.is_none() && self.status < 400 && self.origin == Some(Origin::Hit) || self.request.kind == "base";
        let duration_ms = u64::try_from(self.request.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    kind = self.request.kind,
                    method = %self.request.method,
                    path = self.request.path,
                    status = self.status,
                    origin = self.origin.map(Origin::as_str),
                    bytes = self.bytes,
                    duration_ms,
                    user_agent = self.request.user_agent,
                    reason = self.failure.as_ref().or(self.reason.as_ref()),
                    "request"
                )
            };
        }
        if quiet {
            line!(debug);
        } else if self.failure.is_some() || self.status >= 500 {
            line!(warn);
        } else {
            line!(info);
        }
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        let cut_short = self.request.method == Method::GET && self.expected.is_some_and(|expected| self.bytes < expected);
        if cut_short && self.failure.is_none() {
            self.failure = Some("the client went away".to_owned());
        }
        self.metrics.served_bytes.inc_by(self.bytes);
        self.metrics.duration.get_or_create(&KindLabels { kind: self.request.kind }).observe(seconds(self.request.started.elapsed()));
        self.log();
    }
}

/// Methods are a closed list in metrics.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}
