//! A client whose API server is a function.

use std::future::Future;

use http::{Method, Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::Value;
use tower::service_fn;

use crate::naming::Names;

/// `answer` is given the method, the path with its query, and the body; it gives the status and the body.
pub(crate) fn client<F, A>(answer: F) -> Client
where
    F: Fn(Method, String, Option<Value>) -> A + Clone + Send + 'static,
    A: Future<Output = (u16, Value)> + Send + 'static,
{
    let service = service_fn(move |request: Request<Body>| {
        let answer = answer.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await.unwrap_or_default();
            let (status, body) = answer(parts.method, parts.uri.to_string(), serde_json::from_slice(&body).ok()).await;
            let body = if status < 400 { body } else { failure(status) };
            let response = Response::builder().status(status).body(Body::from(body.to_string().into_bytes()));
            Ok::<_, std::convert::Infallible>(response.expect("the response must be one"))
        }
    });
    Client::new(service, "default")
}

fn failure(status: u16) -> Value {
    let reason = match status {
        404 => "NotFound",
        409 => "Conflict",
        _ => "Refused",
    };
    serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "refused", "reason": reason, "code": status})
}

/// The names of a replica.
pub(crate) fn names(pod_name: &str, pod_ip: &str) -> Names {
    Names {
        fullname: "kube-image-keeper".to_owned(),
        release: "kuik".to_owned(),
        namespace: "kuik-system".to_owned(),
        pod_name: pod_name.to_owned(),
        pod_ip: pod_ip.to_owned(),
        agent_service_account: "kube-image-keeper-agent".to_owned(),
    }
}
