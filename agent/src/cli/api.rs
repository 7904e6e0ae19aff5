//! What the admin port answers, as far as the command line reads it. Fields and events that are not known are passed over.

use jiff::Timestamp;
use serde::Deserialize;

/// `GET /v1/images`.
#[derive(Debug, Deserialize)]
pub(super) struct Images {
    pub(super) images: Vec<ImageEntry>,
}

/// One image.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ImageEntry {
    pub(super) reference: String,
    pub(super) digest: String,
    pub(super) media_type: String,
    pub(super) size_bytes: u64,
    pub(super) complete: bool,
    pub(super) last_used: Option<Timestamp>,
    pub(super) validated_at: Option<Timestamp>,
    pub(super) upstream_status: Option<String>,
    #[serde(default)]
    pub(super) pinned: bool,
}

/// `GET /v1/image`.
#[derive(Debug, Deserialize)]
pub(super) struct ImageDetail {
    #[serde(flatten)]
    pub(super) image: ImageEntry,
    pub(super) manifests: Vec<ManifestEntry>,
}

/// A manifest of an image.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ManifestEntry {
    pub(super) digest: String,
    pub(super) media_type: Option<String>,
    pub(super) size_bytes: Option<u64>,
    pub(super) platform: Option<String>,
    pub(super) cached: bool,
    pub(super) blobs: Vec<BlobEntry>,
}

/// A blob of a manifest.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BlobEntry {
    pub(super) digest: String,
    pub(super) media_type: Option<String>,
    pub(super) size_bytes: Option<u64>,
    pub(super) cached: bool,
}

/// A line of `POST /v1/pull`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "event", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum PullEvent {
    Manifest {
        digest: String,
        media_type: String,
        size_bytes: u64,
    },
    Blob {
        digest: String,
        size_bytes: Option<u64>,
        done_bytes: u64,
        cached: bool,
    },
    Error {
        message: String,
    },
    Done {
        digest: String,
        bytes: u64,
    },
    #[serde(other)]
    Unknown,
}

/// A line of `POST /v1/verify`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "event", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum VerifyEvent {
    Progress {
        checked: u64,
        total: u64,
        bytes: u64,
    },
    Bad {
        digest: String,
        reason: String,
    },
    Done {
        checked: u64,
        bytes: u64,
        quarantined: u64,
    },
    #[serde(other)]
    Unknown,
}

/// `POST /v1/gc`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct GcReport {
    pub(super) budget_bytes: Option<u64>,
    pub(super) used_bytes: u64,
    pub(super) target_bytes: Option<u64>,
    pub(super) missing_bytes: u64,
    pub(super) images: Vec<GcImage>,
    pub(super) orphans: GcOrphans,
}

/// What becomes of an image.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct GcImage {
    pub(super) reference: String,
    pub(super) action: String,
    pub(super) reason: String,
    pub(super) size_bytes: u64,
    pub(super) last_used: Option<Timestamp>,
}

/// What nothing references.
#[derive(Debug, Deserialize)]
pub(super) struct GcOrphans {
    pub(super) blobs: u64,
    pub(super) bytes: u64,
}

/// `POST /v1/pin` and `POST /v1/unpin`.
#[derive(Debug, Deserialize)]
pub(super) struct Pinned {
    pub(super) reference: String,
    pub(super) pinned: bool,
    pub(super) changed: bool,
}
