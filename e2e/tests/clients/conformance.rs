//! The OCI conformance program, with its categories pull, tag list and referrers.
//!
//! The agent takes no pushes, and the program wants to pull what it has pushed. So the program
//! talks to a front that hands its pushes to the registry and everything else to the agent.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kuik_e2e::agent::Agent;
use kuik_e2e::http;
use kuik_e2e::images;
use kuik_e2e::process::{Server, client, free_port};
use kuik_e2e::registry::{Kind, Registry};
use kuik_e2e::tools;
use tempfile::TempDir;

use crate::setup::Setup;

const REPOSITORY: &str = "conformance/repo1";

/// Tests whose names hold one of these are ours. The rest pushes or deletes, which is between the
/// program and the registry.
const OURS: [&str; 10] = [
    "Test/ping",
    "Test/empty/",
    "/get-missing",
    "/range requests/range",
    "/head/",
    "/pull/",
    "/tag-list",
    "/referrers",
    "/missing-manifest/",
    "/invalid-digest-format/manifest-get",
];

#[test]
fn pull_conforms_with_docker_registry_behind_the_agent() -> Result<()> {
    // docker-registry 2.8 does not know the referrers API, and ignores `last` of tag lists.
    let passed = check(Registry::start()?, &["API_REFERRER", "API_TAGS_LIST"])?;
    expect(&passed, &["Test/ping", "/get-missing", "/range requests/range", "/head/", "/pull/", "/missing-manifest/"])
}

#[test]
fn pull_tag_list_and_referrers_conform_with_a_registry_that_has_them_all() -> Result<()> {
    let passed = check(Registry::start_kind(Kind::Referrers)?, &[])?;
    expect(&passed, &OURS)
}

fn expect(passed: &[String], categories: &[&str]) -> Result<()> {
    for category in categories {
        ensure!(passed.iter().any(|name| name.contains(category)), "no test of {category} passed");
    }
    Ok(())
}

/// Runs the program without what is `off`, and returns the names of our tests that passed. None
/// of them may fail, or be skipped: that is how the program puts "not supported".
fn check(registry: Registry, off: &[&str]) -> Result<Vec<String>> {
    // Every tag list must be the registry's of this moment: the program pushes between two.
    let setup = Setup { agent: Agent::start_with(&[registry.host()], &["--tag-fresh-for", "0s"])?, registry };
    // A repository must exist before anything in it can be absent.
    setup.push(REPOSITORY, "first", &images::artifact("conformance"))?;
    let dir = TempDir::with_prefix("kuik-conformance-").context("make a directory for the results")?;
    let front = Front::start(dir.path(), &setup)?;
    let mut command = client(&tools::built("conformance")?);
    command
        .current_dir(dir.path())
        .env("OCI_RESULTS_DIR", dir.path())
        .env("OCI_REGISTRY", front.host())
        .env("OCI_REPO1", REPOSITORY)
        .env("OCI_TLS", "disabled")
        .env("OCI_LOG", "error");
    // Neither registry takes pushes of the last two, so there is nothing to pull.
    let always_off = ["API_BLOBS_DELETE", "API_MANIFESTS_DELETE", "API_TAGS_DELETE", "DATA_SHA512", "DATA_NONDISTRIBUTABLE"];
    for off in always_off.iter().chain(off) {
        command.env(format!("OCI_{off}"), "false");
    }
    // Optional in the specification, and promised by the agent.
    for on in ["API_BLOBS_DIGEST_HEADER", "API_MANIFESTS_DIGEST_HEADER"] {
        command.env(format!("OCI_{on}"), "true");
    }
    // Its exit status also tells what it thinks of the registry; the report tells them apart.
    let output = command.output().context("start the conformance program")?;
    let report = fs::read_to_string(dir.path().join("junit.xml"))
        .with_context(|| format!("no report:\n{}", String::from_utf8_lossy(&output.stderr)))?;
    verdict(&report)
}

fn verdict(report: &str) -> Result<Vec<String>> {
    let (mut passed, mut failed) = (Vec::new(), Vec::new());
    for case in report.split("<testcase ").skip(1) {
        let name = attribute(case, "name").context("a test case must have a name")?;
        if !OURS.iter().any(|part| name.contains(part)) {
            continue;
        }
        match attribute(case, "status") {
            Some("passed") => passed.push(name.to_owned()),
            Some("skipped") if case.contains("is disabled in the configuration") => {}
            status => failed.push(format!("{name}: {status:?}\n{case}")),
        }
    }
    ensure!(failed.is_empty(), "{} tests failed:\n{}", failed.len(), failed.join("\n"));
    Ok(passed)
}

fn attribute<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = element.split_once(&format!("{name}=\""))?;
    Some(rest.split_once('"')?.0)
}

/// nginx as the front.
struct Front {
    port: u16,
    _server: Server,
}

impl Front {
    fn start(dir: &Path, setup: &Setup) -> Result<Self> {
        let port = free_port()?;
        let config = dir.join("nginx.conf");
        fs::write(&config, front_config(dir, port, setup)).context("write the front's configuration")?;
        let args = ["-p".as_ref(), dir.as_os_str(), "-c".as_ref(), config.as_os_str()];
        let mut server = Server::spawn("the front", &tools::debian("nginx")?, &args, &dir.join("nginx.log"))?;
        let ping = format!("http://127.0.0.1:{port}/v2/");
        server.wait_ready(Duration::from_secs(10), || http::get(&ping).is_ok_and(|reply| reply.status == 200))?;
        Ok(Self { port, _server: server })
    }

    fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

/// Uploads, also their status, go to the registry, whose `Location` headers lead back here.
fn front_config(dir: &Path, port: u16, setup: &Setup) -> String {
    let (registry, agent) = (setup.registry.host(), setup.agent.host());
    let prefix = Agent::path(&registry, "");
    let dir = dir.display();
    format!(
        r#"daemon off; master_process off; pid {dir}/nginx.pid; error_log stderr;
events {{}}
http {{
  access_log off; client_max_body_size 0; proxy_http_version 1.1; merge_slashes off;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/f;
  uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  proxy_set_header Host $http_host;
  server {{
    listen 127.0.0.1:{port};
    location = /v2/ {{ proxy_pass http://{agent}; }}
    location ~ /blobs/uploads/ {{ proxy_pass http://{registry}; }}
    location / {{
      if ($request_method !~ ^(GET|HEAD)$) {{ proxy_pass http://{registry}; break; }}
      rewrite ^/v2/(.*)$ /v2/{prefix}$1 break;
      proxy_pass http://{agent};
    }}
  }}
}}
"#
    )
}
