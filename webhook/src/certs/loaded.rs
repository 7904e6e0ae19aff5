//! The certificate that this replica serves with, and the bundle that it trusts.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use prometheus_client::registry::Registry;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

use super::metrics::Metrics;
use super::x509::{self, Pair, X509Error};

/// What is loaded now. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Certificates {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    served: watch::Sender<Option<Served>>,
    bundle: watch::Sender<Option<Bytes>>,
    metrics: Metrics,
}

#[derive(Debug)]
struct Served {
    pair: Pair,
    key: Arc<CertifiedKey>,
}

impl Certificates {
    pub(super) fn new() -> Self {
        let inner = Inner { served: watch::channel(None).0, bundle: watch::channel(None).0, metrics: Metrics::default() };
        Self { inner: Arc::new(inner) }
    }

    /// Registers the metrics of certificates.
    pub fn register(&self, registry: &mut Registry) {
        self.inner.metrics.register(registry);
    }

    /// Serves with the newest certificate; before there is one, handshakes fail.
    ///
    /// # Panics
    /// When no crypto provider has been installed.
    #[must_use]
    pub fn server_config(&self) -> Arc<ServerConfig> {
        let provider = CryptoProvider::get_default().expect("the crypto provider must be installed first in main");
        let versions = ServerConfig::builder_with_provider(Arc::clone(provider)).with_safe_default_protocol_versions();
        let builder = versions.expect("the provider must support TLS 1.2 and 1.3").with_no_client_auth();
        let mut config = builder.with_cert_resolver(Arc::new(Resolver(self.clone())));
        // The API server would ask for nothing else: HTTP/2 would send all of its reviews to one replica.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// Resolves when there is a certificate to serve with.
    pub fn ready(&self) -> impl Future<Output = ()> + Send + 'static {
        let this = self.clone();
        async move {
            let mut served = this.inner.served.subscribe();
            // Cannot fail: `this` holds the sender.
            let _ = served.wait_for(Option::is_some).await;
        }
    }

    /// The authorities that the certificates of all replicas are signed by, as PEM.
    #[must_use]
    pub fn ca_bundle(&self) -> watch::Receiver<Option<Bytes>> {
        self.inner.bundle.subscribe()
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Takes a certificate and the authorities. What cannot be used changes nothing. `true` if this is another certificate.
    pub(super) fn load(&self, pair: &Pair, bundle: &str) -> Result<bool, X509Error> {
        if !bundle.is_empty() {
            self.inner.bundle.send_if_modified(|current| {
                let differs = current.as_deref() != Some(bundle.as_bytes());
                if differs {
                    *current = Some(Bytes::copy_from_slice(bundle.as_bytes()));
                }
                differs
            });
        }
        if self.inner.served.borrow().as_ref().is_some_and(|served| served.pair == *pair) {
            return Ok(false);
        }
        let key = Arc::new(x509::certified_key(pair)?);
        let expires_at = x509::validity(&pair.certificate)?.not_after;
        self.inner.served.send_replace(Some(Served { pair: pair.clone(), key }));
        self.inner.metrics.loaded(expires_at);
        tracing::info!(expires_at, "serving with another certificate");
        Ok(true)
    }
}

#[derive(Debug)]
struct Resolver(Certificates);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.inner.served.borrow().as_ref().map(|served| Arc::clone(&served.key))
    }
}
