//! `POST /v1/credentials`: the pull secrets of a namespace that has a pod on the caller's node.

use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use kuik_crd::Repository;
use kuik_crd::control::{CREDENTIALS_REQUEST_MAX_BYTES, CredentialsRequest};
use tokio::time::timeout;

use super::limits::TooOften;
use super::refusal::Refusal;
use super::report::{is_json, is_too_large};
use super::{Caller, Control};
use crate::credentials::{Found, Refused, Wanted};

/// A body must be here after this.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest DNS label (RFC 1123).
const LABEL_CHARS_MAX: usize = 63;

/// The longest repository: a host and a name at their limits.
const REPOSITORY_CHARS_MAX: usize = 1024;

/// `POST /v1/credentials`.
pub(super) async fn credentials(State(control): State<Control>, caller: Caller, request: Request) -> Result<Response, Refusal> {
    control.credentials(&caller, request).await.map_err(|refusal| refusal.of(&caller.node))
}

impl Control {
    async fn credentials(&self, caller: &Caller, request: Request) -> Result<Response, Refusal> {
        self.limits.credentials(&caller.node).map_err(|TooOften { retry_after }| {
            Refusal::too_often("this node asks for pull secrets too often: ask again later", retry_after)
        })?;
        let wanted = wanted(caller, read(request).await?)?;
        self.limits.credentials_of(&caller.node, &wanted.namespace).map_err(|TooOften { retry_after }| {
            Refusal::too_often("this namespace asks for pull secrets on this node too often: ask again later", retry_after)
        })?;
        let found = self.secrets.ask(wanted.clone()).await.map_err(|refused| refuse(&refused))?;
        let Wanted { namespace, repository, node } = wanted;
        let Found { json, credentials, tried, problems } = &*found;
        tracing::debug!(%node, namespace, %repository, credentials, ?tried, ?problems, "pull secrets given");
        let headers = [(CONTENT_TYPE, HeaderValue::from_static("application/json")), (CACHE_CONTROL, HeaderValue::from_static("no-store"))];
        Ok((headers, json.clone()).into_response())
    }
}

async fn read(request: Request) -> Result<CredentialsRequest, Refusal> {
    let (parts, body) = request.into_parts();
    if !is_json(&parts.headers) {
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the content type is another one: send application/json"));
    }
    let bytes = match timeout(READ_TIMEOUT, to_bytes(body, CREDENTIALS_REQUEST_MAX_BYTES)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) if is_too_large(&error) => {
            let message = format!("the request is larger than {CREDENTIALS_REQUEST_MAX_BYTES} bytes: send namespace and repository alone");
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message));
        }
        Ok(Err(_)) => return Err(malformed("the body broke off".to_owned())),
        Err(_) => return Err(Refusal::later("the body did not arrive in 10 s: send it again")),
    };
    serde_json::from_slice(&bytes).map_err(|error| malformed(format!("not a request for pull secrets: {error}")))
}

/// What is asked for, in valid words.
fn wanted(caller: &Caller, CredentialsRequest { namespace, repository }: CredentialsRequest) -> Result<Wanted, Refusal> {
    if !is_label(&namespace) {
        return Err(malformed("namespace: expected a DNS label: at most 63 lower-case letters, digits and '-'".to_owned()));
    }
    let expected = "repository: expected HOST[:PORT]/NAME, such as registry.example.com/team/app";
    if repository.len() > REPOSITORY_CHARS_MAX {
        return Err(malformed(format!("{expected}, and at most {REPOSITORY_CHARS_MAX} characters")));
    }
    let (host, name) = repository.split_once('/').ok_or_else(|| malformed(expected.to_owned()))?;
    let registry = host.parse().map_err(|error| malformed(format!("{expected}: {error}")))?;
    let repository = Repository::new(registry, name).map_err(|error| malformed(format!("{expected}: {error}")))?;
    Ok(Wanted { namespace, repository, node: caller.node.clone() })
}

fn is_label(text: &str) -> bool {
    let edge = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    text.len() <= LABEL_CHARS_MAX
        && bytes.first().is_some_and(edge)
        && bytes.last().is_some_and(edge)
        && bytes.iter().all(|b| edge(b) || *b == b'-')
}

fn malformed(message: String) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, message)
}

fn refuse(refused: &Refused) -> Refusal {
    match refused {
        Refused::NoPod { .. } => Refusal::new(StatusCode::FORBIDDEN, refused.to_string()),
        Refused::Later(_) => Refusal::later(refused.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(namespace: &str, repository: &str) -> Result<String, StatusCode> {
        let request = CredentialsRequest { namespace: namespace.to_owned(), repository: repository.to_owned() };
        let wanted = wanted(&Caller { node: "node1".into() }, request);
        wanted.map(|wanted| format!("{} {}", wanted.namespace, wanted.repository)).map_err(|refusal| refusal.into_response().status())
    }

    #[test]
    fn namespaces_are_labels_and_repositories_are_normalised() {
        assert_eq!(check("team-1", "registry.example.com/team/app").unwrap(), "team-1 registry.example.com/team/app");
        assert_eq!(check("a", "registry.test:5000/app").unwrap(), "a registry.test:5000/app");
        assert_eq!(check("a", "docker.io/nginx").unwrap(), "a docker.io/library/nginx");
        for namespace in ["", "Team", "-a", "a-", "a.b", "a/../b", "a/secrets", "a\n", &"a".repeat(64)] {
            assert_eq!(check(namespace, "a.b/c"), Err(StatusCode::BAD_REQUEST), "{namespace}");
        }
        for repository in
            ["", "nginx", "team/app", "a.b/", "a.b/UP", "a.b/c:tag", "a.b/../c", "a.b:x/c", &format!("a.b/{}", "a".repeat(2000))]
        {
            assert_eq!(check("a", repository), Err(StatusCode::BAD_REQUEST), "{repository}");
        }
    }
}
