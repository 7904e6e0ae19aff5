//! The life of a small disk: containerds pull images that are together ten times what the agent may keep, while it is killed and
//! its file system fills up; then everything is looked at.
//!
//! `KUIK_SOAK_PULLS` says how many pulls there are on each file system, `KUIK_SOAK_SEED` which.

mod audit;
mod dice;
mod library;
mod observer;
mod oracle;
mod pulls;
mod schedule;

use std::env;
use std::fmt;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Context as _, Error, Result, anyhow};
use kuik_e2e::agent::Agent;
use kuik_e2e::containerd::{Containerd, Release};
use kuik_e2e::disk::{Disk, FileSystem};
use kuik_e2e::registry::{Registry, Sent};

use dice::Dice;
use library::Library;
use observer::Seen;
use oracle::{Count, Oracle};
use pulls::Outcome;
use schedule::Schedule;

const MIB: u64 = 1 << 20;
/// What the agent may keep.
const BUDGET_BYTES: u64 = 32 * MIB;
/// All images together, in budgets.
const LIBRARY_BUDGETS: u64 = 10;
/// More than the budget and all that the agent keeps free, so that neither hides the other; no less than `mkfs.xfs` takes.
const DISK_BYTES: u64 = 320 * MIB;
/// On each of the three file systems: a thousand together.
const PULLS: usize = 334;
/// One of the containerds asks for layers in parts of this size.
const PART_BYTES: usize = 256 << 10;
/// The same workload each time, unless another is asked for; what meets what differs all the same.
const SEED: u64 = 20_261_126;
const GRACE_SECONDS: u64 = 2;

#[test]
fn a_budget_holds_on_ext4_whatever_happens() -> Result<()> {
    soak(FileSystem::Ext4)
}

#[test]
fn a_budget_holds_on_xfs_whatever_happens() -> Result<()> {
    soak(FileSystem::Xfs)
}

#[test]
fn a_budget_holds_on_tmpfs_whatever_happens() -> Result<()> {
    soak(FileSystem::Tmpfs)
}

fn soak(kind: FileSystem) -> Result<()> {
    let pulls = setting("KUIK_SOAK_PULLS", PULLS)?;
    let seed = setting("KUIK_SOAK_SEED", SEED)?;
    say(&format!("soak of {}: {pulls} pulls, KUIK_SOAK_SEED={seed}", kind.name()));
    let outcome = run(kind, pulls, seed);
    outcome.with_context(|| format!("the soak of {} with KUIK_SOAK_PULLS={pulls} KUIK_SOAK_SEED={seed}", kind.name()))
}

fn run(kind: FileSystem, pulls: usize, seed: u64) -> Result<()> {
    let start = Instant::now();
    let mut dice = Dice::new(seed);
    let mut registry = Registry::start()?;
    let library = Library::push(&registry, BUDGET_BYTES, LIBRARY_BUDGETS, &mut dice)?;
    let schedule = Schedule::new(&library, pulls, &mut dice);
    let disk = Disk::mount(kind, DISK_BYTES)?;
    let mut stage = Stage::start(&registry, disk)?;
    let outcome = pulls::run(&mut stage, &library, &schedule, &registry)?;
    let summary = Summary { kind, pulls, seed, library: &library, schedule: &schedule, outcome: &outcome, sent: registry.sent()? };
    let audited =
        audit::audit(&mut stage, &library, &mut registry).map_err(|error| anyhow!("{error:#}; {}", stage.agent.server().log_tail()))?;
    say(&format!("{summary}; {audited}; {:.0} s", start.elapsed().as_secs_f64()));
    Ok(())
}

/// The agent on its small disk, and who pulls through it.
struct Stage {
    agent: Agent,
    containerds: Vec<Containerd>,
    registry: String,
    /// Unmounted after the agent's end.
    disk: Disk,
}

