//! A wrong configuration is one line that names what is wrong and what was expected, and nothing is started.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};

use clap::CommandFactory as _;
use kuik_agent::args::Args;
use serde_json::json;

use crate::support::agent::{TestAgent, ended, program};
use crate::support::registry::{FakeRegistry, On};
use crate::support::scene::pull;
use crate::support::wait::until_some;
use crate::support::{client, images};

/// `serve` on a port that is taken: binding before reading the configuration would fail with another message.
fn serve(dir: &Path, taken: &std::net::TcpListener) -> Command {
    let mut command = program();
    command.args(["serve", "--admin-listen", "127.0.0.1:0", "--listen", &taken.local_addr().unwrap().to_string()]);
    command.args(["--data-dir", dir.join("data").to_str().unwrap()]);
    command
}

/// The one line of a refusal with exit code 64.
#[track_caller]
fn refusal(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{said}");
    assert_eq!(said.trim_end_matches('\n').lines().count(), 1, "{said}");
    assert!(said.starts_with("kuik-agent: "), "{said}");
    assert!(output.stdout.is_empty(), "{output:?}");
    said
}

fn listener() -> std::net::TcpListener {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap()
}

#[test]
fn a_wrong_file_is_refused_with_file_key_and_expectation() {
    let dir = tempfile::tempdir().unwrap();
    let taken = listener();
    let file = dir.path().join("agent.yaml");
    let cases: [(&str, &[&str]); 12] = [
        ("tags: {freshFro: 1s}", &["tags.freshFro", "unknown key", "freshFor"]),
        ("tag: {}", &["tag", "unknown key", "tags"]),
        ("tags: {freshFor: 60}", &["tags.freshFor", "60", "expected", "10s"]),
        ("tags: {freshFor: soon}", &["tags.freshFor", "soon", "expected"]),
        ("tags: {revalidateTimeout: -2s}", &["tags.revalidateTimeout", "expected"]),
        ("upstream: {maxConcurrentFills: 0}", &["upstream.maxConcurrentFills", "expected"]),
        ("upstream: {maxConcurrentFills: many}", &["upstream.maxConcurrentFills", "expected"]),
        ("limits: []", &["limits", "expected"]),
        ("registries: {docker.io: {endpoints: ['ftp://x']}}", &["registries.\"docker.io\".endpoints[0]", "ftp://x", "expected"]),
        ("registries: {docker.io: {ca: /nowhere/ca.pem}}", &["registries.\"docker.io\".ca", "/nowhere/ca.pem"]),
        ("registries: {'not a host': {}}", &["not a host"]),
        ("tags: {freshFor: 1s\nlimits", &["agent.yaml:"]),
    ];
    for (text, parts) in cases {
        std::fs::write(&file, text).unwrap();
        let said = refusal(&ended(serve(dir.path(), &taken).arg("--config").arg(&file)));
        assert!(said.contains(file.to_str().unwrap()), "{text}: {said}");
        for part in parts {
            assert!(said.contains(part), "{text}: no {part} in {said}");
        }
    }
    assert!(!dir.path().join("data").exists(), "nothing may be made before the configuration is right");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let taken = listener();
    let binary = dir.path().join("binary");
    std::fs::write(&binary, [0xff, 0xfe, 0x00]).unwrap();
    for path in [dir.path().join("missing.yaml"), dir.path().to_owned(), binary] {
        for flag in ["--config", "--registry-auth"] {
            let said = refusal(&ended(serve(dir.path(), &taken).arg(flag).arg(&path)));
            assert!(said.contains(path.to_str().unwrap()), "{flag}: {said}");
        }
    }
}

#[test]
fn a_wrong_auth_file_is_refused_without_repeating_its_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let taken = listener();
    let file = dir.path().join("config.json");
    for text in ["{", "[]", r#"{"auths": 5}"#, r#"{"auths": {"a.b": {"auth": "c2VjcmV0"}}}"#, r#"{"auths": {"a.b": {"auth": "se-cr-et"}}}"#]
    {
        std::fs::write(&file, text).unwrap();
        let said = refusal(&ended(serve(dir.path(), &taken).arg("--registry-auth").arg(&file)));
        assert!(said.contains(file.to_str().unwrap()), "{text}: {said}");
        assert!(!said.contains("c2VjcmV0") && !said.contains("se-cr-et") && !said.contains("secret"), "{said}");
    }
}

