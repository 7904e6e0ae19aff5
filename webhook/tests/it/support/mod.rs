//! What the tests stand on.

pub(crate) mod kubernetes;
pub(crate) mod pki;
pub(crate) mod program;
pub(crate) mod scene;

use std::sync::Once;

/// Chooses ring as the process's TLS provider.
pub(crate) fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        rustls::crypto::ring::default_provider().install_default().expect("nothing else must choose a TLS provider");
    });
}
