//! The small records that the index and the files below `refs/` hold: JSON, so that a person can read them, with a version each.

use serde::{Deserialize, Serialize};

use crate::oci::Digest;

/// The version that every record carries. A record of another version is not read; it is as if it were missing.
const VERSION: u32 = 1;

/// How upstream answered when a tag was last asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpstreamStatus {
    /// It has the tag.
    Ok,
    /// It says that it has not.
    NotFound,
    /// It refused, with 401 or 403.
    Denied,
    /// It asked to be left alone: 429.
    RateLimited,
    /// It did not answer, or with an error of its own.
    Unavailable,
}

/// What a tag means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TagRecord {
    #[serde(with = "digest_text")]
    pub digest: Digest,
    pub media_type: String,
    /// When upstream last confirmed it, in seconds since 1970.
    pub validated_at: u64,
    /// When upstream was last asked, whatever it said; 0 in records that are older than this field.
    #[serde(default)]
    pub checked_at: u64,
    /// What upstream said last, be it later than `validated_at`.
    pub upstream_status: UpstreamStatus,
}

/// A manifest that a repository has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestRecord {
    /// As upstream sent it in `Content-Type`.
    pub media_type: String,
    pub size: u64,
}

/// Content that a repository references.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkRecord {
    /// As the referencing manifest claims it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// No manifest here says so, only upstream does: it may be served, and is no reason to keep it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unfounded: bool,
    /// Only a manifest, or upstream's word, says so: what is here came for another repository, if it is here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub claimed: bool,
    /// It is claimed because the index was lost: what is here may have come for this repository.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recovered: bool,
}

/// A committed blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRecord {
    pub size: u64,
    /// When it was last asked for, in seconds since 1970.
    pub used: u64,
}

#[derive(Serialize)]
struct Versioned<'a, T> {
    v: u32,
    #[serde(flatten)]
    record: &'a T,
}

#[derive(Deserialize)]
struct AnyVersion<T> {
    v: u32,
    #[serde(flatten)]
    record: T,
}

pub(super) fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    serde_json::to_vec(&Versioned { v: VERSION, record }).expect("a record must serialise: it holds only numbers and strings")
}

pub(super) fn decode<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Option<T> {
    let AnyVersion { v, record } = serde_json::from_slice(bytes).ok()?;
    (v == VERSION).then_some(record)
}

mod digest_text {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::oci::Digest;

    pub(super) fn serialize<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(digest)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip_and_other_versions_are_not_read() {
        let record = TagRecord {
            digest: format!("sha256:{}", "0a".repeat(32)).parse().unwrap(),
            media_type: "m/t".to_owned(),
            validated_at: 7,
            checked_at: 8,
            upstream_status: UpstreamStatus::RateLimited,
        };
        let bytes = encode(&record);
        let older = String::from_utf8(bytes.clone()).unwrap().replace("\"checkedAt\":8,", "");
        assert_eq!(decode(older.as_bytes()), Some(TagRecord { checked_at: 0, ..record.clone() }));
        assert_eq!(decode(&bytes), Some(record));
        let newer = String::from_utf8(bytes).unwrap().replace("\"v\":1", "\"v\":2");
        assert_eq!(decode::<TagRecord>(newer.as_bytes()), None);
        assert_eq!(decode::<BlobRecord>(b"{"), None);
    }
}
