//! What an upstream holds.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use kuik_crd::Digest;
use serde_json::{Value, json};

/// A manifest as it was pushed.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) bytes: Bytes,
}

#[derive(Debug, Default)]
pub(super) struct Repository {
    pub(super) tags: BTreeMap<String, Digest>,
    pub(super) manifests: HashMap<Digest, Stored>,
    pub(super) blobs: HashMap<Digest, Bytes>,
}

impl Repository {
    pub(super) fn find(&self, reference: &str) -> Option<&Stored> {
        let digest = if reference.contains(':') { reference.parse().ok()? } else { *self.tags.get(reference)? };
        self.manifests.get(&digest)
    }

    /// The index of all manifests about `subject`.
    pub(super) fn referrers(&self, subject: &str, artifact_type: Option<&str>) -> Value {
        let mut found: Vec<Value> = self.manifests.values().filter_map(|manifest| descriptor(manifest, subject)).collect();
        found.retain(|entry| artifact_type.is_none_or(|wanted| entry["artifactType"] == wanted));
        found.sort_by_key(|entry| entry["digest"].to_string());
        json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": found })
    }
}

fn descriptor(manifest: &Stored, subject: &str) -> Option<Value> {
    let document: Value = serde_json::from_slice(&manifest.bytes).ok()?;
    if document["subject"]["digest"] != subject {
        return None;
    }
    let mut entry = json!({
        "mediaType": manifest.media_type,
        "digest": manifest.digest.to_string(),
        "size": manifest.bytes.len(),
        "artifactType": document.get("artifactType").unwrap_or(&document["config"]["mediaType"]),
    });
    if let Some(annotations) = document.get("annotations") {
        entry["annotations"] = annotations.clone();
    }
    Some(entry)
}

#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) repositories: BTreeMap<String, Repository>,
}

impl Content {
    pub(super) fn repository(&mut self, name: &str) -> &mut Repository {
        self.repositories.entry(name.to_owned()).or_default()
    }

    /// A blob, in whatever repository.
    pub(super) fn any_blob(&self, digest: &Digest) -> Option<Bytes> {
        self.repositories.values().find_map(|repository| repository.blobs.get(digest)).cloned()
    }
}
