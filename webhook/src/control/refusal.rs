//! Why a call is not answered: a status, a sentence that says what to do, and when to come back.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde_json::json;

/// How soon to come back to a replica that could not answer.
const LATER: Duration = Duration::from_secs(2);

/// A call that is not answered.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    status: StatusCode,
    message: Cow<'static, str>,
    retry_after: Option<Duration>,
    node: Option<Arc<str>>,
}

/// Left in the answer for the line in the log.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    pub(super) message: Cow<'static, str>,
    pub(super) node: Option<Arc<str>>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, message: message.into(), retry_after: None, node: None }
    }

    /// 401.
    pub(super) fn unauthorized(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, message)
    }

    /// 503: nothing is wrong with the call, but this is not the moment.
    pub(super) fn later(message: impl Into<Cow<'static, str>>) -> Self {
        Self { retry_after: Some(LATER), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }

    /// 429.
    pub(super) fn too_often(message: impl Into<Cow<'static, str>>, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(StatusCode::TOO_MANY_REQUESTS, message) }
    }

    /// Whose call it was.
    pub(super) fn of(self, node: &Arc<str>) -> Self {
        Self { node: Some(Arc::clone(node)), ..self }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self { status, message, retry_after, node } = self;
        let mut response = (status, Json(json!({ "error": message }))).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"kuik\""));
        }
        if let Some(retry_after) = retry_after {
            // Whole seconds, and never 0: that would be an invitation to come back at once.
            let seconds = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        response.extensions_mut().insert(Refused { message, node });
        response
    }
}
