//! The images that are pulled: made here, kept as plain files, listed by the path that must answer with them.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::stats::MIB;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What a registry answers under one path.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    /// Without `/v2/` and without the agent's registry segment: `bench/big/manifests/latest`.
    pub(crate) path: String,
    pub(crate) file: PathBuf,
    pub(crate) media_type: &'static str,
    pub(crate) hex: String,
    pub(crate) size_bytes: u64,
}

/// A stored blob.
#[derive(Debug, Clone)]
pub(crate) struct Blob {
    pub(crate) hex: String,
    pub(crate) size_bytes: u64,
}

/// An image of the library.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) repository: String,
    pub(crate) tag: String,
    pub(crate) manifest: Blob,
    pub(crate) layers: Vec<Blob>,
}

impl Image {
    pub(crate) fn by_tag(&self) -> String {
        format!("{}/manifests/{}", self.repository, self.tag)
    }

    pub(crate) fn by_digest(&self) -> String {
        format!("{}/manifests/sha256:{}", self.repository, self.manifest.hex)
    }

    pub(crate) fn blob(&self, blob: &Blob) -> String {
        format!("{}/blobs/sha256:{}", self.repository, blob.hex)
    }

    /// The layer of an image that was made with one.
    pub(crate) fn layer(&self) -> Result<&Blob> {
        self.layers.first().context("an image here must have a layer")
    }
}

/// Which links from repositories to blobs a registry gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    All,
    /// Layers are there and cannot be asked for: enough to start with, and a third of the files.
    Manifests,
}

/// A folder of blobs and the paths that lead to them.
#[derive(Debug)]
pub(crate) struct Library {
    root: PathBuf,
    pub(crate) objects: Vec<Object>,
}

impl Library {
    pub(crate) fn create(root: PathBuf) -> Result<Self> {
        fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
        Ok(Self { root, objects: Vec::new() })
    }

    pub(crate) fn file(&self, hex: &str) -> PathBuf {
        self.root.join(hex)
    }

