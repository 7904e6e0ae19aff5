//! Warm reads by 64 connections, second by second, while 10 GB of other images are evicted.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use crate::contenders::{Agent, pull_manifest};
use crate::lab::Lab;
use crate::library::{Image, Library};
use crate::load::Load;
use crate::report::Report;
use crate::stats::{MIB, float, median, spread};
use crate::upstream::Upstream;

const IMAGES: u64 = 2_000;
const LAYER_BYTES: u64 = 5 * MIB;
/// Seconds of load right before.
const SECONDS_BEFORE: usize = 8;
/// The budgets before and after; the warm image fits into the latter.
const BYTES_BEFORE: u64 = 40 << 30;
const BYTES_AFTER: u64 = 100 * MIB;
const RELOAD_MAX: Duration = Duration::from_secs(60);
const EVICTION_MAX: Duration = Duration::from_secs(300);
const TARGET: f64 = 2.0;
const EVICTED: &str = "kuik_agent_evicted_bytes_total";

pub(super) fn measure(lab: &Lab) -> Result<Report> {
    let mut report =
        Report::table(&["reads of", "p99 before, ms", "p99 meanwhile, ms", "worst second, ms", "evicted, GB", "in, s", "GB/s"]);
    if lab.agent.is_none() {
        return Ok(report);
    }
    for (label, blob_bytes) in [("64 KiB", 64 << 10), ("1 MiB", MIB)] {
        let scene = Scene::prepare(lab, blob_bytes)?;
        let seen = scene.run()?;
        let (before, meanwhile) = (median(&seen.before_ms), median(&seen.meanwhile_ms));
        let gigabytes = float(seen.evicted_bytes) / 1e9;
        let cell = |values: &[f64]| {
            let (low, high) = spread(values);
            format!("{:.2} ({low:.2}–{high:.2})", median(values))
        };
        report.line([
            label.to_owned(),
            cell(&seen.before_ms),
            cell(&seen.meanwhile_ms),
            format!("{:.2}", spread(&seen.meanwhile_ms).1),
            format!("{gigabytes:.1}"),
            format!("{:.1}", seen.took.as_secs_f64()),
            format!("{:.2}", gigabytes / seen.took.as_secs_f64()),
        ]);
        let ratio = meanwhile / before;
        let what = format!("eviction of 10 GB: p99 of warm reads of {label}");
        report.check(what, format!("{ratio:.2} × before"), "≤ 2.00 ×", ratio <= TARGET);
        report.command(scene.load().command(&scene.url()?));
    }
    report.note(format!(
        "{IMAGES} images with one layer of {} MiB each, real files that nobody else links to, moved into the agent's data directory once it had pulled every manifest; synced to disk before",
        LAYER_BYTES / MIB
    ));
    report.note(format!(
        "wrk runs for a second again and again; when it has for {SECONDS_BEFORE} s, cache.maxSize in the agent's configuration goes from {BYTES_BEFORE} to {BYTES_AFTER}; meanwhile are the seconds in which {EVICTED} rose"
    ));
    Ok(report)
}

/// An agent that holds 10 GB of images which nobody asks for, and one that is asked for all the time.
struct Scene {
    agent: Agent,
    warm: Image,
    config: std::path::PathBuf,
    data: std::path::PathBuf,
    seconds_before: usize,
    stored_bytes: u64,
    _upstream: Upstream,
}

/// p99 of each second, and the eviction itself.
#[derive(Default)]
struct Seen {
    before_ms: Vec<f64>,
    meanwhile_ms: Vec<f64>,
    evicted_bytes: u64,
    took: Duration,
}

