//! What certificates promise. The state machine runs on a clock of numbers; the rest on a fake API server and on loopback.

mod api;
mod plan;
mod secret;
mod serving;

use std::sync::Once;

/// The provider that `main` would have installed.
fn provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Another test module may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

fn mk_names() -> crate::naming::Names {
    crate::naming::Names {
        fullname: "kuik".to_owned(),
        release: "kuik".to_owned(),
        namespace: "kuik-system".to_owned(),
        pod_name: "kuik-webhook-0".to_owned(),
        pod_ip: "10.0.0.1".to_owned(),
        agent_service_account: "kuik-agent".to_owned(),
    }
}