    /// A blob of pseudo-random bytes; the same seed gives the same bytes.
    pub(crate) fn random_blob(&self, seed: u64, size_bytes: u64) -> Result<Blob> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut chunk = vec![0; usize::try_from(size_bytes.min(MIB))?];
        let growing = self.root.join("growing");
        let mut file = File::create(&growing)?;
        let mut hasher = Sha256::new();
        let mut left = size_bytes;
        while left > 0 {
            for word in chunk.chunks_mut(8) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                word.copy_from_slice(state.to_le_bytes().get(..word.len()).unwrap_or_default());
            }
            let piece = chunk.get(..usize::try_from(left.min(MIB))?).unwrap_or_default();
            hasher.update(piece);
            file.write_all(piece)?;
            left -= piece.len() as u64;
        }
        let hex = hex(&hasher.finalize());
        fs::rename(growing, self.file(&hex))?;
        Ok(Blob { hex, size_bytes })
    }

    /// Blobs of zeros, each with a tail of its own: different digests, next to no disk, one hash for all.
    pub(crate) fn sparse_blobs(&self, count: u64, size_bytes: u64) -> Result<Vec<Blob>> {
        let zeros = vec![0; usize::try_from(MIB)?];
        let mut common = Sha256::new();
        for _ in 1..size_bytes / MIB {
            common.update(&zeros);
        }
        let make = |number: u64| -> Result<Blob> {
            let mut tail = zeros.clone();
            tail.splice(..8, (number + 1).to_le_bytes());
            let mut hasher = common.clone();
            hasher.update(&tail);
            let hex = hex(&hasher.finalize());
            let mut file = File::create(self.file(&hex))?;
            file.seek(SeekFrom::Start(size_bytes - MIB))?;
            file.write_all(&tail)?;
            Ok(Blob { hex, size_bytes })
        };
        (0..count).map(make).collect()
    }

    /// Blobs that are written out whole and differ in their tails: real disk, one hash for all.
    pub(crate) fn filled_blobs(&self, count: u64, size_bytes: u64) -> Result<Vec<Blob>> {
        let common = fs::read(self.file(&self.random_blob(count, size_bytes)?.hex))?;
        let (body, tail) = common.split_at_checked(common.len().saturating_sub(8)).context("a blob must have a tail")?;
        let mut hasher = Sha256::new();
        hasher.update(body);
        let make = |number: u64| -> Result<Blob> {
            let mut tail = tail.to_vec();
            tail.iter_mut().zip(number.to_le_bytes()).for_each(|(to, from)| *to = from);
            let mut hasher = hasher.clone();
            hasher.update(&tail);
            let hex = hex(&hasher.finalize());
            let mut file = File::create(self.file(&hex))?;
            file.write_all(body)?;
            file.write_all(&tail)?;
            Ok(Blob { hex, size_bytes })
        };
        (0..count).map(make).collect()
    }

    pub(crate) fn bytes_blob(&self, bytes: &[u8]) -> Result<Blob> {
        let hex = hex(&Sha256::digest(bytes));
        fs::write(self.file(&hex), bytes)?;
        Ok(Blob { hex, size_bytes: bytes.len() as u64 })
    }

    /// An OCI image of these layers, reachable under all its paths.
    pub(crate) fn image(&mut self, repository: &str, tag: &str, layers: Vec<Blob>) -> Result<Image> {
        let diffs: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", layer.hex)).collect();
        let rootfs = json!({"type": "layers", "diff_ids": diffs});
        let config = json!({"architecture": "amd64", "os": "linux", "rootfs": rootfs, "author": format!("{repository}:{tag}")});
        let config = self.bytes_blob(config.to_string().as_bytes())?;
        let described = |media_type: &str, blob: &Blob| json!({"mediaType": media_type, "digest": format!("sha256:{}", blob.hex), "size": blob.size_bytes});
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": described(CONFIG, &config),
            "layers": layers.iter().map(|layer| described(LAYER, layer)).collect::<Vec<_>>(),
        });
        let manifest = self.bytes_blob(manifest.to_string().as_bytes())?;
        let image = Image { repository: repository.to_owned(), tag: tag.to_owned(), manifest, layers };
        self.list(image.by_tag(), MANIFEST, &image.manifest);
        self.list(image.by_digest(), MANIFEST, &image.manifest);
        for blob in image.layers.iter().chain([&config]) {
            self.list(image.blob(blob), "application/octet-stream", blob);
        }
        Ok(image)
    }

    fn list(&mut self, path: String, media_type: &'static str, blob: &Blob) {
        let file = self.file(&blob.hex);
        self.objects.push(Object { path, file, media_type, hex: blob.hex.clone(), size_bytes: blob.size_bytes });
    }

    /// The same blobs, hard-linked, as docker-registry and distribution lay them out on disk.
    pub(crate) fn lay_out_registry(&self, root: &Path, links: Links) -> Result<()> {
        let top = root.join("docker/registry/v2");
        for object in &self.objects {
            let hex = &object.hex;
            link(&object.file, &blob_data(&top, hex))?;
            let Some((repository, kind, reference)) = split(&object.path) else { continue };
            let repository = top.join("repositories").join(repository);
            let name = format!("sha256:{hex}");
            if kind == "blobs" {
                if links == Links::Manifests {
                    continue;
                }
                write(&repository.join("_layers/sha256").join(hex).join("link"), &name)?;
                continue;
            }
            let manifests = repository.join("_manifests");
            write(&manifests.join("revisions/sha256").join(hex).join("link"), &name)?;
            if !reference.contains(':') {
                let tag = manifests.join("tags").join(reference);
                write(&tag.join("current/link"), &name)?;
                write(&tag.join("index/sha256").join(hex).join("link"), &name)?;
            }
        }
        Ok(())
    }

    /// The same blobs, hard-linked, into an agent's data directory.
    pub(crate) fn lay_out_agent(&self, data: &Path) -> Result<()> {
        self.objects.iter().try_for_each(|object| link(&object.file, &agent_blob(data, &object.hex)))
    }

    /// Moves blobs into an agent's data directory: then they are nowhere else, and deleting them there gives back their room.
    pub(crate) fn move_to_agent(&self, blobs: &[Blob], data: &Path) -> Result<()> {
        for blob in blobs {
            let (from, to) = (self.file(&blob.hex), agent_blob(data, &blob.hex));
            fs::create_dir_all(to.parent().context("a path here must have a parent")?)?;
            fs::rename(&from, &to).with_context(|| format!("cannot move {} to {}", from.display(), to.display()))?;
        }
        Ok(())
    }
}

/// Where an agent keeps a blob.
fn agent_blob(data: &Path, hex: &str) -> PathBuf {
    data.join("blobs/sha256").join(hex.get(..2).unwrap_or_default()).join(hex)
}

/// Where docker-registry and distribution keep a blob.
fn blob_data(top: &Path, hex: &str) -> PathBuf {
    top.join("blobs/sha256").join(hex.get(..2).unwrap_or_default()).join(hex).join("data")
}

fn split(path: &str) -> Option<(&str, &str, &str)> {
    let (rest, reference) = path.rsplit_once('/')?;
    let (repository, kind) = rest.rsplit_once('/')?;
    Some((repository, kind, reference))
}

fn link(from: &Path, to: &Path) -> Result<()> {
    if !to.exists() {
        fs::create_dir_all(to.parent().context("a path here must have a parent")?)?;
        fs::hard_link(from, to).with_context(|| format!("cannot link {} to {}", from.display(), to.display()))?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::create_dir_all(path.parent().context("a path here must have a parent")?)?;
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
