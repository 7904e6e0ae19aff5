//! What 100,000 blobs cost who minds the disk: a plan of what is to be evicted, and knowing after a start what is used.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::start::{IMAGES, fill_agent, small_images};
use crate::contenders::Agent;
use crate::lab::Lab;
use crate::library::Library;
use crate::report::Report;
use crate::stats::{float, median, milliseconds, spread};
use crate::upstream::Upstream;

const ROUNDS: usize = 5;
const PLANS: usize = 20;
const PLAN_TARGET_MS: f64 = 50.0;
const ACCOUNT_TARGET_MS: f64 = 1000.0;
const POLL: Duration = Duration::from_millis(1);
const START_MAX: Duration = Duration::from_secs(60);
/// A budget of which the cache takes a little less than the high watermark: nothing is evicted, and a plan has much to do.
const BUDGET_SHARE: f64 = 0.85;
const LOW_WATERMARK: f64 = 0.1;
const STAT_BLOCK_BYTES: u64 = 512;

/// Two states in which an agent finds its data directory.
const CLEAN: &str = "agent";
const KILLED: &str = "agent, after kill -9";

/// What the files of a data directory take, in bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Taken {
    all: u64,
    /// Of that the index, which changes while an agent runs.
    index: u64,
}

pub(super) fn measure(lab: &Lab) -> Result<Report> {
    let mut report = Report::table(&["what", "median", "lowest to highest"]);
    if lab.agent.is_none() {
        return Ok(report);
    }
    let mut library = Library::create(lab.folder("library")?)?;
    let images = small_images(&mut library, if lab.options.quick { IMAGES / 20 } else { IMAGES })?;
    let upstream = Upstream::start(&library)?;
    let data = fill_agent(lab, &library, &upstream, &images)?.context("the agent must be there")?;
    // It did not see the blobs come that were linked into its directory.
    fs::remove_dir_all(data.join("index")).context("no index to delete")?;
    drop(settled(lab, &data, &upstream, &[])?);

    let (mut clean, mut killed) = (Vec::new(), Vec::new());
    for _ in 0..lab.rounds(ROUNDS) {
        let (agent, took) = settled(lab, &data, &upstream, &[])?;
        clean.push(took);
        agent.server.process.kill()?;
        killed.push(settled(lab, &data, &upstream, &[])?.1);
    }
    for (name, took) in [(CLEAN, &clean), (KILLED, &killed)] {
        line(&mut report, &format!("start until what is used is known, ms: {name}"), took);
        let what = format!("accounting after a start with 100,000 blobs, {name}").replace(&format!(", {CLEAN}"), "");
        let median = median(took);
        report.check(what, format!("{median:.0} ms"), "< 1000 ms", median < ACCOUNT_TARGET_MS);
    }
    plan(lab, &mut report, &data, &upstream, images.len())?;
    report.note("what is used is known: from exec until kuik_agent_cache_used_bytes is what the files take by st_blocks, asked for each millisecond; for what the index itself takes, a mebibyte and the half of it more or less is right");
    report.note(format!(
        "{} images of 98 small layers, a config and a manifest, as in the row of starts; files are in the page cache",
        images.len()
    ));
    Ok(report)
}

fn line(report: &mut Report, what: &str, values: &[f64]) {
    let (low, high) = spread(values);
    report.line([what.to_owned(), format!("{:.1}", median(values)), format!("{low:.1}–{high:.1}")]);
}

/// Has a running agent plan again and again.
fn plan(lab: &Lab, report: &mut Report, data: &Path, upstream: &Upstream, images: usize) -> Result<()> {
    let budget = budget(taken(data)?.all);
    let more = [format!("--cache-max-size={budget}"), format!("--cache-low-watermark={LOW_WATERMARK}")];
    let (agent, _) = settled(lab, data, upstream, &more)?;
    let (mut took, mut evicted) = (Vec::new(), 0);
    for _ in 0..PLANS {
        let plan = agent.plan(lab)?;
        let listed = plan["images"].as_array().context("a plan must list images")?;
        ensure!(listed.len() >= images, "the plan has {} images, and {images} are there", listed.len());
        evicted = listed.iter().filter(|image| image["action"] == "evict").count();
        took.push(float(plan["planMicros"].as_u64().context("a plan must tell its time")?) / 1e3);
    }
    ensure!(evicted > images / 2, "the plan evicts {evicted} of {images} images only: it had nothing to do");
    line(report, &format!("a plan that evicts {evicted} of {images} images, ms"), &took);
    let median = median(&took);
    report.check("planning over 100,000 blobs", format!("{median:.1} ms"), "< 50 ms", median < PLAN_TARGET_MS);
    report.command(format!("{} --admin={}", "./target/release/kuik-agent gc --dry-run --output json", agent.admin));
    report.command(agent.server.process.command.clone());
    Ok(())
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bytes of a disk, far below 2^53")]
fn budget(used_bytes: u64) -> u64 {
    (float(used_bytes) / BUDGET_SHARE) as u64
}

/// Starts an agent and takes the time, in milliseconds from exec, until it says rightly what is used.
fn settled(lab: &Lab, data: &Path, upstream: &Upstream, more: &[String]) -> Result<(Agent, f64)> {
    let before = taken(data)?;
    let agent = Agent::launch_with(lab, data, upstream, more)?.context("the agent must be there")?;
    let started = agent.server.process.started;
    loop {
        let used = agent.metrics().ok().and_then(|metrics| metrics.count("kuik_agent_cache_used_bytes").ok()).unwrap_or_default();
        let took = started.elapsed();
        if is_right(used, before) {
            return Ok((agent, milliseconds(took)));
        }
        ensure!(took < START_MAX, "{used} bytes are said to be used, and the files take {before:?}");
        thread::sleep(POLL);
    }
}

/// The index grows and is measured anew when it likes; everything else is exact.
fn is_right(used: u64, taken: Taken) -> bool {
    let slack = (1 << 20) + taken.index / 2;
    used > 0 && used.abs_diff(taken.all) <= slack
}

fn taken(data: &Path) -> Result<Taken> {
    let index = sum(&data.join("index"))?;
    let others = ["blobs", "tmp", "refs", "quarantine", "index.bad", "control"];
    let rest = others.into_iter().try_fold(0, |all, name| anyhow::Ok(all + sum(&data.join(name))?))?;
    Ok(Taken { all: index + rest, index })
}

/// What the files below a folder take; nothing, where there is none.
fn sum(folder: &Path) -> Result<u64> {
    if !folder.exists() {
        return Ok(0);
    }
    let mut all = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry?;
        let meta = entry.metadata()?;
        all += if meta.is_dir() { sum(&entry.path())? } else { meta.blocks() * STAT_BLOCK_BYTES };
    }
    Ok(all)
}
