//! What the tests stand on.

pub(crate) mod agent;
pub(crate) mod client;
pub(crate) mod control;
pub(crate) mod images;
pub(crate) mod inside;
pub(crate) mod pki;
pub(crate) mod raw;
pub(crate) mod registry;
pub(crate) mod scene;
pub(crate) mod wait;

use std::sync::{Once, OnceLock};

use tokio::runtime::Runtime;

/// Chooses ring as the process's TLS provider.
pub(crate) fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        rustls::crypto::ring::default_provider().install_default().expect("nothing else must choose a TLS provider");
    });
}

/// Where upstreams run, so that they go on while a test blocks, and end in order when it panics.
pub(crate) fn background() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("upstream")
            .enable_all()
            .build()
            .expect("a runtime must start")
    })
}
