//! What a manifest says about others, read without changing a byte of it.
//!
//! Image manifests, indexes (nested too), Docker schema 2 and lists, artifacts: one lenient reading serves them all, since the
//! agent needs only which digests a manifest references. The bytes are kept and served as they came.

use std::collections::BTreeMap;

use kuik_crd::Digest;
use serde::Deserialize;

/// The largest manifest that is read: the distribution specification lets registries stop at 4 MiB; some allow more.
pub const MANIFEST_BYTES_MAX: usize = 16 << 20;

/// The most references that a manifest may have. Images have dozens, large indexes hundreds.
const CHILDREN_MAX: usize = 10_000;

/// What upstream is offered. Order matters to some registries: indexes first, so that nothing is picked for us.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.oci.artifact.manifest.v1+json, \
    */*";

/// A reference from a manifest to other content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// What it is referenced by.
    pub digest: Digest,
    /// Its size in bytes, as the manifest claims it.
    pub size: Option<u64>,
    /// Its media type, as the manifest claims it.
    pub media_type: Option<String>,
    /// Whether it is fetched as a manifest.
    pub is_manifest: bool,
    /// In an index: what it is for, as `os/architecture` or `os/architecture/variant`.
    pub platform: Option<String>,
}

/// What the agent reads from a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The manifest's own media type, where it says so.
    pub media_type: Option<String>,
    /// The `artifactType`, or the config's media type, which stands for it (image specification, "Guidelines for Artifact Usage").
    pub artifact_type: Option<String>,
    /// Everything that it references and that makes part of the image: children, config, layers.
    pub children: Vec<Descriptor>,
    /// What it is about, where it is a referrer.
    pub subject: Option<Digest>,
}

/// The bytes are no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or a known field of another type.
    #[error("the manifest is not a JSON object of the known form")]
    Json(#[source] serde_json::Error),
    /// JSON, and nothing in it that manifests have: an error message of some proxy, for example.
    #[error("the JSON document has nothing that makes it a manifest: no schemaVersion, config, layers, manifests or blobs")]
    Foreign,
    /// More references than any image has.
    #[error("the manifest references more than {CHILDREN_MAX} others")]
    TooManyChildren,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<serde_json::Number>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<RawDescriptor>,
    #[serde(default)]
    layers: Option<Vec<RawDescriptor>>,
    #[serde(default)]
    blobs: Option<Vec<RawDescriptor>>,
    #[serde(default)]
    manifests: Option<Vec<RawDescriptor>>,
    subject: Option<RawDescriptor>,
}

impl Document {
    fn is_manifest(&self) -> bool {
        let is_known = self.media_type.as_deref().is_some_and(is_manifest_type);
        let has_content = self.config.is_some() || self.layers.is_some() || self.blobs.is_some() || self.manifests.is_some();
        self.schema_version.is_some() || has_content || is_known
    }

    fn references(&self) -> usize {
        [&self.layers, &self.blobs, &self.manifests].into_iter().flatten().map(Vec::len).sum()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    digest: String,
    size: Option<u64>,
    media_type: Option<String>,
    platform: Option<RawPlatform>,
}

#[derive(Deserialize)]
struct RawPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
}

impl RawPlatform {
    fn name(self) -> String {
        let variant = self.variant.filter(|variant| !variant.is_empty()).map(|variant| format!("/{variant}")).unwrap_or_default();
        format!("{}/{}{variant}", self.os, self.architecture)
    }
}

impl RawDescriptor {
    /// `None` for a digest of an unknown algorithm: it cannot be verified, hence not served.
    fn read(self, is_manifest: bool) -> Option<Descriptor> {
        let digest = self.digest.parse().ok()?;
        let platform = self.platform.map(RawPlatform::name);
        Some(Descriptor { digest, size: self.size, media_type: self.media_type, is_manifest, platform })
    }
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// When the bytes are not a JSON object, a known field has another type than the specification gives it, or nothing in it is a
    /// manifest's.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let document: Document = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        if !document.is_manifest() {
            return Err(ManifestError::Foreign);
        }
        if document.references() > CHILDREN_MAX {
            return Err(ManifestError::TooManyChildren);
        }
        let config_type = document.config.as_ref().and_then(|config| config.media_type.clone());
        let manifests = document.manifests.into_iter().flatten().filter_map(|raw| raw.read(true));
        let blobs = document.config.into_iter().chain(document.layers.into_iter().flatten()).chain(document.blobs.into_iter().flatten());
        Ok(Self {
            media_type: document.media_type,
            artifact_type: document.artifact_type.or(config_type),
            children: manifests.chain(blobs.filter_map(|raw| raw.read(false))).collect(),
            subject: document.subject.and_then(|raw| raw.read(true)).map(|subject| subject.digest),
        })
    }

    /// The annotations of a manifest, which a referrers list repeats. They are read by themselves because they may be most of it.
    #[must_use]
    pub fn annotations(bytes: &[u8]) -> Option<BTreeMap<String, String>> {
        #[derive(Deserialize)]
        struct Annotated {
            annotations: Option<BTreeMap<String, String>>,
        }
        serde_json::from_slice::<Annotated>(bytes).ok()?.annotations
    }

    /// The media type to serve it under when nobody said so: its own, or what its shape tells.
    #[must_use]
    pub fn media_type_or_guess(&self) -> &str {
        match &self.media_type {
            Some(media_type) => media_type,
            None if self.children.iter().any(|child| child.is_manifest) => "application/vnd.oci.image.index.v1+json",
            None => "application/vnd.oci.image.manifest.v1+json",
        }
    }
}

/// Whether content of this media type is fetched as a manifest.
#[must_use]
pub fn is_manifest_type(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    [
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.artifact.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    ]
    .iter()
    .any(|known| essence.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    #[test]
    fn an_image_references_its_config_and_layers() {
        let text = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"c/t","digest":"{A}","size":3}},"layers":[{{"digest":"{B}","size":4}}],"x":[]}}"#
        );
        let manifest = Manifest::parse(text.as_bytes()).unwrap();
        let children: Vec<_> = manifest.children.iter().map(|c| (c.digest.to_string(), c.size, c.is_manifest)).collect();
        assert_eq!(children, [(A.to_owned(), Some(3), false), (B.to_owned(), Some(4), false)]);
        assert_eq!(manifest.artifact_type.as_deref(), Some("c/t"));
        assert_eq!(manifest.media_type_or_guess(), "application/vnd.oci.image.manifest.v1+json");
    }

    #[test]
    fn an_index_references_manifests_and_an_artifact_its_subject() {
        let text = format!(
            r#"{{"manifests":[{{"digest":"{A}","mediaType":"m","platform":{{"os":"o","architecture":"a","variant":"v"}}}}],"subject":{{"digest":"{B}"}},"artifactType":"t"}}"#
        );
        let manifest = Manifest::parse(text.as_bytes()).unwrap();
        assert!(manifest.children[0].is_manifest);
        assert_eq!(manifest.children[0].platform.as_deref(), Some("o/a/v"));
        assert_eq!(manifest.subject.unwrap().to_string(), B);
        assert_eq!(manifest.artifact_type.as_deref(), Some("t"));
        assert_eq!(manifest.media_type_or_guess(), "application/vnd.oci.image.index.v1+json");
    }

    #[test]
    fn a_digest_that_cannot_be_verified_is_no_child() {
        let manifest = Manifest::parse(br#"{"layers":[{"digest":"md5:00"}],"blobs":null}"#).unwrap();
        assert!(manifest.children.is_empty());
    }

    #[test]
    fn a_document_of_another_kind_is_refused() {
        for text in ["{}", r#"{"error":"please log in to the proxy"}"#, r#"{"errors":[{"code":"DENIED"}]}"#, r#"{"config":null}"#] {
            assert!(matches!(Manifest::parse(text.as_bytes()), Err(ManifestError::Foreign)), "{text}");
        }
        assert!(Manifest::parse(br#"{"schemaVersion":2}"#).is_ok());
        assert!(Manifest::parse(br#"{"mediaType":"application/vnd.oci.artifact.manifest.v1+json"}"#).is_ok());
    }

    #[test]
    fn references_are_counted_before_they_are_followed() {
        let manifest = |count: usize| format!(r#"{{"layers":[{}]}}"#, vec![format!(r#"{{"digest":"{A}"}}"#); count].join(","));
        assert!(Manifest::parse(manifest(CHILDREN_MAX).as_bytes()).is_ok());
        assert!(matches!(Manifest::parse(manifest(CHILDREN_MAX + 1).as_bytes()), Err(ManifestError::TooManyChildren)));
    }

    #[test]
    fn annotations_are_read_apart() {
        let annotations = Manifest::annotations(br#"{"schemaVersion":2,"annotations":{"a":"b"}}"#).unwrap();
        assert_eq!(annotations["a"], "b");
        assert_eq!(Manifest::annotations(br#"{"annotations":{"a":[]}}"#), None);
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        for text in ["", "[", "[]", "1", r#"{"layers":{}}"#, r#"{"config":{}}"#, "{\"a\":\u{0}}"] {
            assert!(Manifest::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Manifest::parse(&bytes);
        }

        #[test]
        fn no_json_of_about_the_right_shape_panics(
            key in "(config|layers|manifests|blobs|subject|annotations|mediaType)",
            value in "(\\{\\}|\\[\\]|null|1|\"x\"|\\[\\{\"digest\":\"[a-z0-9:]{0,12}\"\\}\\])",
        ) {
            let _ = Manifest::parse(format!("{{\"{key}\":{value}}}").as_bytes());
        }
    }
}
