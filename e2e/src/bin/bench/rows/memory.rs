//! Resident memory: with nothing to do, and at the most while 32 different cold blobs stream through.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::contenders::{Cold, Server, pull_manifest};
use crate::lab::Lab;
use crate::library::{Image, Library};
use crate::process::Memory;
use crate::report::Report;
use crate::stats::{MIB, float};
use crate::upstream::Upstream;

const STREAMS: u64 = 32;
const BLOB_BYTES: u64 = 128 * MIB;
const IDLE_TARGET_MIB: f64 = 15.0;
const BUSY_TARGET_MIB: f64 = 64.0;
const CONTENDERS: [Cold; 4] = [Cold::Agent, Cold::NginxProxyCache, Cold::DockerRegistry, Cold::Distribution];

pub(super) fn measure(lab: &Lab) -> Result<Report> {
    let mut library = Library::create(lab.folder("library")?)?;
    let size = if lab.options.quick { 16 * MIB } else { BLOB_BYTES };
    let layers = library.sparse_blobs(STREAMS, size)?;
    let image = library.image("bench/many", "v1", layers)?;
    let upstream = Upstream::start(&library)?;
    let mut report = Report::table(&["contender", "idle, MiB", "of it anonymous", "most with 32 streams, MiB", "32 streams, s"]);
    for cold in CONTENDERS {
        rustix::fs::sync();
        let Some(server) = cold.start(lab, &upstream)? else { continue };
        thread::sleep(Duration::from_secs(2));
        let idle = server.process.memory()?;
        let started = std::time::Instant::now();
        stream(&server, &image)?;
        let took = started.elapsed();
        let busy = server.process.memory()?;
        report.line([
            server.name.to_owned(),
            format!("{:.1}", mib(idle.rss_kib)),
            format!("{:.1}", mib(idle.anonymous_kib)),
            format!("{:.1}", mib(busy.high_water_kib)),
            format!("{:.1}", took.as_secs_f64()),
        ]);
        if cold == Cold::Agent {
            check(&mut report, idle, busy);
        }
    }
    report.note(format!(
        "32 streams: {STREAMS} connections, each pulls a cold blob of its own of {} MiB, as fast as it goes (smaller than 1 GiB so that disk use and time stay sane: what is held is buffers, and 128 MiB is many times those)",
        size / MIB
    ));
    report.note("idle: VmRSS 2 s after the start; most: VmHWM after the streams; both summed over all processes (nginx has three, which share pages that are counted for each)");
    report.note("all run as pull-through caches of the same upstream; one run each, without a spread");
    Ok(report)
}

/// Pulls the manifest, then all layers at once.
fn stream(server: &Server, image: &Image) -> Result<()> {
    pull_manifest(&mut server.connect()?, &server.prefix, image)?;
    thread::scope(|scope| {
        let pulls: Vec<_> = image
            .layers
            .iter()
            .map(|layer| scope.spawn(|| server.connect()?.drop_body(&server.path(&image.blob(layer)), layer.size_bytes)))
            .collect();
        for pull in pulls {
            pull.join().map_err(|_| anyhow!("a client panicked"))?.with_context(|| server.name)?;
        }
        Ok(())
    })
}

fn check(report: &mut Report, idle: Memory, busy: Memory) {
    let (idle, busy) = (mib(idle.rss_kib), mib(busy.high_water_kib));
    report.check("memory, idle", format!("{idle:.1} MiB"), "≤ 15 MiB", idle <= IDLE_TARGET_MIB);
    report.check("memory, 32 cold streams", format!("{busy:.1} MiB"), "≤ 64 MiB", busy <= BUSY_TARGET_MIB);
}

fn mib(kib: u64) -> f64 {
    float(kib) / 1024.0
}
