//! The shapes of image that registries hold.

use anyhow::Result;
use serde_json::{Value, json};

use super::layer::{Compression, Layer, noise};
use super::{Content, Image};

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// An OCI image that prints `marker` when it runs on this machine.
pub fn oci(marker: &str) -> Result<Image> {
    with_layer(marker, Compression::Gzip)
}

/// As [`oci`], with the layer packed in this way.
pub fn with_layer(marker: &str, compression: Compression) -> Result<Image> {
    let layer = Layer::new(marker, 0, compression)?;
    let media_type = match compression {
        Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
    };
    Ok(image(this_architecture(), &layer, OCI_MANIFEST, OCI_CONFIG, media_type))
}

/// An OCI image that runs this command of busybox when nothing else is asked for.
pub fn running(command: &[&str]) -> Result<Image> {
    let layer = Layer::new(&command.join(" "), 0, Compression::Gzip)?;
    let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
    Ok(image_running(command, this_architecture(), &layer, OCI_MANIFEST, OCI_CONFIG, media_type))
}

/// As [`oci`], with a layer of a little more than `layer_bytes`.
pub fn big(marker: &str, layer_bytes: usize) -> Result<Image> {
    let layer = Layer::new(marker, layer_bytes, Compression::Gzip)?;
    let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
    Ok(image(this_architecture(), &layer, OCI_MANIFEST, OCI_CONFIG, media_type))
}

/// An OCI image of these layers, of [`super::plain_layer`]. It can be pulled, and not run.
pub fn layered(marker: &str, layers: &[Content]) -> Image {
    let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.digest.as_str()).collect();
    let config = json!({
        "architecture": this_architecture(),
        "os": "linux",
        "config": { "Cmd": [marker] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    assemble(Content::new(OCI_CONFIG, config.to_string().into_bytes()), layers.to_vec(), OCI_MANIFEST)
}

/// As [`oci`], in Docker's format (schema 2).
pub fn docker(marker: &str) -> Result<Image> {
    let layer = Layer::new(marker, 0, Compression::Gzip)?;
    Ok(image(this_architecture(), &layer, DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER))
}

/// An index of two platforms and an attestation, as `docker buildx` pushes it. It is written with
/// unusual white space, so that whoever parses and writes it again changes its digest.
pub fn multi_arch(marker: &str) -> Result<Image> {
    let here = oci(marker)?;
    let there = for_architecture(marker, other_architecture())?;
    let statement = attestation(marker);
    let mut entries = vec![
        platform(here.root(), "linux", this_architecture()),
        platform(there.root(), "linux", other_architecture()),
        platform(statement.root(), "unknown", "unknown"),
    ];
    entries[2]["annotations"] = json!({
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": here.root().digest,
    });
    Ok(index(&entries, vec![here, there, statement]))
}

/// An index that lists another index beside a plain image.
pub fn nested(marker: &str) -> Result<Image> {
    let inner = multi_arch(&format!("{marker}, inner"))?;
    let outer = oci(marker)?;
    let entries = [platform(outer.root(), "linux", this_architecture()), inner.root().descriptor()];
    Ok(index(&entries, vec![inner, outer]))
}

/// An artifact: no image config, an `artifactType`, one blob with a title that `oras` writes to.
pub fn artifact(marker: &str) -> Image {
    refer("application/vnd.kuik.test.doc", marker, None)
}

/// An artifact of this type about `subject`.
pub fn referrer(artifact_type: &str, marker: &str, subject: &Content) -> Image {
    refer(artifact_type, marker, Some(subject))
}

/// What the tag `sha256-<hex>` of a subject holds on registries without the referrers API.
pub fn referrers_index(artifact_type: &str, referrer: &Image) -> Content {
    let mut entry = referrer.root().descriptor();
    entry["artifactType"] = artifact_type.into();
    let value = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry] });
    Content::new(OCI_INDEX, value.to_string().into_bytes())
}

fn refer(artifact_type: &str, marker: &str, subject: Option<&Content>) -> Image {
    let config = Content::new(OCI_EMPTY, b"{}".to_vec());
    let blob = Content::new("text/plain", noise(marker, 4096));
    let mut layer = blob.descriptor();
    layer["annotations"] = json!({ "org.opencontainers.image.title": "document" });
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": artifact_type,
        "config": config.descriptor(),
        "layers": [layer],
    });
    if let Some(subject) = subject {
        manifest["subject"] = subject.descriptor();
    }
    Image { blobs: vec![config, blob], manifests: vec![Content::new(OCI_MANIFEST, manifest.to_string().into_bytes())] }
}

fn attestation(marker: &str) -> Image {
    let blob = Content::new("application/vnd.in-toto+json", json!({ "about": marker }).to_string().into_bytes());
    let config = json!({ "architecture": "unknown", "os": "unknown", "rootfs": { "type": "layers", "diff_ids": [blob.digest] } });
    assemble(Content::new(OCI_CONFIG, config.to_string().into_bytes()), vec![blob], OCI_MANIFEST)
}

fn for_architecture(marker: &str, architecture: &str) -> Result<Image> {
    let layer = Layer::new(&format!("{marker}, {architecture}"), 0, Compression::Gzip)?;
    let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
    Ok(image(architecture, &layer, OCI_MANIFEST, OCI_CONFIG, media_type))
}

fn image(architecture: &str, layer: &Layer, manifest_type: &str, config_type: &str, layer_type: &str) -> Image {
    image_running(&["cat", "/marker"], architecture, layer, manifest_type, config_type, layer_type)
}

fn image_running(command: &[&str], architecture: &str, layer: &Layer, manifest_type: &str, config_type: &str, layer_type: &str) -> Image {
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": { "Entrypoint": ["/bin/busybox"], "Cmd": command },
        "rootfs": { "type": "layers", "diff_ids": [layer.diff_id] },
        "history": [{ "created_by": "kuik-e2e" }],
    });
    let config = Content::new(config_type, config.to_string().into_bytes());
    assemble(config, vec![Content::new(layer_type, layer.packed.clone())], manifest_type)
}

fn assemble(config: Content, layers: Vec<Content>, manifest_type: &str) -> Image {
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": manifest_type,
        "config": config.descriptor(),
        "layers": layers.iter().map(Content::descriptor).collect::<Vec<_>>(),
    });
    let manifest = Content::new(manifest_type, manifest.to_string().into_bytes());
    Image { blobs: std::iter::once(config).chain(layers).collect(), manifests: vec![manifest] }
}

fn platform(manifest: &Content, os: &str, architecture: &str) -> Value {
    let mut entry = manifest.descriptor();
    entry["platform"] = json!({ "os": os, "architecture": architecture });
    entry
}

fn index(entries: &[Value], children: Vec<Image>) -> Image {
    let value = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
    let bytes = format!("\n{value:#}\n \t\n").into_bytes();
    let mut all = Image { blobs: Vec::new(), manifests: Vec::new() };
    for child in children {
        all.blobs.extend(child.blobs);
        all.manifests.extend(child.manifests);
    }
    all.manifests.push(Content::new(OCI_INDEX, bytes));
    all
}

fn this_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    }
}

fn other_architecture() -> &'static str {
    match this_architecture() {
        "amd64" => "arm64",
        _ => "amd64",
    }
}
