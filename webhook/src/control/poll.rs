//! The two GETs: answered at once to who does not have the answer yet, and else when it changes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use kuik_crd::control::{Desired, LONG_POLL_SECONDS};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::limits::{TooOften, Topic};
use super::refusal::Refusal;
use super::{Caller, Control};
use crate::board::Wishes;

/// An answer, ready to be sent.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    body: Bytes,
    etag: HeaderValue,
}

impl Answer {
    fn new(content: &impl Serialize) -> Self {
        let body = Bytes::from(serde_json::to_vec(content).expect("an answer must serialise: it holds only numbers and strings"));
        let hash: String = Sha256::digest(&body).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Self { body, etag: HeaderValue::try_from(format!("\"{hash}\"")).expect("hex must be a header's value") }
    }

    /// Whether the asker has it, as `If-None-Match` says.
    fn is_known(&self, headers: &HeaderMap) -> bool {
        let values = headers.get_all(IF_NONE_MATCH).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|tag| {
            let tag = tag.trim();
            tag.strip_prefix("W/").unwrap_or(tag).as_bytes() == self.etag.as_bytes()
        })
    }

    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, HeaderValue::from_static("application/json")), (ETAG, self.etag)], self.body).into_response()
    }

    fn not_modified(self) -> Response {
        (StatusCode::NOT_MODIFIED, [(ETAG, self.etag)]).into_response()
    }
}

/// The answer that is the same for all nodes, made once for each change.
#[derive(Debug, Default)]
pub(super) struct Rendered {
    /// With the wishes that it was made of. Held while it is made, never across an await.
    agents: Mutex<Option<(Arc<Wishes>, Answer)>>,
}

impl Rendered {
    fn agents(&self, wishes: &Arc<Wishes>) -> Answer {
        let mut last = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((of, answer)) if Arc::ptr_eq(of, wishes) => answer.clone(),
            _ => {
                let answer = Answer::new(&wishes.agents);
                *last = Some((Arc::clone(wishes), answer.clone()));
                answer
            }
        }
    }
}

/// `GET /v1/agents`.
pub(super) async fn agents(State(control): State<Control>, caller: Caller, headers: HeaderMap) -> Result<Response, Refusal> {
    let rendered = Arc::clone(&control.rendered);
    control.poll(&caller, &headers, Topic::Agents, |wishes| Ok(rendered.agents(wishes))).await.map_err(|refusal| refusal.of(&caller.node))
}

/// `GET /v1/desired`.
pub(super) async fn desired(State(control): State<Control>, caller: Caller, headers: HeaderMap) -> Result<Response, Refusal> {
    let own = |wishes: &Arc<Wishes>| {
        let keys = wishes.pull_keys.as_ref().ok_or_else(no_keys_yet)?;
        Ok(match wishes.desired.get(&*caller.node) {
            Some(desired) => Answer::new(desired),
            None => Answer::new(&Desired { pull_keys: keys.clone(), ..Desired::default() }),
        })
    };
    control.poll(&caller, &headers, Topic::Desired, own).await.map_err(|refusal| refusal.of(&caller.node))
}

impl Control {
    /// Answers with what `render` makes of the wishes, as soon as that is something that the caller does not have.
    async fn poll(
        &self,
        caller: &Caller,
        headers: &HeaderMap,
        topic: Topic,
        render: impl Fn(&Arc<Wishes>) -> Result<Answer, Refusal>,
    ) -> Result<Response, Refusal> {
        let mut wishes = self.board.wishes();
        let mut answer = render(&now(&mut wishes)?)?;
        self.limits.call(&caller.node).map_err(too_many_calls)?;
        if !answer.is_known(headers) {
            return Ok(answer.into_response());
        }
        let _open = self.limits.poll(&caller.node, topic).map_err(too_many_polls)?;
        let deadline = Instant::now() + Duration::from_secs(LONG_POLL_SECONDS);
        loop {
            let changed = tokio::select! {
                changed = timeout_at(deadline, wishes.changed()) => changed,
                () = self.stop.cancelled() => return Err(Refusal::later("this replica ends: ask again")),
            };
            match changed {
                Err(_) => return Ok(answer.not_modified()),
                Ok(Err(_)) => return Err(Refusal::later("this replica ends: ask again")),
                Ok(Ok(())) => answer = render(&now(&mut wishes)?)?,
            }
            if !answer.is_known(headers) {
                return Ok(answer.into_response());
            }
        }
    }
}

/// What the leader wants now. It wants nothing before it has seen the cluster, and when it is the leader no more.
fn now(wishes: &mut watch::Receiver<Option<Arc<Wishes>>>) -> Result<Arc<Wishes>, Refusal> {
    let wishes = wishes.borrow_and_update().clone();
    wishes.ok_or_else(|| {
        Refusal::later("the leader has changed, or has not seen the whole cluster yet: go on with what you know, and ask again")
    })
}

/// An agent that is told of no keys forgets those that it has.
fn no_keys_yet() -> Refusal {
    Refusal::later("the leader does not know yet what pull tokens are checked with: go on with what you know, and ask again")
}

pub(super) fn too_many_calls(TooOften { retry_after }: TooOften) -> Refusal {
    Refusal::too_often("this node calls too often: ask again later", retry_after)
}

fn too_many_polls(TooOften { retry_after }: TooOften) -> Refusal {
    Refusal::too_often("too many calls wait for the same news: let them end first", retry_after)
}
