//! TLS: whom we trust, and that nothing leads away from it.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::support::*;
use crate::config::{RegistryConfig, UpstreamConfig};
use crate::upstream::{Upstream, UpstreamSetupError};

/// A certificate for loopback, and the file that makes it trusted.
struct Certificate {
    server: rustls::ServerConfig,
    ca: PathBuf,
    _dir: tempfile::TempDir,
}

fn mk_certificate() -> Certificate {
    mk_config();
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, cert.pem()).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let server = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap();
    Certificate { server, ca, _dir: dir }
}

fn mk_tls(server: &Server, settings: RegistryConfig) -> UpstreamConfig {
    let mut config = mk_config();
    config.registries.insert(server.registry.clone(), settings);
    config
}

fn trusting(certificate: &Certificate) -> RegistryConfig {
    RegistryConfig { ca: Some(certificate.ca.clone()), ..RegistryConfig::default() }
}

#[tokio::test]
async fn only_who_is_trusted_is_talked_to() {
    let certificate = mk_certificate();
    let server = Server::https(certificate.server.clone(), |_| Reply::ok("m")).await;
    let repository = repo(&server.registry, "a");
    let ask = async |settings| mk_upstream(mk_tls(&server, settings)).get_manifest(&repository, &tag("t")).await;
    let error = ask(RegistryConfig::default()).await.unwrap_err();
    assert_eq!((error.reason(), server.count()), ("unreachable", 0));
    assert!(error.to_string().contains("certificate"), "{error}");
    assert_eq!(ask(trusting(&certificate)).await.unwrap().bytes, "m");
    assert_eq!(ask(RegistryConfig { insecure_skip_verify: true, ..RegistryConfig::default() }).await.unwrap().bytes, "m");
}

#[tokio::test]
async fn http2_is_spoken_where_it_is_offered() {
    let mut certificate = mk_certificate();
    certificate.server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let blob = vec![7_u8; 300_000];
    let body = blob.clone();
    let server = Server::https(certificate.server.clone(), move |_| Reply::ok(body.clone())).await;
    let upstream = mk_upstream(mk_tls(&server, trusting(&certificate)));
    let stream = upstream.get_blob(&repo(&server.registry, "a"), &digest(&blob), 0, &[]).await.unwrap();
    assert_eq!(stream.size, Some(300_000));
    assert_eq!(read(stream).await.unwrap(), blob);
    assert_eq!(server.last().version, http::Version::HTTP_2);
}

#[tokio::test]
async fn a_mirror_is_trusted_by_its_own_settings_too() {
    let certificate = mk_certificate();
    let server = Server::https(certificate.server.clone(), |_| Reply::ok("m")).await;
    let mut config = mk_tls(&server, trusting(&certificate));
    let settings = RegistryConfig { endpoints: vec![mk_endpoint(&server.registry)], ..RegistryConfig::default() };
    config.registries.insert(mirrored().registry, settings);
    assert_eq!(mk_upstream(config).get_manifest(&mirrored(), &tag("t")).await.unwrap().bytes, "m");
}

#[tokio::test]
async fn nothing_leads_from_https_to_http() {
    let certificate = mk_certificate();
    let plain = Server::http(|_| Reply::ok(r#"{"token":"t"}"#)).await;
    let (realm, target) = (format!("Bearer realm=\"http://{}/t\"", plain.host()), format!("http://{}/m", plain.host()));
    let server = Server::https(certificate.server.clone(), move |seen| match seen.path.as_str() {
        "/v2/a/manifests/challenged" => Reply::status(401).header("www-authenticate", &realm),
        _ => Reply::status(302).header("location", &target),
    })
    .await;
    for (name, why) in [("challenged", "names a token service without"), ("redirected", "a redirect from https to http")] {
        let upstream = mk_upstream(mk_tls(&server, trusting(&certificate)));
        let error = upstream.get_manifest(&repo(&server.registry, "a"), &tag(name)).await.unwrap_err();
        assert!(error.reason() == "protocol" && error.to_string().ends_with(why), "{error}");
    }
    assert_eq!(plain.count(), 0);
}

#[tokio::test]
async fn a_server_without_tls_is_told_so() {
    let server = Server::http(|_| Reply::ok("m")).await;
    let error = mk_upstream(mk_config()).get_manifest(&repo(&server.registry, "a"), &tag("t")).await.unwrap_err();
    assert_eq!(error.reason(), "unreachable");
    assert!(error.to_string().contains("plainHttp"), "{error}");
}

#[test]
fn a_bad_ca_file_is_named_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let check = |name: &str, content: Option<&str>, want: &str| {
        let path = dir.path().join(name);
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let mut config = mk_config();
        let settings = RegistryConfig { ca: Some(path.clone()), ..RegistryConfig::default() };
        config.registries.insert("a.b".parse().unwrap(), settings);
        let error: UpstreamSetupError = Upstream::new(config, Arc::new(())).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()) && error.to_string().contains(want), "{error}");
    };
    check("absent.pem", None, "cannot read the CA file");
    check("empty.pem", Some(""), "no certificate");
    check("text.pem", Some("hello"), "no certificate");
    check("broken.pem", Some("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"), "expected PEM");
    check("garbage.pem", Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "expected PEM");
}