#[test]
fn a_wrong_flag_is_refused_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let taken = listener();
    let cases: [(&[&str], &str); 9] = [
        (&["--listne", "x"], "--listne"),
        (&["--tag-fresh-for", "60"], "--tag-fresh-for"),
        (&["--drain-timeout", "x"], "--drain-timeout"),
        (&["--admin-listen", "7441"], "--admin-listen"),
        (&["--plain-http", "not a host"], "--plain-http"),
        (&["--log-format", "xml"], "--log-format"),
        (&["--log-level", "loud"], "--log-level"),
        (&["--config"], "--config"),
        (&["surplus"], "surplus"),
    ];
    for (args, name) in cases {
        let mut command = program();
        command.arg("serve");
        if !args.contains(&"--admin-listen") {
            command.args(["--listen", &taken.local_addr().unwrap().to_string()]);
        }
        let said = refusal(&ended(command.args(["--data-dir", dir.path().join("data").to_str().unwrap()]).args(args)));
        assert!(said.contains(name), "{args:?}: {said}");
    }
    refusal(&ended(&mut program()));
    refusal(&ended(program().arg("sevre")));
}

#[test]
fn a_wrong_variable_is_refused_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let taken = listener();
    for (name, value) in [
        ("KUIK_TAG_FRESH_FOR", "60"),
        ("KUIK_DRAIN_TIMEOUT", "x"),
        ("KUIK_PLAIN_HTTP", "not a host"),
        ("KUIK_LOG_FORMAT", "xml"),
        ("KUIK_LOG", "loud"),
        ("KUIK_METRICS_LISTEN", "7442"),
        ("KUIK_CACHE_MAX_SIZE", "much"),
        ("KUIK_CACHE_HIGH_WATERMARK", "2"),
        ("KUIK_CACHE_ORPHAN_GRACE", "60"),
        ("KUIK_CACHE_SCRUB_RATE", "fast"),
        ("KUIK_CONTROL_URL", "http://plain"),
        ("KUIK_CONTROL_ADDRESS", "nowhere"),
    ] {
        let said = refusal(&ended(serve(dir.path(), &taken).env(name, value)));
        assert!(said.contains(name), "{name}: {said}");
    }
    let said = refusal(&ended(serve(dir.path(), &taken).env("KUIK_CONFIG", "/nowhere/agent.yaml")));
    assert!(said.contains("/nowhere/agent.yaml"), "{said}");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let taken = listener();
    let output = ended(&mut serve(dir.path(), &taken));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&taken.local_addr().unwrap().to_string()), "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
}

#[test]
fn help_and_version_are_no_errors() {
    for args in [&["--help"][..], &["serve", "--help"], &["--version"]] {
        let output = ended(program().args(args));
        assert!(output.status.success() && !output.stdout.is_empty() && output.stderr.is_empty(), "{args:?}");
    }
}

/// Flags that are about one call and have no variable.
const WITHOUT_VARIABLE: [&str; 3] = ["all-platforms", "dry-run", "platform"];

#[test]
fn every_flag_of_every_command_has_its_variable_and_both_are_told() {
    let documentation = include_str!("../../../docs/AGENT.md");
    let mut without = BTreeSet::new();
    let mut program_itself = Args::command();
    program_itself.build();
    for command in program_itself.get_subcommands().filter(|command| command.get_name() != "help") {
        let name = command.get_name();
        let help = String::from_utf8(ended(program().args([name, "--help"])).stdout).unwrap();
        for (flag, arg) in command.get_arguments().filter_map(|arg| Some((arg.get_long()?, arg))).filter(|(flag, _)| *flag != "help") {
            assert!(help.contains(&format!("--{flag}")), "{name} --help does not tell --{flag}");
            assert!(documentation.contains(&format!("--{flag}")), "docs/AGENT.md does not tell --{flag}");
            let twin = match flag {
                "log-level" => "KUIK_LOG".to_owned(),
                flag => format!("KUIK_{}", flag.replace('-', "_").to_uppercase()),
            };
            let Some(variable) = arg.get_env() else {
                without.insert(flag.to_owned());
                continue;
            };
            assert_eq!(variable.to_str(), Some(twin.as_str()), "{name} --{flag}");
            assert!(help.contains(&format!("[env: {twin}=")), "{name} --help does not tell {twin}");
            assert!(documentation.contains(&format!("`{twin}`")), "docs/AGENT.md does not tell {twin}");
        }
    }
    assert_eq!(without.iter().map(String::as_str).collect::<Vec<_>>(), WITHOUT_VARIABLE);
}

