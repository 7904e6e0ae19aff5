//! Who is who in the cluster: an authority, the API server's certificate, the key of service accounts, and one administrator.

use std::fs;

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::json;

use super::layout::{HUB, Layout};

/// The first address of the Services: the API server as pods see it.
const API_SERVICE: &str = "10.96.0.1";
const TOKEN: &str = "cluster-administrator";

/// Writes all keys and certificates, and the administrator's kubeconfig.
pub(super) fn create(layout: &Layout) -> Result<()> {
    let write = |name: &str, text: String| fs::write(layout.path("pki").join(name), text).with_context(|| format!("write {name}"));
    let key = KeyPair::generate()?;
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    authority.distinguished_name.push(DnType::CommonName, "kubernetes");
    write("ca.crt", authority.self_signed(&key)?.pem())?;
    write("ca.key", key.serialize_pem())?;
    let authority = Issuer::new(authority, key);

    let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost", "127.0.0.1", API_SERVICE, HUB];
    let key = KeyPair::generate()?;
    let mut server = CertificateParams::new(names.map(str::to_owned))?;
    server.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    write("apiserver.crt", server.signed_by(&key, &authority)?.pem())?;
    write("apiserver.key", key.serialize_pem())?;

    let accounts = KeyPair::generate()?;
    write("accounts.key", accounts.serialize_pem())?;
    write("accounts.pub", accounts.public_key_pem())?;
    write("tokens.csv", format!("{TOKEN},admin,admin,system:masters\n"))?;
    write_kubeconfig(layout)
}

/// JSON is YAML. The authority is named by its file, which all places can read.
fn write_kubeconfig(layout: &Layout) -> Result<()> {
    let ca = layout.path("pki/ca.crt");
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "kuik", "cluster": { "server": format!("https://{HUB}:6443"), "certificate-authority": ca } }],
        "users": [{ "name": "admin", "user": { "token": TOKEN } }],
        "contexts": [{ "name": "kuik", "context": { "cluster": "kuik", "user": "admin" } }],
        "current-context": "kuik",
    });
    fs::write(layout.kubeconfig(), format!("{config:#}\n")).context("write the kubeconfig")
}
