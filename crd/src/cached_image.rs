//! `CachedImage`: one image that the cluster keeps.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An image reference by the grammar of `github.com/distribution/reference`, which an API server checks: at most 1024 characters long, a host
/// or an IPv6 address in brackets, each perhaps with a port; the repository's path; a tag; a digest.
const REFERENCE: &str = concat!(
    "^((",
    "([a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])([.]([a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*",
    r"|\[[a-fA-F0-9:.]+\]",
    ")(:[0-9]+)?/)?",
    "[a-z0-9]+(([.]|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+(([.]|_|__|-+)[a-z0-9]+)*)*",
    "(:[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127})?",
    "(@[a-zA-Z][a-zA-Z0-9]*([-_+.][a-zA-Z][a-zA-Z0-9]*)*:[0-9a-fA-F]{32,})?$",
);

const NO_REFERENCE: &str = "must be an image reference without a scheme, its repository in lower case, \
    such as nginx:1.25 or registry.example.com:5000/team/app:1";

const IMMUTABLE: &str = "cannot be changed: create another CachedImage for the other image, and delete this one";

/// What is wanted of an image. The controller writes it for the images of pods; a person or a tool may, to fetch an image before a pod
/// needs it.
#[expect(clippy::duplicated_attributes, reason = "columns have things in common")]
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kuik.enix.io",
    version = "v1alpha1",
    kind = "CachedImage",
    plural = "cachedimages",
    shortname = "ci",
    status = "CachedImageStatus",
    derive = "PartialEq",
    doc = "An image that the cluster keeps: made for each image of a pod that was rewritten, or by hand to have an image fetched ahead of time. \
        Its name is the image's normalised reference, such as docker.io-library-nginx-1.25; an object with another name is replaced by one with \
        the right name.",
    label("app.kubernetes.io/name", "kube-image-keeper"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Cached", type_ = "boolean", json_path = ".status.isCached"),
    printcolumn(name = "Retain", type_ = "boolean", json_path = ".spec.retain"),
    printcolumn(name = "Expires at", type_ = "string", json_path = ".spec.expiresAt"),
    printcolumn(name = "Pods count", type_ = "integer", json_path = ".status.usedBy.count"),
    printcolumn(
        name = "Copies",
        type_ = "integer",
        json_path = ".status.copiesReady",
        description = "Nodes that hold the image as a whole"
    ),
    printcolumn(name = "Size", type_ = "string", json_path = ".status.size", description = "What the largest copy takes on disk"),
    printcolumn(name = "Image", type_ = "string", json_path = ".spec.sourceImage", priority = 1),
    printcolumn(name = "Upstream", type_ = "boolean", json_path = ".status.availableUpstream", priority = 1),
    printcolumn(name = "Digest", type_ = "string", json_path = ".status.digest", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct CachedImageSpec {
    /// The image's reference, as a pod would name it: `nginx`, `quay.io/team/app:1.2`, `registry.local:5000/app@sha256:…`. It cannot be
    /// changed: another reference is another image, with a `CachedImage` of its own.
    // The rule is the grammar of github.com/distribution/reference. kuik v1 made no object whose reference it could not parse by it, so
    // none of its objects is refused. Before Kubernetes 1.25 the rules are not there, and what cannot be parsed shows in the status.
    #[schemars(
        length(min = 1, max = 1024),
        extend("x-kubernetes-validations" = [
            {"rule": format!("self.matches(r'{REFERENCE}')"), "message": NO_REFERENCE},
            {"rule": "self == oldSelf", "message": IMMUTABLE},
        ])
    )]
    pub source_image: String,
    /// When the image is deleted from the caches, and this object with it, unless a pod uses it again before (RFC 3339). The controller
    /// sets it when the last pod that used the image is gone, to `cachedImagesExpiryDelay` from then, and clears it when a pod uses the
    /// image again or `retain` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    /// Whether the image is kept although no pod uses it: it then never expires, and no cache evicts it to make room.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retain: bool,
    /// Deprecated and without effect: kuik v1.0 to v1.6 kept the names of the pull secrets here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_secret_names: Option<Vec<String>>,
    /// Deprecated and without effect: kuik v1.0 to v1.6 kept the namespace of the pull secrets here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_secrets_namespace: Option<String>,
}

