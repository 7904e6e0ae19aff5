//! The cache between a registry on loopback and a disk that does as it is told.

mod early;
mod faults;
mod resumes;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::json;
use tempfile::TempDir;
use tokio_util::task::TaskTracker;

use super::*;
use crate::oci::{Repository, Target};
use crate::requester::Requester;
use crate::upstream::tests::support::{Reply, Seen, Server, digest, mk_plain, repo};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What a registry answers with, by path.
type Shelf = Arc<Mutex<HashMap<String, (&'static str, Bytes)>>>;

/// Bytes that are not all the same.
fn noise(seed: usize, length: usize) -> Bytes {
    (0..length).map(|at| u8::try_from((at * 31 + at / 251 + seed * 7) % 256).unwrap()).collect()
}

fn answer(shelf: &Shelf, seen: &Seen) -> Reply {
    let Some((media_type, bytes)) = shelf.lock().unwrap().get(&seen.path).cloned() else {
        return Reply::status(404);
    };
    let from: Option<usize> = seen.header("range").strip_prefix("bytes=").map(|range| range.trim_end_matches('-').parse().unwrap());
    let reply = match from {
        Some(from) => {
            let rest = bytes.slice(from..);
            let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
            Reply::status(206).header("content-range", &range).header("content-length", &rest.len().to_string()).bytes(rest)
        }
        None => Reply::ok(bytes),
    };
    reply.header("content-type", media_type)
}

/// A registry with an image of two platforms as `app:1`, and an agent's cache in front of it.
struct Scene {
    dir: TempDir,
    shelf: Shelf,
    server: Server,
    store: Store,
    cache: Cache,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    app: Repository,
    image: Image,
}

/// An index of two images, the blobs of which are one large and one small.
struct Image {
    index: Bytes,
    manifests: Vec<Bytes>,
    blobs: Vec<Bytes>,
}

impl Image {
    fn new(layer_size: usize) -> Self {
        let blobs = vec![noise(1, layer_size), noise(2, 500), noise(3, layer_size), noise(4, 501)];
        let descriptor =
            |bytes: &Bytes, media_type: &str| json!({ "mediaType": media_type, "digest": digest(bytes).to_string(), "size": bytes.len() });
        let manifest = |layers: &[Bytes]| {
            let layers: Vec<_> = layers.iter().map(|bytes| descriptor(bytes, "x/layer")).collect();
            Bytes::from(json!({ "schemaVersion": 2, "mediaType": MANIFEST, "layers": layers }).to_string())
        };
        let manifests: Vec<_> = blobs.chunks(2).map(manifest).collect();
        let parts: Vec<_> = manifests.iter().map(|bytes| descriptor(bytes, MANIFEST)).collect();
        let index = Bytes::from(json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": parts }).to_string());
        Self { index, manifests, blobs }
    }

    fn all(&self) -> impl Iterator<Item = &Bytes> {
        std::iter::once(&self.index).chain(&self.manifests).chain(&self.blobs)
    }
}

impl Scene {
    async fn new(layer_size: usize) -> Self {
        let (shelf, image) = (Shelf::default(), Image::new(layer_size));
        let server = Server::http({
            let shelf = Arc::clone(&shelf);
            move |seen| answer(&shelf, seen)
        })
        .await;
        let manifests = image.manifests.iter().map(|bytes| (MANIFEST, bytes)).chain([(INDEX, &image.index)]);
        for (media_type, bytes) in manifests {
            shelf.lock().unwrap().insert(format!("/v2/app/manifests/{}", digest(bytes)), (media_type, bytes.clone()));
        }
        for bytes in &image.blobs {
            shelf.lock().unwrap().insert(format!("/v2/app/blobs/{}", digest(bytes)), ("application/octet-stream", bytes.clone()));
        }
        shelf.lock().unwrap().insert("/v2/app/manifests/1".to_owned(), (INDEX, image.index.clone()));
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.settle().await.unwrap();
        Self::with(dir, store, server, shelf, image)
    }

    fn with(dir: TempDir, store: Store, server: Server, shelf: Shelf, image: Image) -> Self {
        let (metrics, tasks) = (Metrics::register(&mut prometheus_client::registry::Registry::default()), TaskTracker::new());
        let mut config = Config { data_dir: dir.path().to_owned(), ..Config::default() };
        config.upstream = mk_plain(&server);
        // Nothing here stalls but a busy machine.
        config.upstream.stall_timeout = Duration::from_secs(30);
        let cache =
            Cache::new(&config, store.clone(), Upstream::new(config.upstream.clone(), Arc::new(())).unwrap(), Arc::clone(&metrics), &tasks);
        let app = repo(&server.registry, "app");
        Self { dir, shelf, server, store, cache, metrics, tasks, app, image }
    }

    /// The same directory, opened anew and not walked yet.
    async fn reopened(self) -> Self {
        self.rest().await;
        let Self { dir, shelf, server, store, cache, image, .. } = self;
        drop((store, cache));
        let store = Store::open(dir.path()).unwrap();
        Self::with(dir, store, server, shelf, image)
    }

    /// The registry has nothing any more.
    fn forget(&self) {
        self.shelf.lock().unwrap().clear();
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Waits until nothing goes on behind the answers.
    async fn rest(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }

    async fn manifest(&self, target: Target, bytes: &Bytes) -> Origin {
        let answer = self.cache.manifest(&Requester::Anyone, &self.app, &target).await.unwrap();
        assert_eq!(answer.bytes, bytes);
        answer.origin
    }

    async fn blob(&self, bytes: &Bytes) -> Origin {
        let answer = self.cache.blob(&Requester::Anyone, &self.app, &digest(bytes)).await.unwrap();
        let origin = answer.origin;
        let mut stream = Box::pin(answer.content.stream(None, Arc::clone(&self.metrics)));
        let mut got = Vec::new();
        while let Some(chunk) = stream.next().await {
            got.extend_from_slice(&chunk.unwrap());
        }
        assert!(got == *bytes, "{} of {} bytes, or wrong ones", got.len(), bytes.len());
        origin
    }

    /// Pulls everything as containerd does, one after the other, and compares every byte.
    async fn pull(&self) {
        self.manifest("1".parse().unwrap(), &self.image.index).await;
        self.rest().await;
        for bytes in &self.image.manifests {
            self.manifest(Target::Digest(digest(bytes)), bytes).await;
            self.rest().await;
        }
        for bytes in &self.image.blobs {
            self.blob(bytes).await;
            self.rest().await;
        }
    }
}
