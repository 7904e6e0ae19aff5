//! The credentials file, helpers, and that no secret is ever shown.

use std::io::Write;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::support::*;
use crate::config::UpstreamConfig;
use crate::oci::Registry;
use crate::upstream::Upstream;
use crate::upstream::credentials::{Candidates, Credentials, Secret};

struct File {
    dir: tempfile::TempDir,
}

impl File {
    fn new(content: &Value) -> Self {
        let file = Self { dir: tempfile::tempdir().unwrap() };
        file.write(&content.to_string());
        file
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("config.json")
    }

    /// Replaces the file, as Kubernetes does.
    fn write(&self, content: &str) {
        let new = self.dir.path().join("new");
        std::fs::write(&new, content).unwrap();
        std::fs::rename(new, self.path()).unwrap();
    }

    /// A program `docker-credential-<name>`, which writes a line into `<name>.log` at every run.
    fn helper(&self, name: &str, script: &str) {
        let path = self.dir.path().join(format!("docker-credential-{name}"));
        let log = self.dir.path().join(format!("{name}.log"));
        std::fs::write(&path, format!("#!/bin/sh\nread server; echo \"$1 $server\" >>{}\n{script}\n", log.display())).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn log(&self, name: &str) -> String {
        read(&self.dir.path().join(format!("{name}.log")))
    }

    /// Helpers are looked for beside the file, and then where they always are.
    fn credentials(&self) -> Credentials {
        let path = format!("{}:{}", self.dir.path().display(), std::env::var("PATH").unwrap());
        Credentials::with_path(Some(self.path()), Some(path.into())).unwrap()
    }
}

fn show(candidates: &Candidates) -> Vec<String> {
    let text = |secret: &Secret| match secret {
        Secret::Anonymous => "anonymous".to_owned(),
        Secret::Basic { user, password } => format!("{user}:{}", password.expose_secret()),
        Secret::Identity(token) => format!("identity {}", token.expose_secret()),
    };
    candidates.credentials.iter().map(|credential| text(credential.secret())).collect()
}

async fn candidates(credentials: &Credentials, image: &str) -> Candidates {
    let (registry, name) = image.split_once('/').unwrap();
    let repository = repo(&registry.parse().unwrap(), name);
    credentials.candidates(&repository.registry, &repository.name).await
}

async fn found(credentials: &Credentials, image: &str) -> Vec<String> {
    show(&candidates(credentials, image).await)
}

#[tokio::test]
async fn keys_match_hosts_and_paths() {
    let entry = |user: &str| json!({ "username": user, "password": "p" });
    let file = File::new(&json!({ "auths": {
        "https://index.docker.io/v1/": entry("hub"),
        "docker.io/me": entry("hub-me"),
        "a.b": entry("ab"),
        "https://a.b/v2/": entry("ab-url"),
        "http://A.B/team/": entry("ab-team"),
        "a.b/team/app": entry("ab-team-app"),
        "a.b:5000": entry("ab-5000"),
        "c.d:443": entry("cd"),
        "localhost:5000/v2/x": entry("local"),
        "not a registry": entry("never"),
        "e.f": {},
        "g.h": entry("twice"),
        "https://g.h": entry("twice"),
    }}));
    let credentials = file.credentials();
    let check = async |image: &str, want: &[&str]| {
        let users: Vec<_> = found(&credentials, image).await.into_iter().map(|text| text.split(':').next().unwrap().to_owned()).collect();
        assert_eq!(users, want, "{image}");
    };
    check("docker.io/alpine", &["hub"]).await;
    check("index.docker.io/me/x", &["hub-me", "hub"]).await;
    check("docker.io/meme/x", &["hub"]).await;
    check("a.b/x", &["ab", "ab-url"]).await;
    check("a.b/team", &["ab-team", "ab", "ab-url"]).await;
    check("a.b/team/app", &["ab-team-app", "ab-team", "ab", "ab-url"]).await;
    check("a.b/team/app2", &["ab-team", "ab", "ab-url"]).await;
    check("a.b:443/x", &["ab", "ab-url"]).await;
    check("a.b:5000/x", &["ab-5000"]).await;
    check("c.d/x", &["cd"]).await;
    check("localhost:5000/x/y", &["local"]).await;
    check("localhost:5000/y", &[]).await;
    check("e.f/x", &[]).await;
    check("g.h/x", &["twice"]).await;
    check("x.a.b/x", &[]).await;
}

#[tokio::test]
async fn every_form_of_a_login_is_read() {
    let file = File::new(&json!({ "auths": {
        "a.a": { "auth": "dXNlcjpwYTpzcw==" },
        "b.b": { "auth": "dXNlcjpwYTpzcw" },
        "c.c": { "auth": "PHRva2VuPjppZA==" },
        "d.d": { "identitytoken": "id", "auth": "dXNlcjpw" },
        "e.e": { "username": "u", "password": "p", "email": "x" },
        "f.f": { "username": "<token>", "password": "id" },
        "g.g": { "auth": "dTpwAAA=" },
    }, "HttpHeaders": {}, "psFormat": "x" }));
    let credentials = file.credentials();
    for (image, want) in [
        ("a.a/x", "user:pa:ss"),
        ("b.b/x", "user:pa:ss"),
        ("c.c/x", "identity id"),
        ("d.d/x", "identity id"),
        ("e.e/x", "u:p"),
        ("f.f/x", "identity id"),
        ("g.g/x", "u:p"),
    ] {
        assert_eq!(found(&credentials, image).await, [want], "{image}");
    }
}

#[test]
fn a_bad_file_is_named_with_its_key_and_without_its_secrets() {
    let check = |content: &str, want: &str| {
        let file = File::new(&Value::Null);
        file.write(content);
        let config = UpstreamConfig { auth_file: Some(file.path()), ..mk_config() };
        let error = Upstream::new(config, Arc::new(())).unwrap_err().to_string();
        assert_eq!(error, format!("{}: {want}", file.path().display()));
    };
    let login = "expected an object with auth, or username and password";
    check("{", "the file: no JSON at line 1 column 1");
    check("[]x", "the file: a value of another kind than docker's config.json has at line 1 column 2");
    check(r#"{"auths":"hunter2"}"#, "the file: a value of another kind than docker's config.json has at line 1 column 18");
    check(r#"{"auths":{"a.b":"hunter2"}}"#, &format!("auths[\"a.b\"]: {login}"));
    check(r#"{"auths":{"a.b":{"auth":["hunter2"]}}}"#, &format!("auths[\"a.b\"]: {login}"));
    check(r#"{"auths":{"a.b":{"auth":"hunter2!"}}}"#, "auths[\"a.b\"]: auth: expected base64 of user:password");
    check(r#"{"auths":{"a.b":{"auth":"aHVudGVyMg=="}}}"#, "auths[\"a.b\"]: auth: expected base64 of user:password");
    check(r#"{"auths":{"a.b":{"password":"hunter2"}}}"#, "auths[\"a.b\"]: expected both username and password");
    let helper = "expected the name of a helper: letters, digits, '.', '_', '-'";
    check(r#"{"credHelpers":{"a.b":"../x"}}"#, &format!("credHelpers[\"a.b\"]: {helper}"));
    check(r#"{"credsStore":"a b"}"#, &format!("credsStore: {helper}"));
    let absent = UpstreamConfig { auth_file: Some("/no/such/file".into()), ..mk_config() };
    let error = Upstream::new(absent, Arc::new(())).unwrap_err().to_string();
    assert_eq!(error, "cannot read the registry credentials /no/such/file");
}

#[tokio::test]
async fn a_changed_file_is_read_anew_and_a_broken_one_is_not() {
    let login = |user: &str| json!({ "auths": { "a.b": { "username": user, "password": "p" } } }).to_string();
    let file = File::new(&Value::Null);
    file.write(&login("one"));
    let credentials = file.credentials();
    assert_eq!(found(&credentials, "a.b/x").await, ["one:p"]);
    file.write(&login("two"));
    pass(Duration::from_secs(2)).await;
    assert_eq!(found(&credentials, "a.b/x").await, ["two:p"]);
    for broken in ["{", ""] {
        file.write(broken);
        pass(Duration::from_secs(2)).await;
        assert_eq!(found(&credentials, "a.b/x").await, ["two:p"]);
    }
    std::fs::remove_file(file.path()).unwrap();
    pass(Duration::from_secs(2)).await;
    assert_eq!(found(&credentials, "a.b/x").await, ["two:p"]);
    file.write(&login("three"));
    pass(Duration::from_secs(2)).await;
    assert_eq!(found(&credentials, "a.b/x").await, ["three:p"]);
}

#[tokio::test]
async fn helpers_are_asked_by_the_protocol_and_remembered() {
    let file = File::new(&json!({
        "auths": { "a.b": { "username": "file", "password": "p" }, "c.d": {} },
        "credHelpers": { "https://a.b/v1/": "one" },
        "credsStore": "two",
    }));
    file.helper("one", r#"echo '{"ServerURL":"x","Username":"u","Secret":"s"}'"#);
    file.helper("two", r#"case "$server" in c.d) echo '{"Username":"<token>","Secret":"id"}';; *) echo "credentials not found in native keychain"; exit 1;; esac"#);
    let credentials = file.credentials();
    for _ in 0..2 {
        assert_eq!(found(&credentials, "a.b/x").await, ["u:s", "file:p"]);
        assert_eq!(found(&credentials, "c.d/x").await, ["identity id"]);
        let none = candidates(&credentials, "docker.io/x").await;
        assert_eq!((none.credentials.len(), none.problem), (0, None));
    }
    assert_eq!(file.log("one"), "get https://a.b/v1/\n");
    assert_eq!(file.log("two"), "get a.b\nget c.d\nget https://index.docker.io/v1/\n");
    pass(Duration::from_secs(301)).await;
    assert_eq!(found(&credentials, "a.b/x").await, ["u:s", "file:p"]);
    assert_eq!(file.log("one").lines().count(), 2, "an answer is good for five minutes");
    file.write(&json!({ "credHelpers": { "https://a.b/v1/": "one" } }).to_string());
    pass(Duration::from_secs(2)).await;
    assert_eq!(found(&credentials, "a.b/x").await, ["u:s"]);
    assert_eq!(file.log("one").lines().count(), 3, "a changed file asks anew");
}

#[tokio::test]
async fn a_helper_runs_once_for_all_who_wait() {
    let file = File::new(&json!({ "credHelpers": { "a.b": "slow" } }));
    file.helper("slow", r#"sleep 0.2; echo '{"Username":"u","Secret":"s"}'"#);
    let credentials = file.credentials();
    let all = futures_util::future::join_all((0..8).map(|_| found(&credentials, "a.b/x"))).await;
    assert!(all.iter().all(|found| found == &["u:s"]));
    assert_eq!(file.log("slow").lines().count(), 1);
}

/// What a file holds; nothing if it is not there.
fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Waits for what must come to pass.
async fn until(is_so: impl Fn() -> bool) {
    for _ in 0..500 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not come to pass");
}

#[tokio::test]
async fn a_helper_that_fails_leaves_the_others_and_says_why() {
    let helpers = json!({ "a.a": "absent", "b.b": "fails", "c.c": "babbles", "d.d": "hangs", "e.e": "floods" });
    let logins = json!({ "a.a": { "username": "file", "password": "p" } });
    let file = File::new(&json!({ "credHelpers": helpers, "auths": logins }));
    let pid_file = file.dir.path().join("pid");
    file.helper("fails", "echo hunter2; exit 3");
    file.helper("babbles", "echo hunter2");
    file.helper("floods", "exec yes");
    file.helper("hangs", &format!("echo $$ >{}; exec sleep 1000", pid_file.display()));
    let credentials = file.credentials();
    let problem = async |image: &str| candidates(&credentials, image).await.problem.unwrap();
    assert!(problem("a.a/x").await.starts_with("docker-credential-absent: it cannot be started: "));
    assert_eq!(found(&credentials, "a.a/x").await, ["file:p"]);
    assert_eq!(problem("b.b/x").await, "docker-credential-fails: it ended with exit status: 3");
    assert_eq!(problem("c.c/x").await, "docker-credential-babbles: its answer is not the JSON of the protocol");
    assert_eq!(problem("e.e/x").await, "docker-credential-floods: it ended with signal: 13 (SIGPIPE)");
    let hanging = async {
        until(|| !read(&pid_file).is_empty()).await;
        pass(Duration::from_secs(10)).await;
    };
    let (problem, ()) = tokio::join!(problem("d.d/x"), hanging);
    assert_eq!(problem, "docker-credential-hangs: no answer within 10 s");
    let process = Path::new("/proc").join(read(&pid_file).trim()).join("status");
    until(|| matches!(read(&process).as_str(), status if status.is_empty() || status.contains("Z (zombie)"))).await;
}

#[tokio::test]
async fn without_its_helper_a_registry_is_asked_anonymously() {
    let public = Server::http(|_| Reply::ok("m")).await;
    let private = Server::http(|_| Reply::status(401).header("www-authenticate", "Basic")).await;
    for (server, want) in [(&public, None), (&private, Some("credentials"))] {
        let file = File::new(&json!({ "credHelpers": { server.host(): "kuik-test-absent" } }));
        let upstream = mk_upstream(UpstreamConfig { auth_file: Some(file.path()), ..mk_plain(server) });
        let result = upstream.get_manifest(&repo(&server.registry, "a"), &tag("t")).await;
        assert_eq!(result.as_ref().err().map(|error| error.reason()), want);
        if let Err(error) = result {
            assert!(error.to_string().contains("docker-credential-kuik-test-absent"), "{error}");
        }
    }
}

/// A credential is for the host that is asked, not for the registry that it is asked about.
#[tokio::test]
async fn a_mirror_gets_its_own_credentials_only() {
    let server = Server::http(|seen| match seen.authorization() {
        "" => Reply::status(401).header("www-authenticate", "Basic"),
        _ => Reply::ok("m"),
    })
    .await;
    let login = |host: String| File::new(&json!({ "auths": { host: { "username": "u", "password": "p" } } }));
    for (host, works) in [("registry.test".to_owned(), false), (server.host(), true)] {
        let file = login(host);
        let upstream = mk_upstream(UpstreamConfig { auth_file: Some(file.path()), ..mk_mirrors(&[&server.registry]) });
        assert_eq!(upstream.get_manifest(&mirrored(), &tag("t")).await.is_ok(), works);
    }
}

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn mk_log() -> (Log, tracing::subscriber::DefaultGuard) {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone()).finish();
    (log, tracing::subscriber::set_default(subscriber))
}

#[tokio::test]
async fn no_secret_is_ever_shown() {
    let (log, _guard) = mk_log();
    let cdn = Server::http(|_| Reply::status(200).header("content-length", "9").then(Piece::Break)).await;
    let tokens = Server::http(|_| Reply::ok(r#"{"token":"hunter2-token"}"#)).await;
    let realm = format!("Bearer realm=\"http://{}/t\"", tokens.host());
    let target = format!("http://{}/b?sig=hunter2-signature", cdn.host());
    let server = Server::http(move |seen| match (seen.authorization(), seen.path.contains("blobs")) {
        ("", _) => Reply::status(401).header("www-authenticate", &realm),
        (_, true) => Reply::status(307).header("location", &target),
        _ => Reply::status(500),
    })
    .await;
    let elsewhere: Registry = nobody().await;
    for login in [json!({ "username": "u", "password": "hunter2-password" }), json!({ "identitytoken": "hunter2-identity" })] {
        let file = File::new(&json!({ "auths": { server.host(): login } }));
        let config = UpstreamConfig { auth_file: Some(file.path()), ..mk_mirrors(&[&server.registry, &elsewhere]) };
        let upstream = mk_upstream(config);
        let mut shown = format!("{:?}", upstream.get_manifest(&mirrored(), &tag("t")).await.unwrap_err());
        let blob = upstream.get_blob(&mirrored(), &digest(b""), 0, &[]).await.unwrap();
        shown += &format!("{blob:?} {:?} {upstream:?}", blob.endpoint);
        let error = super::support::read(blob).await.unwrap_err();
        shown += &format!("{error:?} {error}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("upstream answered") && log.contains("asking the next endpoint"), "{log}");
    assert!(!log.contains("hunter2"), "{log}");
    assert!(server.seen().iter().any(|seen| seen.authorization() == "Bearer hunter2-token"));
}
