//! The usual set-up: one upstream with one image, one agent before it.

use std::future::Future;
use std::pin::Pin;

use serde_json::Value;

use super::agent::{Builder, TestAgent};
use super::client::Got;
use super::images::{self, Blob, Image};
use super::registry::{FakeRegistry, LocalPath, On};
use super::wait::until_some;

/// An upstream that holds `image` as `app:1`, and an agent that has seen nothing yet.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) upstream: FakeRegistry,
    pub(crate) agent: TestAgent,
    pub(crate) image: Image,
    pub(crate) app: LocalPath,
}

impl Scene {
    /// A simple image with layers of these sizes; an agent with default settings.
    pub(crate) async fn new(layer_sizes: &[usize]) -> Self {
        Self::with(images::simple(1, layer_sizes), TestAgent::builder()).await
    }

    /// The same with this configuration file.
    pub(crate) async fn configured(layer_sizes: &[usize], config: Value) -> Self {
        Self::with(images::simple(1, layer_sizes), TestAgent::builder().config(config)).await
    }

    pub(crate) async fn with(image: Image, agent: Builder) -> Self {
        let upstream = FakeRegistry::start();
        image.push(&upstream, "app", "1");
        let agent = agent.plain_http(&upstream).start().await;
        let app = upstream.repository("app");
        Self { upstream, agent, image, app }
    }

    pub(crate) fn layer(&self) -> &Blob {
        self.image.layer()
    }

    /// The layer's path at the agent.
    pub(crate) fn layer_path(&self) -> String {
        self.app.blob(&self.layer().digest)
    }

    /// The layer upstream.
    pub(crate) fn on_layer(&self) -> On {
        On::blob(&self.layer().digest)
    }

    /// Gets the manifest by its tag, as every pull begins.
    pub(crate) async fn manifest(&self) -> Got {
        self.agent.get(&self.app.manifest("1")).await.expect(200).expect_bytes(&self.image.bytes)
    }

    /// Gets the whole layer.
    pub(crate) async fn get_layer(&self) -> Got {
        self.agent.get(&self.layer_path()).await.expect(200).expect_bytes(&self.layer().bytes)
    }

    /// Waits until upstream is asked about `app:1` again: a tag just fetched is answered from memory until it is stored.
    pub(crate) async fn settled(&self) {
        until_some("the tag is stored", async || {
            self.upstream.forget();
            self.manifest().await;
            (self.upstream.count(&On::manifest("app", "1").head()) > 0).then_some(())
        })
        .await;
        self.upstream.forget();
    }

    /// Pulls `app:1` as containerd does; see [`pull`].
    pub(crate) async fn pull(&self) {
        pull(&self.agent, &self.app, "1", &self.image).await;
    }
}

/// Pulls as containerd does: HEAD by tag, GET by digest, then everything below it. Every byte is compared.
pub(crate) async fn pull(agent: &TestAgent, repository: &LocalPath, tag: &str, image: &Image) {
    let head = agent.head(&repository.manifest(tag)).await.expect(200);
    assert_eq!(head.header("docker-content-digest"), Some(image.digest.to_string().as_str()));
    pull_by_digest(agent, repository, image).await;
}

/// Gets a manifest by digest, and everything below it.
pub(crate) fn pull_by_digest<'a>(
    agent: &'a TestAgent,
    repository: &'a LocalPath,
    image: &'a Image,
) -> Pin<Box<dyn Future<Output = ()> + 'a>> {
    Box::pin(async move {
        let got = agent.get(&repository.manifest(image.digest)).await.expect(200).expect_bytes(&image.bytes);
        assert_eq!(got.header("content-type"), Some(image.media_type));
        for child in &image.children {
            pull_by_digest(agent, repository, child).await;
        }
        for blob in &image.blobs {
            agent.get(&repository.blob(&blob.digest)).await.expect(200).expect_bytes(&blob.bytes);
        }
    })
}