impl Stage {
    fn start(registry: &Registry, disk: Disk) -> Result<Self> {
        let (budget, grace) = (BUDGET_BYTES.to_string(), format!("{GRACE_SECONDS}s"));
        let more = ["--cache-max-size", &budget, "--cache-orphan-grace", &grace];
        let agent = Agent::start_in(&disk.path().join("data"), &[registry.host()], &more)?;
        let containerds = vec![
            Containerd::start(Release::V1_6)?,
            Containerd::start(Release::V2_2)?,
            Containerd::start(Release::V1_6)?,
            Containerd::start_parallel(PART_BYTES)?,
        ];
        Ok(Self { agent, containerds, registry: registry.host(), disk })
    }

    fn data(&self) -> PathBuf {
        self.disk.path().join("data")
    }

    /// The reference by which a containerd pulls an image of the library.
    fn reference(&self, image: &library::Image) -> String {
        self.agent.image(&self.registry, &image.repository, &format!(":{}", image.tag))
    }
}

/// What a soak was like, in a line.
struct Summary<'a> {
    kind: FileSystem,
    pulls: usize,
    seed: u64,
    library: &'a Library,
    schedule: &'a Schedule,
    outcome: &'a Outcome,
    sent: Vec<Sent>,
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, pulls, seed, library, schedule, outcome, sent } = self;
        let (images, library_mib, budget_mib) = (library.images.len(), library.bytes() / MIB, BUDGET_BYTES / MIB);
        write!(to, "soak of {}, seed {seed}: {pulls} pulls of {images} images of {library_mib} MiB, ", kind.name())?;
        let (kills, full, interrupted) = (schedule.kills(), schedule.fillings(), outcome.interrupted);
        write!(to, "budget {budget_mib} MiB: 0 failed, {interrupted} interrupted by {kills} kills and retried, disk full {full} times; ")?;
        let Seen { samples, used_bytes_most, evicted_images, passed_through } = &outcome.seen;
        let most = percent(*used_bytes_most, BUDGET_BYTES);
        write!(to, "at most {most} % of the budget used in {samples} samples; {evicted_images} images evicted, ")?;
        write!(to, "{passed_through} manifests and blobs passed through; hits before the first accident: ")?;
        write_hits(to, library, &schedule.pulls[..schedule.calm], &outcome.sent_in_calm)?;
        write!(to, ", in all: ")?;
        write_hits(to, library, &schedule.pulls, sent)
    }
}

/// Of these pulls what the registry did not have to send, beside what an LRU of perfect memory would have had. The image that does not
/// fit is left out.
fn write_hits(to: &mut fmt::Formatter<'_>, library: &Library, pulls: &[usize], sent: &[Sent]) -> fmt::Result {
    let oracle = Oracle::run(library, pulls, BUDGET_BYTES);
    let giant = &library.images[library.giant].blobs;
    let mut missed = Count::default();
    sent.iter().filter(|sent| giant.iter().all(|blob| blob.digest != sent.digest)).for_each(|sent| missed.add(sent.bytes));
    let Count { blobs, bytes } = oracle.asked;
    let hits = [percent(blobs.saturating_sub(missed.blobs), blobs), percent(bytes.saturating_sub(missed.bytes), bytes)];
    let ideal = [percent(oracle.hits.blobs, blobs), percent(oracle.hits.bytes, bytes)];
    write!(to, "{} % of blobs, {} % of bytes (LRU oracle: {} %, {} %)", hits[0], hits[1], ideal[0], ideal[1])
}

fn percent(part: u64, whole: u64) -> u64 {
    (part * 100).checked_div(whole).unwrap_or(0)
}

fn setting<T: FromStr<Err: Into<Error>>>(name: &str, usual: T) -> Result<T> {
    match env::var(name) {
        Ok(text) => text.parse().map_err(Into::into).with_context(|| format!("{name}={text}")),
        Err(_) => Ok(usual),
    }
}

/// At once, and whether or not the test's output is captured: a soak takes minutes.
fn say(line: &str) {
    // Nobody listens any more.
    drop(writeln!(io::stdout().lock(), "{line}"));
}
