//! 32 clients ask for the same blob at the same time, and nobody has it yet.

use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};

use crate::contenders::{Cold, Server, pull_manifest};
use crate::lab::Lab;
use crate::library::{Image, Library};
use crate::report::Report;
use crate::stats::{MIB, float, median, spread, turn};
use crate::upstream::Upstream;

const ROUNDS: usize = 3;
const CLIENTS: usize = 32;
const HELD: u64 = 100_000_000;
const CONTENDERS: [Cold; 3] = [Cold::Agent, Cold::NginxProxyCache, Cold::Distribution];

/// What one contender did in all rounds.
#[derive(Debug)]
struct Seen {
    cold: Cold,
    upstream_ratio: Vec<f64>,
    slowest_seconds: Vec<f64>,
    first_byte_seconds: Vec<f64>,
}

pub(super) fn measure(lab: &Lab) -> Result<Report> {
    let mut library = Library::create(lab.folder("library")?)?;
    let size = if lab.options.quick { 32 * MIB } else { 256 * MIB };
    let layer = library.random_blob(1, size)?;
    let image = library.image("bench/shared", "v1", vec![layer])?;
    let upstream = Upstream::start(&library)?;
    let mut report = Report::table(&["upstream", "contender", "upstream bytes", "slowest client, s", "latest first byte, s"]);
    for (label, rate) in [("held to 100 MB/s", HELD), ("unlimited", 0)] {
        upstream.hold(rate);
        let all = rounds(lab, &upstream, &image)?;
        for seen in &all {
            let (low, high) = spread(&seen.slowest_seconds);
            report.line([
                label.to_owned(),
                seen.cold.name().to_owned(),
                format!("{:.2} ×", median(&seen.upstream_ratio)),
                format!("{:.2} ({low:.2}–{high:.2})", median(&seen.slowest_seconds)),
                format!("{:.2}", median(&seen.first_byte_seconds)),
            ]);
        }
        check(&mut report, label, &all);
    }
    report.note(format!("{CLIENTS} connections ask at once for one blob of {} MiB; its manifest was pulled before", size / MIB));
    report.note("upstream bytes: bytes of blobs that the upstream sent, divided by the blob's size");
    report.note("distribution is measured in the first round only: it fetches once for each client");
    Ok(report)
}

fn rounds(lab: &Lab, upstream: &Upstream, image: &Image) -> Result<Vec<Seen>> {
    let new = |&cold: &Cold| Seen { cold, upstream_ratio: Vec::new(), slowest_seconds: Vec::new(), first_byte_seconds: Vec::new() };
    let mut all: Vec<Seen> = CONTENDERS.iter().map(new).collect();
    for round in 0..lab.rounds(ROUNDS) {
        for index in turn(CONTENDERS.len(), round) {
            let seen = all.get_mut(index).context("turn must stay in range")?;
            if seen.cold == Cold::Distribution && round > 0 {
                continue;
            }
            rustix::fs::sync();
            let Some(server) = seen.cold.start(lab, upstream)? else { continue };
            seen.add(&server, upstream, image)?;
        }
    }
    all.retain(|seen| !seen.slowest_seconds.is_empty());
    Ok(all)
}

impl Seen {
    fn add(&mut self, server: &Server, upstream: &Upstream, image: &Image) -> Result<()> {
        pull_manifest(&mut server.connect()?, &server.prefix, image)?;
        upstream.take_blob_bytes();
        let layer = image.layer()?;
        let path = server.path(&image.blob(layer));
        let connections = (0..CLIENTS).map(|_| server.connect()).collect::<Result<Vec<_>>>()?;
        let barrier = Barrier::new(CLIENTS);
        let times = thread::scope(|scope| {
            let clients: Vec<_> = connections
                .into_iter()
                .map(|mut connection| {
                    let (barrier, path) = (&barrier, &path);
                    scope.spawn(move || {
                        barrier.wait();
                        let started = Instant::now();
                        let first_byte = connection.drop_body(path, layer.size_bytes)?;
                        anyhow::Ok((first_byte, started.elapsed()))
                    })
                })
                .collect();
            let join = |client: thread::ScopedJoinHandle<'_, _>| client.join().map_err(|_| anyhow!("a client panicked"))?;
            clients.into_iter().map(join).collect::<Result<Vec<_>>>()
        })
        .with_context(|| server.name)?;
        let latest_first = times.iter().map(|(first_byte, _)| *first_byte).max().unwrap_or_default();
        let slowest = times.iter().map(|(_, all)| *all).max().unwrap_or_default();
        self.upstream_ratio.push(float(upstream.take_blob_bytes()) / float(layer.size_bytes));
        self.first_byte_seconds.push(latest_first.as_secs_f64());
        self.slowest_seconds.push(slowest.as_secs_f64());
        Ok(())
    }
}

fn check(report: &mut Report, label: &str, all: &[Seen]) {
    let find = |wanted: Cold| all.iter().find(|seen| seen.cold == wanted);
    let Some(agent) = find(Cold::Agent) else { return };
    let (least, most) = spread(&agent.upstream_ratio);
    let exact = (least - 1.0).abs() < f64::EPSILON && (most - 1.0).abs() < f64::EPSILON;
    let what = format!("32 clients, one cold blob, upstream {label}");
    report.check(format!("{what}: bytes"), format!("{most:.2} ×"), "1.00 ×", exact);
    let Some(nginx) = find(Cold::NginxProxyCache) else { return };
    let ratio = median(&agent.slowest_seconds) / median(&nginx.slowest_seconds);
    report.check(format!("{what}: slowest"), format!("{ratio:.2} × nginx proxy_cache's"), "≤ 1.05 ×", ratio <= 1.055);
}
