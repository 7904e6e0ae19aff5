//! Images that somebody pinned on this node: `kuik-agent pin`. They outlive restarts.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::oci::Image;
use crate::store::{Store, StoreError};
use crate::telemetry;

/// The name of the note.
const NOTE: &str = "pins";

const VERSION: u32 = 1;

/// Images that may be pinned: more are a mistake.
const PINS_MAX: usize = 10_000;

#[derive(Debug, Serialize, Deserialize)]
struct Written {
    version: u32,
    images: BTreeSet<String>,
}

/// Why an image was not pinned, or not let go.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    #[error("{PINS_MAX} images are pinned already: kuik-agent unpin lets one go")]
    TooMany,
    #[error("the pins cannot be written, and stay as they were")]
    Store(#[from] StoreError),
}

/// The pins of this node.
#[derive(Debug)]
pub(super) struct Pins {
    store: Store,
    /// `None` if the note cannot be read: then nobody knows, and nothing is evicted. Never held across an await.
    images: Mutex<Option<BTreeSet<String>>>,
    /// Held while a change is written, so that the note is as the newest change left it.
    writing: tokio::sync::Mutex<()>,
}

impl Pins {
    pub(super) async fn recall(store: &Store) -> Self {
        let images = match store.read_note(NOTE).await {
            Ok(None) => Some(BTreeSet::new()),
            Ok(Some(bytes)) => read(&bytes),
            Err(error) => {
                tracing::error!(error = %telemetry::chain(&error), "the pins cannot be read: nothing is evicted until somebody pins or unpins an image");
                None
            }
        };
        Self { store: store.clone(), images: Mutex::new(images), writing: tokio::sync::Mutex::default() }
    }

    /// What is pinned, as images are reported; `None` if that cannot be known.
    pub(super) fn images(&self) -> Option<BTreeSet<String>> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Pins an image, or lets it go. `true` if that changed anything.
    pub(super) async fn set(&self, image: &Image, pinned: bool) -> Result<bool, PinError> {
        let name = name(image);
        let _writing = self.writing.lock().await;
        let old = self.images();
        let mut images = old.clone().unwrap_or_default();
        let changed = if pinned { images.insert(name) } else { images.remove(&name) };
        if !changed && old.is_some() {
            return Ok(false);
        }
        if images.len() > PINS_MAX {
            return Err(PinError::TooMany);
        }
        let written = Written { version: VERSION, images };
        let bytes = serde_json::to_vec(&written).expect("pins must serialise: they are strings");
        self.store.write_note(NOTE, bytes).await?;
        *self.images.lock().unwrap_or_else(PoisonError::into_inner) = Some(written.images);
        Ok(changed)
    }
}

/// As what is held is called: by digest alone where there is one.
pub(super) fn name(image: &Image) -> String {
    match image.digest() {
        Some(digest) => Image::new(image.repository().clone(), None, Some(*digest)).to_string(),
        None => image.to_string(),
    }
}

fn read(bytes: &[u8]) -> Option<BTreeSet<String>> {
    let written = serde_json::from_slice::<Written>(bytes).ok().filter(|written| written.version == VERSION);
    if written.is_none() {
        tracing::error!("the pins are damaged or of a newer version: nothing is evicted until somebody pins or unpins an image");
    }
    Some(written?.images)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pins_outlive_a_restart_and_damaged_ones_hold_everything() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let pins = Pins::recall(&store).await;
        let image: Image = "nginx:1".parse().unwrap();
        assert!(pins.set(&image, true).await.unwrap());
        assert!(!pins.set(&image, true).await.unwrap(), "it was pinned already");
        let again = Pins::recall(&store).await;
        assert_eq!(again.images(), Some(BTreeSet::from(["docker.io/library/nginx:1".to_owned()])));
        assert!(again.set(&image, false).await.unwrap());
        assert_eq!(Pins::recall(&store).await.images(), Some(BTreeSet::new()));
        store.write_note(NOTE, b"{\"version\":2,\"images\":[]}".to_vec()).await.unwrap();
        let unknown = Pins::recall(&store).await;
        assert_eq!(unknown.images(), None);
        assert!(!unknown.set(&image, false).await.unwrap());
        assert_eq!(unknown.images(), Some(BTreeSet::new()), "somebody has said what is pinned");
    }
}
