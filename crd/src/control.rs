//! What agents and the control API say to each other, as JSON. Times are seconds since 1970, sizes bytes.
//!
//! Unknown fields are ignored on both sides, and new ones have defaults: agents and controllers of neighbouring versions understand each other.

use serde::{Deserialize, Serialize};

use crate::PullKey;

/// Path of the list of agents.
pub const AGENTS_PATH: &str = "/v1/agents";

/// Path of what the asking node should do.
pub const DESIRED_PATH: &str = "/v1/desired";

/// Path that takes reports.
pub const REPORT_PATH: &str = "/v1/report";

/// Path of the pull secrets of a namespace.
pub const CREDENTIALS_PATH: &str = "/v1/credentials";

/// The largest request for pull secrets, in bytes.
pub const CREDENTIALS_REQUEST_MAX_BYTES: usize = 16 << 10;

/// The most credentials of one answer; those that match best come first.
pub const CREDENTIALS_MAX: usize = 20;

/// The most namespaces that are named as proven for an image; a count says how many there are.
pub const PROVEN_NAMES_MAX: usize = 20;

/// The most refusals of one report; the latest stay.
pub const REFUSALS_MAX: usize = 100;

/// How long a GET whose answer has not changed (`If-None-Match`) is held before it is answered `304`.
pub const LONG_POLL_SECONDS: u64 = 30;

/// Reports of one node are at least so far apart.
pub const REPORT_INTERVAL_SECONDS: u64 = 10;

/// The largest report, in bytes.
pub const REPORT_MAX_BYTES: usize = 8 << 20;

/// The most images of one report; an agent that holds more reports those used last.
pub const REPORT_MAX_IMAGES: usize = 10_000;

/// `GET /v1/agents`: who serves images in this cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Agents {
    /// The ready agents, by node name.
    pub agents: Vec<Agent>,
}

/// One agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Agent {
    /// The node that it runs on.
    pub node: String,
    /// The node's zone (`topology.kubernetes.io/zone`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The IP address of the agent's pod.
    pub address: String,
}

/// `GET /v1/desired`: what the asking node should do. The answer to an agent that the controller knows nothing about yet is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Desired {
    /// Images that this node should hold; it pulls what it lacks.
    pub keep: Vec<String>,
    /// Tags to ask upstream about.
    pub refresh: Vec<Refresh>,
    /// Images to delete.
    pub drop: Vec<Drop>,
    /// Which of the images that this node reported are needed, and why. What is not named here is needed by nobody that is known. What is
    /// pinned by a digest is reported even where it is held as a part of an image with a tag.
    pub pins: Vec<Pin>,
    /// Whether `pins` is about everything that this node has reported. As long as it is not, nobody knows what is needed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub judged: bool,
    /// What the pull tokens of namespaces are checked with: the key in use, the one before it and the one after. Said to every agent,
    /// whatever else is known of it; none where namespaces have no tokens.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pull_keys: Vec<PullKey>,
}

/// `POST /v1/credentials`: an agent asks for the pull secrets of a namespace. Answered only for a namespace that has a pod, running or
/// pending, on the asking node: `403` otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CredentialsRequest {
    /// The namespace.
    pub namespace: String,
    /// The normalised repository that is to be pulled from: `registry.example.com/team/app`.
    pub repository: String,
}

/// An image whose tag is to be asked for again.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Refresh {
    /// The normalised reference.
    pub image: String,
    /// Nothing is to be done if upstream was asked at this time or later.
    pub since: u64,
}

/// An image to delete.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Drop {
    /// The normalised reference.
    pub image: String,
    /// Nothing is to be done if it was used on this node later than this.
    pub unused_since: u64,
}

/// Why images are not to be evicted.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pin {
    /// The normalised reference.
    pub image: String,
    /// Each reason that holds; none for what has a `CachedImage` and is only to be reported.
    pub reasons: Vec<PinReason>,
}

/// Why an image is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PinReason {
    /// Its `CachedImage` says `retain`.
    Retained,
    /// A pod on this node uses it.
    UsedHere,
    /// A pod on another node uses it.
    UsedElsewhere,
    /// Upstream does not have it any more.
    GoneUpstream,
    /// No other node has it as a whole; or others do and may let go of it, because this node is the one chosen to hold on.
    LastCopy,
    /// Something that this agent is too old to know.
    #[serde(other)]
    Other,
}

