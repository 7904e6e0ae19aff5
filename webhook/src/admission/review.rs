//! `AdmissionReview` in and out, version `admission.k8s.io/v1`. Pure.
//!
//! A request that is no review of a pod gets an error that says why; the API server logs it, and admits the pod (`failurePolicy: Ignore`).
//! Objects stay text until the envelope has been understood, and only what a pod's images need is ever changed in them.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Pod;
use kube::core::admission::{META_API_VERSION_V1, META_KIND, Operation};
use kube::core::gvk::GroupVersionResource;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::mutate::Outcome;

/// The most characters of the request that an error repeats.
const ECHO_CHARS_MAX: usize = 80;

/// Why a request is no review of a pod.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// It is no JSON, or something in it has the wrong type.
    #[error("the request is no AdmissionReview{place}")]
    Review {
        /// Where in the document, as ` (at …)`; nothing if it is the document.
        place: String,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// It is another object, or another version.
    #[error("expected kind {META_KIND:?} of apiVersion {META_API_VERSION_V1:?}, got kind {kind:?} of apiVersion {api_version:?}")]
    Version {
        /// As sent.
        kind: String,
        /// As sent.
        api_version: String,
    },
    /// `request` is missing.
    #[error("the AdmissionReview has no request")]
    NoRequest,
    /// The review is of something else.
    #[error("this webhook reviews pods and pods/ephemeralcontainers of v1, not {resource}: look at the webhook configuration's rules")]
    Resource {
        /// The resource, its group and version.
        resource: String,
    },
    /// The operation needs an object that is not there.
    #[error("request.{field} is missing, which {operation} needs")]
    NoObject {
        /// `object` or `oldObject`.
        field: &'static str,
        /// What is done to the pod.
        operation: &'static str,
    },
    /// The object is no pod.
    #[error("request.{field} is no pod{place}")]
    Pod {
        /// `object` or `oldObject`.
        field: &'static str,
        /// Where in the object, as ` (at …)`; nothing if it is the object.
        place: String,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review<'a> {
    #[serde(borrow, default)]
    api_version: Cow<'a, str>,
    #[serde(borrow, default)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    request: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    uid: String,
    resource: GroupVersionResource,
    #[serde(default)]
    sub_resource: Option<String>,
    operation: Operation,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(borrow)]
    object: Option<&'a RawValue>,
    #[serde(borrow)]
    old_object: Option<&'a RawValue>,
}

/// The answer to a review.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    api_version: &'static str,
    kind: &'static str,
    response: Response,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    uid: String,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<ByteString>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// A review that was answered: what goes back, and what there is to log and count.
#[derive(Debug)]
pub(super) struct Reviewed {
    pub(super) answer: Answer,
    pub(super) namespace: String,
    pub(super) pod: String,
    /// Nothing, when `mutate` panicked.
    pub(super) outcome: Option<Outcome>,
}

/// Answers the review in `body` by what `mutate` says. Its panic admits the pod as it is.
pub(super) fn review(body: &[u8], mutate: impl FnOnce(&Pod, Option<&Pod>) -> Outcome) -> Result<Reviewed, Malformed> {
    let request = parse_request(body)?;
    let (pod, old) = match request.operation {
        Operation::Create => (parse_pod(request.object, "object", "CREATE")?, None),
        Operation::Update => {
            let old = parse_pod(request.old_object, "oldObject", "UPDATE")?;
            (parse_pod(request.object, "object", "UPDATE")?, Some(old))
        }
        Operation::Delete | Operation::Connect => return Ok(admit(request, String::new(), Outcome::default())),
    };
    let name = pod.metadata.name.clone().or_else(|| pod.metadata.generate_name.clone()).unwrap_or_default();
    // Nothing that the closure changes is looked at after a panic.
    match catch_unwind(AssertUnwindSafe(|| mutate(&pod, old.as_ref()))) {
        Ok(outcome) => Ok(admit(request, name, outcome)),
        Err(_) => Ok(admit_after_panic(request, name)),
    }
}

fn admit(request: Request<'_>, pod: String, outcome: Outcome) -> Reviewed {
    let patch = (!outcome.patch.0.is_empty()).then(|| serde_json::to_vec(&outcome.patch).expect("a JSON patch must serialise"));
    let response = Response {
        uid: request.uid,
        allowed: true,
        patch_type: patch.is_some().then_some("JSONPatch"),
        patch: patch.map(ByteString),
        warnings: outcome.warnings.clone(),
    };
    Reviewed { answer: Answer::new(response), namespace: request.namespace.unwrap_or_default(), pod, outcome: Some(outcome) }
}

fn admit_after_panic(request: Request<'_>, pod: String) -> Reviewed {
    let warnings = vec!["kube-image-keeper failed on this pod: its images are not cached (the webhook's log says more)".to_owned()];
    let response = Response { uid: request.uid, allowed: true, patch: None, patch_type: None, warnings };
    Reviewed { answer: Answer::new(response), namespace: request.namespace.unwrap_or_default(), pod, outcome: None }
}

impl Answer {
    fn new(response: Response) -> Self {
        Self { api_version: META_API_VERSION_V1, kind: META_KIND, response }
    }
}

fn parse_request(body: &[u8]) -> Result<Request<'_>, Malformed> {
    let review: Review<'_> = parse(body).map_err(|(place, source)| Malformed::Review { place, source })?;
    if (review.api_version.as_ref(), review.kind.as_ref()) != (META_API_VERSION_V1, META_KIND) {
        return Err(Malformed::Version { kind: echo(&review.kind), api_version: echo(&review.api_version) });
    }
    let request = review.request.ok_or(Malformed::NoRequest)?;
    let request: Request<'_> =
        parse_at("request", request.get().as_bytes()).map_err(|(place, source)| Malformed::Review { place, source })?;
    let GroupVersionResource { group, version, resource, .. } = &request.resource;
    let pods = (group.as_str(), version.as_str(), resource.as_str()) == ("", "v1", "pods");
    match request.sub_resource.as_deref() {
        None | Some("" | "ephemeralcontainers") if pods => Ok(request),
        sub => {
            let sub = sub.filter(|sub| !sub.is_empty()).map(|sub| format!("/{sub}")).unwrap_or_default();
            let group = if group.is_empty() { String::new() } else { format!("{group}/") };
            Err(Malformed::Resource { resource: echo(&format!("{resource}{sub} of {group}{version}")) })
        }
    }
}

fn parse_pod(object: Option<&RawValue>, field: &'static str, operation: &'static str) -> Result<Pod, Malformed> {
    let object = object.ok_or(Malformed::NoObject { field, operation })?;
    parse(object.get().as_bytes()).map_err(|(place, source)| Malformed::Pod { field, place, source })
}

fn parse<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, (String, serde_json::Error)> {
    parse_at("", text)
}

/// Parses a whole document; an error comes with its place, which `root` begins.
fn parse_at<'a, T: Deserialize<'a>>(root: &str, text: &'a [u8]) -> Result<T, (String, serde_json::Error)> {
    let place = |path: &str| match (root, path) {
        ("", ".") => String::new(),
        ("", path) => format!(" (at {})", echo(path)),
        (root, ".") => format!(" (at {root})"),
        (root, path) => format!(" (at {root}.{})", echo(path)),
    };
    let mut json = serde_json::Deserializer::from_slice(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| (place(&error.path().to_string()), error.into_inner()))?;
    json.end().map_err(|error| (place("."), error))?;
    Ok(value)
}

fn echo(text: &str) -> String {
    text.chars().take(ECHO_CHARS_MAX).collect()
}
