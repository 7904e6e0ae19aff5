//! Certificates as PEM: making them, reading them, checking that they fit together. Pure, but for the randomness of new keys.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    date_time_ymd,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;

/// How far before their making certificates begin to be valid: other machines' clocks may be behind.
pub(super) const CLOCK_SKEW_SECONDS: u64 = 3600;

/// No certificate lives longer than a hundred years.
const LIFETIME_SECONDS_MAX: u64 = 100 * 365 * 86_400;

/// A certificate and its key, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Pair {
    /// The certificate, perhaps with the chain that it hangs on.
    pub(super) certificate: String,
    /// The private key.
    pub(super) key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// Why a certificate cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub(super) enum X509Error {
    /// Making one failed.
    #[error("a certificate cannot be made")]
    Make(#[from] rcgen::Error),
    /// The PEM has no certificate or no key.
    #[error("the PEM has no {0}")]
    Pem(&'static str),
    /// The certificate cannot be read.
    #[error("the certificate cannot be read")]
    Read,
    /// The key is of a kind that cannot be used, or belongs to another certificate.
    #[error("certificate and key do not belong together, or cannot be used")]
    Key(#[source] rustls::Error),
}

/// When a certificate is valid, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    /// When it was made, if we made it: see [`CLOCK_SKEW_SECONDS`].
    pub(super) made_at: u64,
    pub(super) not_before: u64,
    pub(super) not_after: u64,
}

impl Validity {
    pub(super) fn contains(&self, now: u64) -> bool {
        (self.not_before..self.not_after).contains(&now)
    }

    /// When two thirds of its life, or of the life that it should have, are over.
    pub(super) fn renew_at(&self, lifetime: Duration) -> u64 {
        let life = self.not_after.saturating_sub(self.made_at).min(lifetime.as_secs());
        self.made_at + life * 2 / 3
    }
}

/// A new authority.
pub(super) fn make_authority(now: u64, lifetime: Duration) -> Result<Pair, X509Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    // The time tells authorities apart that live side by side.
    params.distinguished_name.push(DnType::CommonName, format!("kube-image-keeper authority {now}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    set_validity(&mut params, now, now + lifetime.as_secs().min(LIFETIME_SECONDS_MAX));
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// A new serving certificate for `hosts`. It does not outlive its authority.
pub(super) fn make_serving(authority: &Pair, now: u64, lifetime: Duration, hosts: &[String]) -> Result<Pair, X509Error> {
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, KeyPair::from_pem(&authority.key)?)?;
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name.push(DnType::CommonName, "kube-image-keeper webhook");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let end = now + lifetime.as_secs().min(LIFETIME_SECONDS_MAX);
    set_validity(&mut params, now, end.min(validity(&authority.certificate)?.not_after));
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn set_validity(params: &mut CertificateParams, now: u64, end: u64) {
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(now.saturating_sub(CLOCK_SKEW_SECONDS));
    params.not_after = epoch + Duration::from_secs(end);
}

/// When the first certificate of a PEM is valid.
pub(super) fn validity(pem: &str) -> Result<Validity, X509Error> {
    let der = first_certificate(pem)?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).map_err(|_| X509Error::Read)?;
    let at = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
    let (not_before, not_after) = (at(certificate.validity().not_before), at(certificate.validity().not_after));
    Ok(Validity { made_at: not_before + CLOCK_SKEW_SECONDS, not_before, not_after })
}

/// The validity of an authority that can sign; `None` if it cannot.
pub(super) fn usable_authority(pair: &Pair) -> Option<Validity> {
    let der = first_certificate(&pair.certificate).ok()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
    let key = KeyPair::from_pem(&pair.key).ok()?;
    let fits = certificate.is_ca() && certificate.public_key().raw == key.subject_public_key_info();
    if fits { validity(&pair.certificate).ok() } else { None }
}

/// Whether a client that trusts `authority` takes the certificate at `now` for each of the hosts.
pub(super) fn is_served_by(pair: &Pair, authority: &str, hosts: &[String], now: u64) -> bool {
    let Some(provider) = CryptoProvider::get_default().cloned() else {
        return false;
    };
    let verified = || {
        certified_key(pair).ok()?;
        let mut roots = RootCertStore::empty();
        roots.add(first_certificate(authority).ok()?).ok()?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().ok()?;
        let der = first_certificate(&pair.certificate).ok()?;
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        for host in hosts {
            let name = ServerName::try_from(host.clone()).ok()?;
            verifier.verify_server_cert(&der, &[], &name, &[], now).ok()?;
        }
        Some(())
    };
    verified().is_some()
}

/// What rustls serves with.
pub(super) fn certified_key(pair: &Pair) -> Result<CertifiedKey, X509Error> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).collect::<Result<_, _>>().unwrap_or_default();
    if chain.is_empty() {
        return Err(X509Error::Pem("certificate"));
    }
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(|_| X509Error::Pem("private key"))?;
    let provider = CryptoProvider::get_default().expect("the crypto provider must be installed first in main");
    CertifiedKey::from_der(chain, key, provider).map_err(X509Error::Key)
}

fn first_certificate(pem: &str) -> Result<CertificateDer<'static>, X509Error> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| X509Error::Pem("certificate"))
}
