//! Layers: a tar archive of a static busybox and a few files, packed with the system's programs.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::sha256;
use crate::process::run;
use crate::tools;

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