/// `POST /v1/report`: what one node holds and has seen. The node is that of the caller's token.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// Changes whenever the agent's process starts.
    pub boot: String,
    /// Counts the reports of one boot from 1 on. A delta that does not follow on the last one is answered with [`ReportAnswer::full_wanted`].
    pub sequence: u64,
    /// `images` is all that there is; otherwise it is what changed, and `removed` what is gone.
    pub full: bool,
    /// The agent's version.
    pub agent_version: String,
    /// When the agent's process started.
    pub started_at: u64,
    /// The disk.
    pub disk: Disk,
    /// Traffic since the process started.
    pub traffic: Traffic,
    /// Images held, whole or in part.
    pub images: Vec<Held>,
    /// References that were reported and are held no more.
    pub removed: Vec<String>,
    /// What went wrong (and right again) since the last report, at most one finding per image.
    pub findings: Vec<Finding>,
    /// Namespaces that were refused a private image since the last report, at most one per image and namespace.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refused>,
}

/// The answer to a report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReportAnswer {
    /// The next report must be a full one.
    pub full_wanted: bool,
}

/// The disk of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Disk {
    /// The file system that the data directory is on.
    pub capacity_bytes: u64,
    /// What is free on it.
    pub free_bytes: u64,
    /// What the data directory takes on it.
    pub used_bytes: u64,
    /// What it may take now, if that is known: less than the configured size where the file system has less room.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_bytes: Option<u64>,
    /// How many blobs there are.
    pub blobs: u64,
    /// Images evicted since the process started.
    pub evicted_images: u64,
    /// Images evicted within the last hour.
    pub evicted_last_hour: u64,
    /// There while the budget cannot be held, or nothing more can be kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pressure: Option<Pressure>,
    /// Blobs found with wrong bytes since the process started.
    pub quarantined_blobs: u64,
    /// The last of them: `digest of repository`, or the digest alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_quarantined: Option<String>,
}

/// Why a cache cannot make the room that it should.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pressure {
    /// Since when.
    pub since: u64,
    /// What is missing to the mark at which eviction ends, in bytes.
    pub missing_bytes: u64,
    /// What is not evicted, by the first reason that holds it; the largest first.
    pub held: Vec<HeldBack>,
}

/// Images that are not evicted for one reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HeldBack {
    /// In words of the agent: `pinned`, `retained`, `kept`, `last copy`, `not known to the control API`,
    /// `beside a damaged manifest`, `being pulled`.
    pub reason: String,
    /// How many images.
    pub images: u64,
    /// What they take, in bytes.
    pub bytes: u64,
}

/// Traffic of an agent since it started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Traffic {
    /// Requests for manifests and blobs that were answered from this node's disk.
    pub hits: u64,
    /// Requests that upstream had to be asked for.
    pub misses: u64,
    /// Bytes sent to clients.
    pub served_bytes: u64,
    /// Bytes received from registries.
    pub fetched_bytes: u64,
}

/// An image that a node holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Held {
    /// The normalised reference: `repository:tag`, or `repository@digest` for what is held by digest alone.
    pub image: String,
    /// The manifest's digest.
    pub digest: String,
    /// What is here of it, each blob counted once.
    pub size_bytes: u64,
    /// One platform of it, at least, is here as a whole.
    pub complete: bool,
    /// When it was last asked for.
    pub used_at: u64,
    /// When upstream was last asked about the tag, whatever it said; 0 for never, or a digest.
    pub checked_at: u64,
    /// When upstream last confirmed the tag; 0 for never, or a digest.
    pub validated_at: u64,
    /// What upstream last said.
    pub upstream: UpstreamState,
    /// Namespaces that have proven here that they may pull it, in order, the first [`PROVEN_NAMES_MAX`] of them. None for an image that
    /// upstream gives to everybody.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub proven: Vec<String>,
    /// How many have.
    #[serde(skip_serializing_if = "is_zero")]
    pub proven_count: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A namespace did not get a private image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Refused {
    /// The normalised reference.
    pub image: String,
    /// Who asked.
    pub namespace: String,
    /// When.
    pub at: u64,
    /// Why, in one word for metrics: `denied`, `no_secret`, `no_credentials`, `unavailable`.
    pub reason: String,
    /// What the runtime was answered.
    pub message: String,
}

/// What upstream last said about an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum UpstreamState {
    /// It has the image as it is here.
    Available,
    /// It does not have the image any more.
    NotFound,
    /// It does not give the image to us.
    Denied,
    /// It says that it was asked too often.
    RateLimited,
    /// It could not be reached, or failed.
    Unavailable,
    /// It was not asked, or said something that this program is too old to know.
    #[default]
    #[serde(other)]
    Unknown,
}

/// Something that happened to an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Finding {
    /// The normalised reference.
    pub image: String,
    /// When.
    pub at: u64,
    /// Why fetching it failed; nothing when it succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