#[tokio::test]
async fn an_agent_and_its_commands_can_be_told_everything_by_variables() {
    let upstream = FakeRegistry::start();
    let image = images::simple(1, &[1000]);
    image.push(&upstream, "app", "1");
    upstream.require_basic();
    upstream.add_user("bob", "hunter2");
    let dir = tempfile::tempdir().unwrap();
    let auth = dir.path().join("auth.json");
    std::fs::write(&auth, json!({ "auths": { upstream.host(): { "username": "bob", "password": "hunter2" } } }).to_string()).unwrap();
    let mut agent = TestAgent::builder()
        .by_variables()
        .config(json!({ "tags": { "freshFor": "1h" } }))
        .env("KUIK_PLAIN_HTTP", upstream.host())
        .env("KUIK_REGISTRY_AUTH", auth.to_str().unwrap())
        .env("KUIK_TAG_FRESH_FOR", "0s")
        .env("KUIK_METRICS_LISTEN", "127.0.0.1:0")
        .env("KUIK_CACHE_MAX_SIZE", "1Mi")
        .env("KUIK_CACHE_MIN_FREE", "0")
        .env("KUIK_DRAIN_TIMEOUT", "7s")
        .env("KUIK_LOG", "debug")
        .start()
        .await;
    let app = upstream.repository("app");
    pull(&agent, &app, "1", &image).await;
    let reference = format!("{}/app:1", upstream.host());
    let admin = agent.admin_address().to_string();
    // For a moment it is there without its tag.
    until_some("the image is listed by its tag", async || {
        let (mut ls, admin) = (program(), admin.clone());
        let listed = tokio::task::spawn_blocking(move || ended(ls.arg("ls").env("KUIK_ADMIN", admin).env("KUIK_OUTPUT", "json")));
        let listed: serde_json::Value = serde_json::from_slice(&listed.await.unwrap().stdout).unwrap();
        (listed["images"][0]["reference"] == reference.as_str()).then_some(())
    })
    .await;
    upstream.forget();
    agent.get(&app.manifest("1")).await.expect(200);
    assert_eq!(upstream.count(&On::manifest("app", "1").head()), 1, "the variable overrules the file");
    assert!((agent.metric("kuik_agent_cache_budget_bytes", &[]).await - 1_048_576.0).abs() < 0.1);
    agent.terminate();
    assert!(agent.exit().await.success());
    let log = agent.log();
    for part in ["\"metrics\":\"127.0.0.1:", "\"drain_timeout_s\":7", "\"level\":\"DEBUG\""] {
        assert!(log.contains(part), "{part} is not in the log");
    }
}

#[tokio::test]
async fn flags_overrule_the_file() {
    let upstream = FakeRegistry::start();
    let image = images::simple(1, &[1000]);
    image.push(&upstream, "app", "1");
    let config = json!({ "registries": { upstream.host(): { "plainHttp": false } }, "dataDir": "/nowhere/at/all" });
    let agent = TestAgent::builder().config(config).plain_http(&upstream).start().await;
    pull(&agent, &upstream.repository("app"), "1", &image).await;
}

#[tokio::test]
async fn several_addresses_are_listened_on() {
    let agent = TestAgent::builder().args(["--listen", "127.0.0.2:0", "--listen", "[::1]:0"]).start().await;
    let log = agent.log();
    let line: serde_json::Value = serde_json::from_str(log.lines().find(|line| line.contains("\"listening\"")).unwrap()).unwrap();
    let fields = line.get("fields").unwrap_or(&line);
    let addresses: Vec<SocketAddr> = fields["registry"].as_str().unwrap().split(',').map(|address| address.parse().unwrap()).collect();
    let ips: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
    assert_eq!(ips, ["127.0.0.1", "127.0.0.2", "::1"]);
    for address in addresses {
        client::send(client::new().get(format!("http://{address}/v2/"))).await.expect(200);
    }
}
