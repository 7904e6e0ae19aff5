//! Stored manifests by tag and by digest, and small blobs: how many a second, and how late the latest.

use anyhow::{Context, Result};

use super::warm_blob::{Warm, warm};
use crate::contenders::{Agent, Server};
use crate::lab::{Lab, free_port};
use crate::load::{Load, Seen};
use crate::report::Report;
use crate::stats::{median, spread, turn};

const ROUNDS: usize = 3;
/// The agent where rights are looked at. The image is open to everybody: that it is must be all that is looked up.
const WITH_RIGHTS: &str = "agent-namespace";
/// As many layers as common images have; the manifest has some 2 KB.
const LAYERS: u64 = 10;
const LAYER_BYTES: u64 = 4 << 10;

/// One thing to ask for again and again.
struct Case {
    label: &'static str,
    load: Load,
    path: String,
}

pub(super) fn measure(lab: &Lab) -> Result<Report> {
    let mut warm = warm(lab, |library| (0..LAYERS).map(|seed| library.random_blob(seed + 1, LAYER_BYTES)).collect())?;
    warm.servers.extend(with_rights(lab, &warm)?);
    let image = &warm.image;
    let seconds = if lab.options.quick { 1 } else { 3 };
    let (get, head) = (Load::Wrk { seconds }, Load::Hey { seconds, method: "HEAD" });
    let cases = [
        Case { label: "GET manifest by tag", load: get, path: image.by_tag() },
        Case { label: "GET manifest by digest", load: get, path: image.by_digest() },
        Case { label: "HEAD manifest by tag", load: head, path: image.by_tag() },
        Case { label: "HEAD manifest by digest", load: head, path: image.by_digest() },
        Case { label: "GET blob of 4 KiB", load: get, path: image.blob(image.layer()?) },
    ];
    // docker-registry is distribution's older self, and slower; nginx-buffers is the same nginx for small files.
    let measured = |server: &&Server| !["docker-registry", "nginx-buffers"].contains(&server.name);
    let servers: Vec<&Server> = warm.servers.iter().filter(measured).collect();

    let mut report = Report::table(&["request", "contender", "with", "req/s", "p99 ms", "hey, req/s", "p99 ms"]);
    for case in &cases {
        let seen = run(case, &servers, lab.rounds(ROUNDS))?;
        let mut named = Vec::new();
        for (server, seen) in servers.iter().zip(&seen) {
            let summary = Summary::of(seen);
            let mut line = vec![case.label.to_owned(), server.name.to_owned(), case.load.name().to_owned()];
            line.extend(summary.cells());
            line.extend(cross_check(case, server)?);
            report.line(line);
            named.push((server.name, summary));
        }
        check(&mut report, case.label, &named);
    }
    report.note("agent-namespace is the same agent with `auth.mode: namespace`, and the image one that its registry gives to everybody");
    report.note("nginx serves the same bytes as static files at exact locations, with Content-Type and Docker-Content-Digest set, open_file_cache on, and writes no access log");
    report.note("HEAD by hey: wrk waits for a body after HEAD; hey takes more of the two cores than wrk, so compare within one line group");
    let server = servers.first().context("a contender must be left to measure")?;
    for case in &cases {
        report.command(case.load.command(&server.url(&case.path)));
    }
    Ok(report)
}

/// An agent that looks at rights. The control API that it needs for private images is not there, and nobody asks for one.
fn with_rights(lab: &Lab, warm: &Warm) -> Result<Option<Server>> {
    let control = format!("--control-url=https://127.0.0.1:{}", free_port()?);
    let more = ["--auth-mode=namespace", &control, "--control-ca=/dev/null", "--control-token=/dev/null", "--node-name=node1"];
    let more = more.map(str::to_owned);
    let Some(mut agent) = Agent::start_with(lab, &lab.folder("agent-namespace")?, &warm.upstream, &more)? else { return Ok(None) };
    agent.server.pull(&warm.image)?;
    agent.server.prove(&warm.image)?;
    agent.server.name = WITH_RIGHTS;
    Ok(Some(agent.server))
}

fn run(case: &Case, servers: &[&Server], rounds: usize) -> Result<Vec<Vec<Seen>>> {
    let mut seen = vec![Vec::new(); servers.len()];
    for round in 0..rounds {
        for index in turn(servers.len(), round) {
            let server = servers.get(index).context("turn must stay in range")?;
            let one = case.load.run(&server.url(&case.path));
            let one = one.with_context(|| format!("{} of {}", case.label, server.name))?;
            seen.get_mut(index).context("turn must stay in range")?.push(one);
        }
    }
    Ok(seen)
}

/// A second of hey, where the figures are not hey's anyway.
fn cross_check(case: &Case, server: &Server) -> Result<[String; 2]> {
    if matches!(case.load, Load::Hey { .. }) {
        return Ok(["–".to_owned(), "–".to_owned()]);
    }
    let seen = Load::Hey { seconds: 1, method: "GET" }.run(&server.url(&case.path))?;
    Ok([format!("{:.0}", seen.requests_a_second), format!("{:.2}", seen.p99_ms)])
}

/// The medians of some rounds.
struct Summary {
    rate: f64,
    low: f64,
    high: f64,
    p99_ms: f64,
}

impl Summary {
    fn of(seen: &[Seen]) -> Self {
        let rates: Vec<f64> = seen.iter().map(|one| one.requests_a_second).collect();
        let p99: Vec<f64> = seen.iter().map(|one| one.p99_ms).collect();
        let (low, high) = spread(&rates);
        Self { rate: median(&rates), low, high, p99_ms: median(&p99) }
    }

    fn cells(&self) -> [String; 2] {
        [format!("{:.0} ({:.0}–{:.0})", self.rate, self.low, self.high), format!("{:.2}", self.p99_ms)]
    }
}

fn check(report: &mut Report, label: &str, named: &[(&str, Summary)]) {
    let find = |wanted: &str| named.iter().find(|(name, _)| name.starts_with(wanted)).map(|(_, summary)| summary);
    if let (Some(without), Some(with)) = (find(Agent::NAME), find(WITH_RIGHTS)) {
        let rate = with.rate / without.rate;
        report.check(format!("warm {label}, rights looked at"), format!("{rate:.2} × without"), "≥ 0.95 ×", rate >= 0.945);
    }
    let (Some(agent), Some(nginx)) = (find(Agent::NAME), find("nginx")) else { return };
    let rate = agent.rate / nginx.rate;
    report.check(format!("warm {label}"), format!("{rate:.2} × nginx"), "≥ 0.70 ×", rate >= 0.695);
    let p99 = agent.p99_ms / nginx.p99_ms;
    report.check(format!("warm {label}: p99"), format!("{p99:.2} × nginx"), "≤ 1.50 ×", p99 <= 1.505);
}
