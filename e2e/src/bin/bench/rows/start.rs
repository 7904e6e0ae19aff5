//! From exec to ready, and to the first manifest answered, with 100,000 blobs in the store.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use crate::contenders::{Agent, Flavour, answers, launch, pull_manifest};
use crate::lab::Lab;
use crate::library::{Image, Library, Links};
use crate::report::Report;
use crate::stats::{median, milliseconds, spread};
use crate::upstream::Upstream;

const ROUNDS: usize = 5;
pub(super) const IMAGES: u64 = 1_000;
/// With its config and manifest an image has 100 blobs.
const LAYERS: u64 = 98;
const TARGET_MS: f64 = 200.0;
const POLL: Duration = Duration::from_millis(1);
const START_MAX: Duration = Duration::from_secs(60);

/// When it was ready and when it had answered a manifest, in milliseconds from exec.
type Started = (f64, f64);

/// Three states in which an agent finds its data directory.
const CLEAN: &str = "agent";
const KILLED: &str = "agent, after kill -9";
const INDEX_LOST: &str = "agent, index deleted";

pub(super) fn measure(lab: &Lab) -> Result<Report> {
    let mut library = Library::create(lab.folder("library")?)?;
    let images = small_images(&mut library, if lab.options.quick { IMAGES / 20 } else { IMAGES })?;
    let image = images.first().context("there must be an image")?;
    let upstream = Upstream::start(&library)?;
    let registry_root = lab.folder("registry-root")?;
    library.lay_out_registry(&registry_root, Links::Manifests)?;
    let data = fill_agent(lab, &library, &upstream, &images)?;

    let mut seen: Vec<(&str, Vec<Started>)> = Vec::new();
    let mut add = |name: &'static str, started: Started| match seen.iter_mut().find(|(known, _)| *known == name) {
        Some((_, all)) => all.push(started),
        None => seen.push((name, vec![started])),
    };
    if let Some(data) = &data {
        fs::remove_dir_all(data.join("index")).context("no index to delete")?;
        add(INDEX_LOST, start_agent(lab, data, &upstream, image, End::Orderly)?);
    }
    for _ in 0..lab.rounds(ROUNDS) {
        if let Some(data) = &data {
            add(CLEAN, start_agent(lab, data, &upstream, image, End::Killed)?);
            add(KILLED, start_agent(lab, data, &upstream, image, End::Orderly)?);
        }
        for flavour in [Flavour::Docker, Flavour::Distribution] {
            if lab.options.wants(flavour.name()) {
                let server = launch(lab, flavour, &registry_root, "")?;
                add(flavour.name(), watch(server.process.started, server.addr, "/v2/", server.addr, &server.path(&image.by_tag()))?);
            }
        }
    }
    Ok(report(&seen, images.len()))
}

fn report(seen: &[(&str, Vec<Started>)], images: usize) -> Report {
    let mut report = Report::table(&["contender", "ready, ms", "first manifest, ms"]);
    for (name, all) in seen {
        let cell = |values: Vec<f64>| {
            let (low, high) = spread(&values);
            format!("{:.0} ({low:.0}–{high:.0})", median(&values))
        };
        let ready = cell(all.iter().map(|(ready, _)| *ready).collect());
        let first = cell(all.iter().map(|(_, first)| *first).collect());
        report.line([(*name).to_owned(), ready, first]);
        if [CLEAN, KILLED, INDEX_LOST].contains(name) {
            let serving: Vec<f64> = all.iter().map(|(ready, first)| ready.max(*first)).collect();
            let serving = median(&serving);
            let what = format!("start with 100,000 blobs, {name}").replace(&format!(", {CLEAN}"), "");
            report.check(what, format!("{serving:.0} ms"), "≤ 200 ms", serving <= TARGET_MS);
        }
    }
    report.note(format!(
        "{images} images of {LAYERS} small layers, a config and a manifest; the agent pulled every manifest, the other blobs were linked into its data directory, and its index was deleted, so that it built it anew"
    ));
    report.note("ready: /readyz of the agent, /v2/ of the others; first manifest: by tag, 200; both asked for each millisecond on a new connection, from exec on");
    report.note("files are in the page cache; docker-registry and distribution look at nothing when they start");
    report
}

pub(super) fn small_images(library: &mut Library, count: u64) -> Result<Vec<Image>> {
    let mut images = Vec::new();
    for number in 0..count {
        let layer = |layer: u64| library.bytes_blob(format!("layer {layer} of image {number}").as_bytes());
        let layers = (0..LAYERS).map(layer).collect::<Result<Vec<_>>>()?;
        images.push(library.image(&format!("bench/small-{number}"), "v1", layers)?);
    }
    Ok(images)
}

/// Has an agent pull all manifests, and puts all blobs beside them.
pub(super) fn fill_agent(lab: &Lab, library: &Library, upstream: &Upstream, images: &[Image]) -> Result<Option<PathBuf>> {
    let data = lab.folder("agent")?;
    let Some(agent) = Agent::start(lab, &data, upstream)? else { return Ok(None) };
    let pull_some = |some: &[Image]| -> Result<()> {
        let mut connection = agent.server.connect()?;
        some.iter().try_for_each(|image| pull_manifest(&mut connection, &agent.server.prefix, image))
    };
    thread::scope(|scope| {
        let pulls: Vec<_> = images.chunks(images.len().div_ceil(8)).map(|some| scope.spawn(|| pull_some(some))).collect();
        pulls.into_iter().try_for_each(|pull| pull.join().map_err(|_| anyhow!("a client panicked"))?)
    })?;
    drop(agent);
    library.lay_out_agent(&data)?;
    Ok(Some(data))
}

/// How a run ends; it decides what the next one finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Orderly,
    Killed,
}

fn start_agent(lab: &Lab, data: &Path, upstream: &Upstream, image: &Image, end: End) -> Result<Started> {
    let agent = Agent::launch(lab, data, upstream)?.context("the agent must be there")?;
    let server = &agent.server;
    let started = watch(server.process.started, agent.admin, "/readyz", server.addr, &server.path(&image.by_tag()))?;
    // Until everything has been looked at: an end before that would leave more to do for the next start. Only after an orderly end there is
    // nothing to walk, and that start is the one that is killed.
    let walks = u64::from(end == End::Orderly);
    while agent.metrics()?.count("kuik_agent_index_rebuilds_total")? < walks {
        ensure!(server.process.started.elapsed() < START_MAX, "not all blobs were found in time");
        thread::sleep(POLL);
    }
    if end == End::Killed {
        agent.server.process.kill()?;
    }
    Ok(started)
}

/// Asks for both paths until both are answered with 200.
fn watch(from: Instant, ready: SocketAddr, ready_path: &str, first: SocketAddr, first_path: &str) -> Result<Started> {
    let until = |addr: SocketAddr, path: &str| -> Result<f64> {
        while !answers(addr, path) {
            ensure!(from.elapsed() < START_MAX, "{path} was not answered in time");
            thread::sleep(POLL);
        }
        Ok(milliseconds(from.elapsed()))
    };
    thread::scope(|scope| {
        let ready = scope.spawn(|| until(ready, ready_path));
        let first = until(first, first_path)?;
        Ok((ready.join().map_err(|_| anyhow!("a client panicked"))??, first))
    })
}
