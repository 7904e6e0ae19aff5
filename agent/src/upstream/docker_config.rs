//! The file with our credentials: docker's `config.json`.

use std::io::Read as _;
use std::path::Path;

use kuik_crd::credentials::{DockerConfig, Malformed};
use secrecy::zeroize::Zeroizing;
use tracing::warn;

use super::error::UpstreamSetupError;

/// Larger than any list of logins.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Reads the file. One entry that cannot be read makes it a wrong file.
pub(super) fn read(path: &Path) -> Result<DockerConfig, UpstreamSetupError> {
    let unreadable = |source| UpstreamSetupError::Read { what: "the registry credentials", path: path.to_owned(), source };
    let mut bytes = Zeroizing::new(Vec::new());
    std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let (key, detail) = ("the file".to_owned(), format!("expected at most {FILE_BYTES_MAX} bytes"));
        return Err(wrong(path, Malformed { key, detail }));
    }
    let mut config = DockerConfig::from_json(&bytes).map_err(|malformed| wrong(path, malformed))?;
    if !config.malformed.is_empty() {
        return Err(wrong(path, config.malformed.swap_remove(0)));
    }
    for key in &config.ignored {
        warn!("{}: the key {key:?} names no registry and is ignored", path.display());
    }
    Ok(config)
}

fn wrong(path: &Path, Malformed { key, detail }: Malformed) -> UpstreamSetupError {
    UpstreamSetupError::Auth { path: path.to_owned(), key, detail }
}