impl Scene {
    fn prepare(lab: &Lab, blob_bytes: u64) -> Result<Self> {
        let mut library = Library::create(lab.folder("library")?)?;
        let images = if lab.options.quick { IMAGES / 20 } else { IMAGES };
        let layers = library.filled_blobs(images, LAYER_BYTES)?;
        let cold =
            layers.iter().enumerate().map(|(number, layer)| library.image(&format!("bench/cold-{number}"), "v1", vec![layer.clone()]));
        let cold = cold.collect::<Result<Vec<_>>>()?;
        let layer = library.random_blob(1, blob_bytes)?;
        let warm = library.image("bench/warm", "v1", vec![layer])?;
        let upstream = Upstream::start(&library)?;
        let (data, config) = (lab.folder("agent")?, lab.folder("config")?.join("config.yaml"));
        set_budget(&config, BYTES_BEFORE)?;
        let more = [format!("--config={}", config.display())];
        let agent = Agent::start_with(lab, &data, &upstream, &more)?.context("the agent must be there")?;
        pull_manifests(&agent, &cold)?;
        drop(agent);
        library.move_to_agent(&layers, &data)?;
        // It did not see the layers come.
        fs::remove_dir_all(data.join("index")).context("no index to delete")?;
        rustix::fs::sync();
        let agent = Agent::start_with(lab, &data, &upstream, &more)?.context("the agent must be there")?;
        let stored_bytes = images * LAYER_BYTES;
        let seconds_before = if lab.options.quick { 2 } else { SECONDS_BEFORE };
        Ok(Self { agent, warm, config, data, seconds_before, stored_bytes, _upstream: upstream })
    }

    fn load(&self) -> Load {
        Load::Wrk { seconds: 1 }
    }

    fn url(&self) -> Result<String> {
        Ok(self.agent.server.url(&self.warm.blob(self.warm.layer()?)))
    }

    fn run(&self) -> Result<Seen> {
        self.agent.server.pull(&self.warm)?;
        self.wait_known()?;
        let mut seen = Seen::default();
        for _ in 0..self.seconds_before {
            seen.before_ms.push(self.load().run(&self.url()?)?.p99_ms);
        }
        set_budget(&self.config, BYTES_AFTER)?;
        let changed = Instant::now();
        thread::scope(|scope| {
            let watcher = scope.spawn(|| self.watch(changed));
            // Ends with the watcher, which has deadlines.
            while !watcher.is_finished() {
                let evicted = self.evicted()?;
                let p99_ms = self.load().run(&self.url()?)?.p99_ms;
                if self.evicted()? > evicted {
                    seen.meanwhile_ms.push(p99_ms);
                }
            }
            (seen.evicted_bytes, seen.took) = watcher.join().map_err(|_| anyhow!("the watcher panicked"))??;
            anyhow::Ok(())
        })?;
        ensure!(!seen.meanwhile_ms.is_empty(), "the eviction was over before anybody looked");
        Ok(seen)
    }

    /// Waits until the agent has looked at everything that was moved into its directory.
    fn wait_known(&self) -> Result<()> {
        let started = Instant::now();
        while self.agent.metrics()?.count("kuik_agent_cache_used_bytes")? < self.stored_bytes {
            ensure!(started.elapsed() < RELOAD_MAX, "the agent does not find what is in {}", self.data.display());
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Follows the eviction. Returns how much went, and in what time from the first image to the last.
    fn watch(&self, changed: Instant) -> Result<(u64, Duration)> {
        let (mut first, mut last) = (None, changed);
        let (mut evicted, all) = (0, self.stored_bytes.saturating_sub(BYTES_AFTER));
        while evicted < all {
            thread::sleep(Duration::from_millis(20));
            let now = self.evicted()?;
            if now > evicted {
                last = Instant::now();
                first.get_or_insert(last);
            }
            evicted = now;
            let limit = if first.is_some() { EVICTION_MAX } else { RELOAD_MAX };
            ensure!(changed.elapsed() < limit, "{evicted} bytes of {all} were evicted");
        }
        Ok((evicted, last.duration_since(first.unwrap_or(changed))))
    }

    fn evicted(&self) -> Result<u64> {
        // Before the first eviction there is no such line.
        let metrics = self.agent.metrics()?;
        if metrics.sum(EVICTED).is_some() { metrics.count(EVICTED) } else { Ok(0) }
    }
}

/// Replaced whole: the agent reads it whenever it likes.
fn set_budget(config: &Path, bytes: u64) -> Result<()> {
    let new = config.with_extension("new");
    fs::write(&new, format!("cache:\n  maxSize: {bytes}\n  minFree: 1Gi\n"))?;
    fs::rename(&new, config).with_context(|| format!("cannot write {}", config.display()))
}

fn pull_manifests(agent: &Agent, images: &[Image]) -> Result<()> {
    let mut connection = agent.server.connect()?;
    images.iter().try_for_each(|image| pull_manifest(&mut connection, &agent.server.prefix, image))
}