/// What is known of an image. The leader of the controllers writes it, from the pods and from what the agents report; anything else that
/// is written here is overwritten.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CachedImageStatus {
    /// Where the image is on its way: `Synchronizing` (nothing is known of it yet), `Pulling` (it is being fetched, or about to be),
    /// `ErrImagePull` (it could not be fetched: the events say why), `Ready` (it is cached) or `Terminating` (it is being deleted).
    // No enum in the schema: kuik v1 had none, and a word that we do not know must not keep its object from being updated.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub phase: Option<Phase>,
    /// Whether one node, at least, holds the image as a whole: then pods start without its registry.
    pub is_cached: bool,
    /// Digest of the image in the caches, in hex without `sha256:`, as kuik v1.14 wrote it. For an image of several platforms, that of
    /// its index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Digest that the registry last gave for the reference, in hex without `sha256:`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_digest: Option<String>,
    /// Whether `digest` is `upstreamDigest`, as far as is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub up_to_date: Option<bool>,
    /// Whether the registry had the image when it last gave an answer about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_upstream: Option<bool>,
    /// When the registry last had the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen_upstream: Option<Time>,
    /// When the registry was last asked about the image, whatever it answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_sync: Option<Time>,
    /// When a node last fetched the image as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_successful_pull: Option<Time>,
    /// What the largest copy of the image takes on its node, in bytes. A blob that several images share counts for each of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub size_bytes: Option<i64>,
    /// `sizeBytes` for people, such as `187Mi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// The pods that use the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_by: Option<UsedBy>,
    /// The nodes that hold the image, as a whole or in part: those that are to keep it first, at most 10.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<ImageCopy>,
    /// How many nodes hold the image as a whole; `copies` may name fewer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub copies_ready: Option<i32>,
    /// How many nodes should hold the image as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub copies_wanted: Option<i32>,
    /// Namespaces that have proven, on some node, that they may pull the image. Nothing for an image that its registry gives to everybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proven_namespaces: Option<ProvenNamespaces>,
    /// The last time that an agent did not give the image to a namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_refusal: Option<LastRefusal>,
    /// `Cached` (one node, at least, holds the image as a whole), `Durable` (as many nodes as wanted do) and `UpstreamAvailable` (the
    /// registry still has it).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Where an image is on its way: kuik v1.14's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// It is being fetched, or about to be.
    Pulling,
    /// It could not be fetched.
    ErrImagePull,
    /// It is cached.
    Ready,
    /// It is being deleted.
    Terminating,
    /// Nothing is known yet; also what a word of another version is read as, so that its object can still be read.
    #[serde(other)]
    Synchronizing,
}

/// The pods that use an image.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct UsedBy {
    /// How many pods use the image; `pods` may name fewer.
    #[schemars(range(min = 0))]
    pub count: i32,
    /// Pods that use the image, by name, at most 50 (kuik v1 wrote all of them).
    pub pods: Vec<PodReference>,
}

/// A pod that uses the image.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PodReference {
    /// The pod, as `namespace/name`.
    pub namespaced_name: String,
}

/// Namespaces that may pull the image.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProvenNamespaces {
    /// How many namespaces have proven it, at least; `names` may name fewer.
    #[schemars(range(min = 0))]
    pub count: i32,
    /// Namespaces that have, in order, at most 20.
    pub names: Vec<String>,
}

/// Somebody did not get the image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastRefusal {
    /// The namespace that asked for it.
    pub namespace: String,
    /// When; behind by up to an hour if the same is refused again and again.
    pub at: Time,
    /// Why, in one word: `denied` (its registry refused it), `no_secret` (the namespace has no pull secret for it), `no_credentials` (the
    /// namespace's pull secrets could not be had) or `unavailable` (its registry did not answer, and nothing was proven before).
    pub reason: String,
    /// What the node's runtime was answered.
    pub message: String,
}

/// What one node holds of the image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageCopy {
    /// The node's name.
    pub node: String,
    /// The node's zone: its label `topology.kubernetes.io/zone`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// `Ready` (one platform of the image, at least, is there as a whole) or `Partial` (some of it is).
    pub state: CopyState,
    /// What is there of the image, in bytes, each blob counted once.
    #[schemars(range(min = 0))]
    pub bytes: i64,
    /// Since when the copy has this state.
    pub since: Time,
}

/// How whole a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum CopyState {
    /// One platform of it, at least, is there as a whole.
    Ready,
    /// Some of it is there; also what a word of another version is read as.
    #[serde(other)]
    Partial,
}
