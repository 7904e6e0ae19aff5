//! The agent's parts without its process, at a pace that tests can wait for.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kuik_agent::access::Access;
use kuik_agent::cache::{Cache, Platforms};
use kuik_agent::config::{Amount, Config, ControlConfig, HostPort, RegistryConfig};
use kuik_agent::control::{Backoff, Control, Pace};
use kuik_agent::disk::Disk;
use kuik_agent::metrics::Metrics;
use kuik_agent::oci::Image;
use kuik_agent::store::Store;
use kuik_agent::upstream::Upstream;
use tempfile::TempDir;
use tokio_util::task::TaskTracker;

use super::control::{FakeControl, NAME};
use super::registry::FakeRegistry;

/// A hundred times the usual pace.
pub(crate) fn quick() -> Pace {
    let ms = Duration::from_millis;
    Pace {
        poll_min: ms(10),
        trust_every: ms(20),
        reconnect: Backoff { first: ms(20), longest: ms(300) },
        report_interval: ms(200),
        report_jitter: ms(50),
        settle: ms(10),
        settle_max: ms(50),
        heartbeat: ms(1500),
        full_every: Duration::from_secs(3600),
        retry: Backoff { first: ms(100), longest: ms(1000) },
        look_min: ms(20),
        look_max: ms(500),
    }
}

/// Store, cache, disk, rights and control.
pub(crate) struct Inside {
    home: TempDir,
    pub(crate) store: Store,
    pub(crate) cache: Cache,
    pub(crate) disk: Disk,
    /// Works as long as it is there.
    _control: Control,
}

impl Inside {
    pub(crate) async fn start(upstream: &FakeRegistry, control: &FakeControl, pace: Pace) -> Self {
        super::install_crypto();
        let home = tempfile::tempdir().unwrap();
        let mut config = Config { data_dir: home.path().join("data"), ..Config::default() };
        let plain = RegistryConfig { plain_http: true, ..RegistryConfig::default() };
        config.upstream.registries.insert(upstream.host().parse().unwrap(), plain);
        config.upstream.connect_timeout = Duration::from_secs(5);
        config.upstream.stall_timeout = Duration::from_secs(5);
        // How full the machine's disk is must not decide what is cached.
        config.cache.min_free = Amount::Bytes(16 << 20);
        let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
        let store = Store::open(&config.data_dir).unwrap();
        store.settle().await.unwrap();
        let asking = Upstream::new(config.upstream.clone(), Arc::clone(&metrics) as _).unwrap();
        let cache = Cache::new(&config, store.clone(), asking, Arc::clone(&metrics), &TaskTracker::new());
        let reach = ControlConfig {
            url: format!("https://{NAME}:9443").parse().unwrap(),
            address: Some(HostPort { host: "127.0.0.1".to_owned(), port: control.port() }),
            unexpanded: None,
            ca: control.ca_file(),
            token: control.token_file(),
        };
        let disk = Disk::new(config.cache, &store, &cache, &metrics).await;
        let access = Access::new(config.auth, &store, &cache, &metrics).await;
        let control = Control::start(reach, Some("node"), (&cache, &store, &disk, &access, &metrics), pace).await;
        Self { home, store, cache, disk, _control: control }
    }

    /// Takes an image as a client does.
    pub(crate) async fn pull(&self, image: &str) {
        self.cache.fetch(&image.parse().unwrap(), &Platforms::All).await.unwrap();
    }

    pub(crate) async fn holds(&self, image: &str) -> bool {
        self.cache.is_whole(&image.parse::<Image>().unwrap(), &Platforms::All).await
    }

    /// What would become of an image if room had to be made, and why.
    pub(crate) async fn fate(&self, image: &str) -> Option<(&'static str, &'static str)> {
        let report = self.disk.collect(true).await;
        report.images.into_iter().find(|found| found.reference == image).map(|found| (found.action, found.reason))
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.home.path().join("data")
    }
}
