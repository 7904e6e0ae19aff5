//! Layers: a tar archive of a static busybox and a few files, packed with the system's programs.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::{Content, sha256};
use crate::process::run;
use crate::tools;

const TAR_BLOCK_BYTES: usize = 512;

/// How a layer is packed.
#[derive(Clone, Copy, Debug)]
pub enum Compression {
    Gzip,
    Zstd,
}

/// A layer, packed, with the digest of the archive inside, which the config of an image names.
#[derive(Clone, Debug)]
pub struct Layer {
    pub packed: Vec<u8>,
    pub diff_id: String,
}

impl Layer {
    /// A root file system whose `/marker` holds `marker`, with `filler_bytes` that do not compress.
    pub fn new(marker: &str, filler_bytes: usize, compression: Compression) -> Result<Self> {
        let dir = TempDir::with_prefix("kuik-layer-").context("make a directory for a layer")?;
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("bin"))?;
        fs::copy(tools::debian("busybox")?, root.join("bin/busybox"))?;
        fs::write(root.join("marker"), format!("{marker}\n"))?;
        if filler_bytes > 0 {
            fs::write(root.join("filler"), noise(marker, filler_bytes))?;
        }
        let archive = dir.path().join("layer.tar");
        pack(&root, &archive)?;
        let diff_id = sha256(&fs::read(&archive)?);
        Ok(Self { packed: compress(&archive, compression)?, diff_id })
    }
}

/// A layer that is an archive of one file, not packed, so that its digest is its `diff_id` too. Nothing in it can be run.
pub fn plain_layer(marker: &str, file_bytes: usize) -> Content {
    let mut archive = header(marker, file_bytes);
    archive.extend(noise(marker, file_bytes));
    archive.resize(archive.len().next_multiple_of(TAR_BLOCK_BYTES) + 2 * TAR_BLOCK_BYTES, 0);
    Content::new("application/vnd.oci.image.layer.v1.tar", archive)
}

/// The header of a file in a tar archive (ustar).
fn header(name: &str, size_bytes: usize) -> Vec<u8> {
    let mut header = vec![0; TAR_BLOCK_BYTES];
    let size = format!("{size_bytes:011o}");
    // The sum is made as if its own place held blanks.
    let fields = [(0, name), (100, "0000644"), (108, "0000000"), (116, "0000000"), (124, &size), (136, "00000000000"), (148, "        ")];
    for (at, text) in fields.into_iter().chain([(156, "0"), (257, "ustar"), (263, "00")]) {
        header[at..at + text.len()].copy_from_slice(text.as_bytes());
    }
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// Packs `root` so that equal content gives equal bytes.
fn pack(root: &Path, archive: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"]);
    run(tar.arg("-cf").arg(archive).arg("-C").arg(root).arg("."))?;
    Ok(())
}

fn compress(archive: &Path, compression: Compression) -> Result<Vec<u8>> {
    let (program, args): (_, &[&str]) = match compression {
        Compression::Gzip => ("gzip", &["-1", "-n", "-c"]),
        Compression::Zstd => ("zstd", &["-q", "-c"]),
    };
    Ok(run(Command::new(tools::debian(program)?).args(args).arg(archive))?.stdout)
}

/// Bytes that look random, the same for the same seed.
pub(super) fn noise(seed: &str, length: usize) -> Vec<u8> {
    let mut state = seed.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
