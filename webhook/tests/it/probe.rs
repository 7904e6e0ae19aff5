//! `kuik-webhook probe`: what it asks, what it takes for an answer, and what it says.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};

use axum::Router;
use axum::routing::{get, post};
use http::HeaderMap;
use kuik_webhook::tls_server::{self, Limits};
use tokio_util::sync::CancellationToken;

use crate::support::pki::Ca;
use crate::support::program::{ended, failure, program};

/// A server that says what it was sent.
fn router() -> Router {
    let auth = |headers: HeaderMap| headers.get("authorization").map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
    Router::new()
        .route("/ok", get(|| async { "fine\nthank you\n" }))
        .route("/token", get(move |headers: HeaderMap| async move { auth(headers) }))
        .route("/echo", post(|headers: HeaderMap, body: String| async move { format!("{:?} {body}", headers["content-type"]) }))
}

async fn serve(ca: &Ca) -> SocketAddr {
    let listener = tls_server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let config = ca.server_config(&["name.example"]);
    tokio::spawn(tls_server::serve(listener, router(), config, Limits::default(), CancellationToken::new()));
    address
}

/// Runs the program for so long against `path` of the server, as `name.example`.
async fn probe(timeout: &str, address: SocketAddr, ca: &Path, path: &str, args: &[&str]) -> Output {
    let mut command = program();
    command.args(["probe", "--timeout", timeout, "--url", &format!("https://name.example{path}"), "--address", &address.to_string()]);
    command.arg("--ca").arg(ca).args(args);
    run(command).await
}

async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || ended(&mut command)).await.unwrap()
}

/// Runs the program, which must fail as `expected`.
async fn fails(address: SocketAddr, ca: &Path, path: &str, args: &[&str], expected: impl Fn(&str) -> bool) {
    let said = failure(&probe("5s", address, ca, path, args).await, 1);
    assert!(expected(&said), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_as_it_should_be_is_printed_in_a_line() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), Ca::new());
    let (address, file) = (serve(&ca).await, dir.path().join("ca.crt"));
    std::fs::write(&file, ca.pem()).unwrap();
    let check = async |path: &str, args: &[&str], expected: &str| {
        let output = probe("30s", address, &file, path, args).await;
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    };
    check("/ok", &[], "200 fine\n").await;
    check("/ok", &["--contains=thank you"], "200 fine\n").await;
    let (token, data) = (dir.path().join("token"), dir.path().join("data"));
    std::fs::write(&token, "secret\n").unwrap();
    std::fs::write(&data, "{}").unwrap();
    check("/token", &["--token", token.to_str().unwrap()], "200 Bearer secret\n").await;
    check("/echo", &["--data", data.to_str().unwrap()], "200 \"application/json\" {}\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn anything_else_is_a_failure_in_a_line() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), Ca::new());
    let (address, file, other) = (serve(&ca).await, dir.path().join("ca.crt"), dir.path().join("other.crt"));
    std::fs::write(&file, ca.pem()).unwrap();
    std::fs::write(&other, Ca::new().pem()).unwrap();
    let said = failure(&probe("5s", address, &dir.path().join("none"), "/ok", &[]).await, 1);
    assert!(said.starts_with("--ca: ") && said.contains("cannot be read"), "{said}");
    tokio::join!(
        fails(address, &file, "/nowhere", &[], |said| said.contains("/nowhere: answered 404")),
        fails(address, &file, "/ok", &["--contains=sorry"], |said| said.ends_with("answered 200 without \"sorry\": fine")),
        fails(address, &other, "/ok", &[], |said| said.contains("no answer") && said.contains("certificate")),
    );
}

#[test]
fn a_url_that_is_none_is_a_wrong_command_line() {
    for url in ["name.example", "ftp://name.example/", "https://"] {
        let said = failure(&ended(program().args(["probe", "--url", url])), 64);
        assert!(said.starts_with("--url: not a URL: ") && said.contains("expected"), "{said}");
    }
}
