//! What must be true when all is over: read from the disk, not from the agent, wherever it can be.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use kuik_e2e::images::sha256;
use kuik_e2e::registry::Registry;
use kuik_e2e::wait;
use serde_json::Value;

use super::library::Library;
use super::{GRACE_SECONDS, Stage, say};

/// The index is measured every few seconds.
const FIGURES_LIMIT: Duration = Duration::from_secs(30);
/// Orphans are looked for every now and then.
const ORPHANS_LIMIT: Duration = Duration::from_secs(60);
/// So many images are pulled while the registry is away.
const PULLED_AGAIN: usize = 12;
const STAT_BLOCK_BYTES: u64 = 512;
/// What is counted: everything that the agent writes, but for three small notes in the root.
const COUNTED: [&str; 7] = ["blobs", "tmp", "refs", "quarantine", "index", "index.bad", "control"];

/// What the agent counts by its length as it comes; the rest it measures now and then.
const COUNTED_AS_THEY_COME: [&str; 3] = ["blobs", "tmp", "refs"];

/// What was looked at, for the summary.
pub(super) struct Audited {
    files_kib: u64,
    blobs: usize,
    images: usize,
    pulled: usize,
}

impl fmt::Display for Audited {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files_kib, blobs, images, pulled } = self;
        write!(to, "audit: used equals du ({files_kib} KiB) to the byte before and after a kill and a restart, {blobs} blobs ")?;
        write!(to, "right and none without reference, {images} images complete, {pulled} of them pulled without the registry")
    }
}

/// Looks at everything.
pub(super) fn audit(stage: &mut Stage, library: &Library, registry: &mut Registry) -> Result<Audited> {
    stage.disk.free_up()?;
    wait_idle(stage)?;
    accounts_are_right(stage).context("before a restart")?;
    stage.agent.kill()?;
    stage.agent.start_again()?;
    accounts_are_right(stage).context("after a kill")?;
    stage.agent.restart()?;
    let files_kib = accounts_are_right(stage).context("after an orderly restart")? / 1024;
    no_orphan_stays(&stage.data())?;
    let blobs = blobs_are_right(&stage.data())?;
    let complete = complete_images(stage)?;
    ensure!(!complete.is_empty(), "no image is complete");
    for (reference, digest) in &complete {
        is_whole(&stage.data(), digest).with_context(|| format!("{reference} is said to be complete"))?;
    }
    registry.down()?;
    let pulled = pull_without_registry(stage, library, &complete)?;
    nothing_is_quarantined(stage)?;
    Ok(Audited { files_kib, blobs, images: complete.len(), pulled })
}

fn wait_idle(stage: &Stage) -> Result<()> {
    wait::until("the agent to have nothing to do", FIGURES_LIMIT, || {
        let metrics = stage.agent.metrics()?;
        for name in ["kuik_agent_fills_in_flight", "kuik_agent_cache_reserved_bytes"] {
            let count = metrics.count(name)?;
            ensure!(count == 0, "{name} is {count}");
        }
        ensure!(files(&stage.data().join("tmp"))?.is_empty(), "something is being written");
        Ok(Some(()))
    })
}

/// The agent's figure is what the files take, to the byte; the file system may say a block more of some, see [`on_disk`]. The index has files
/// too, which it writes as it likes; nothing happens now, so it will be done and measured soon.
fn accounts_are_right(stage: &Stage) -> Result<u64> {
    wait::until("the agent's figure to be what the files take", FIGURES_LIMIT, || {
        let used = || stage.agent.metrics()?.count("kuik_agent_cache_used_bytes");
        let before = used()?;
        let taken = taken(&stage.data())?;
        let all: u64 = taken.iter().map(|(_, bytes)| bytes).sum();
        ensure!(before == all && used()? == all, "{before} bytes are said to be used, and the files take {all}: {taken:?}");
        Ok(Some(all))
    })
}

/// What the files in each counted folder take.
fn taken(data: &Path) -> Result<Vec<(&'static str, u64)>> {
    let of = |name: &str| -> Result<u64> {
        let files = files(&data.join(name))?;
        files.iter().map(|(path, meta)| if COUNTED_AS_THEY_COME.contains(&name) { on_disk(path, meta) } else { Ok(st_blocks(meta)) }).sum()
    };
    COUNTED.into_iter().map(|name| Ok((name, of(name)?))).collect()
}

/// A file's length in whole blocks, which is what it takes to keep it. ext4 adds a block to a file of more than four extents (its extent tree
/// has no room in the inode then), which is no content, and which nobody can know of who writes the file.
fn on_disk(path: &Path, meta: &Metadata) -> Result<u64> {
    let length = meta.len().next_multiple_of(meta.blksize());
    let more = st_blocks(meta).checked_sub(length).with_context(|| format!("{} has holes", path.display()))?;
    ensure!(more == 0 || more == meta.blksize(), "{}: {} bytes take {} on the disk", path.display(), meta.len(), st_blocks(meta));
    if more > 0 {
        say(&format!("{} takes a block more than its {} bytes", path.display(), meta.len()));
    }
    Ok(length)
}

fn st_blocks(meta: &Metadata) -> u64 {
    meta.blocks() * STAT_BLOCK_BYTES
}

/// All files below a folder, which need not exist.
fn files(folder: &Path) -> Result<Vec<(PathBuf, Metadata)>> {
    let mut found = Vec::new();
    if !folder.exists() {
        return Ok(found);
    }
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_dir() {
            found.extend(files(&entry.path())?);
        } else {
            found.push((entry.path(), meta));
        }
    }
    Ok(found)
}

/// Blobs by their hex digits.
fn blobs(data: &Path) -> Result<BTreeMap<String, (PathBuf, Metadata)>> {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(files(&data.join("blobs"))?.into_iter().map(|(path, meta)| (name(&path), (path, meta))).collect())
}

/// A blob that no record of a repository leads to goes once it is as old as the grace period. Until then it may be what an
/// interrupted pull left.
fn no_orphan_stays(data: &Path) -> Result<()> {
    let grace = Duration::from_secs(GRACE_SECONDS);
    wait::until("blobs without reference to be deleted", ORPHANS_LIMIT, || {
        let referenced = referenced(data)?;
        for (hex, (_, meta)) in blobs(data)?.iter().filter(|(hex, _)| !referenced.contains(hex.as_str())) {
            let age = SystemTime::now().duration_since(meta.modified()?).unwrap_or_default();
            ensure!(age <= grace, "nothing refers to {hex}, which is {age:?} old");
        }
        Ok(Some(()))
    })
}

/// What the manifests lead to that repositories have records of.
fn referenced(data: &Path) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    let records = files(&data.join("refs"))?.into_iter().filter(|(path, _)| path.parent().is_some_and(|dir| dir.ends_with("_manifests")));
    for (path, _) in records {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let hex = name.strip_prefix("sha256-").with_context(|| format!("what is {}?", path.display()))?;
        closure(data, hex, &mut all)?;
    }
    Ok(all)
}

/// Adds a manifest and everything below it, there or not.
fn closure(data: &Path, hex: &str, all: &mut BTreeSet<String>) -> Result<()> {
    let path = data.join("blobs/sha256").join(&hex[..2]).join(hex);
    if !all.insert(hex.to_owned()) || !path.exists() {
        return Ok(());
    }
    let manifest: Value = serde_json::from_slice(&fs::read(&path)?).with_context(|| format!("{} is no manifest", path.display()))?;
    let digest = |descriptor: &Value| descriptor["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:")).map(str::to_owned);
    let lists = [&manifest["layers"], &manifest["manifests"]].into_iter().filter_map(Value::as_array).flatten();
    all.extend([&manifest["config"]].into_iter().chain(lists.clone()).filter_map(digest));
    for child in manifest["manifests"].as_array().into_iter().flatten().filter_map(digest) {
        all.remove(&child);
        closure(data, &child, all)?;
    }
    Ok(())
}

/// Every blob has the content that its name says.
fn blobs_are_right(data: &Path) -> Result<usize> {
    let all = blobs(data)?;
    for (hex, (path, _)) in &all {
        let digest = sha256(&fs::read(path)?);
        ensure!(digest == format!("sha256:{hex}"), "{} has the content of {digest}", path.display());
    }
    Ok(all.len())
}

/// The images that the agent says it holds as a whole, and their digests.
fn complete_images(stage: &Stage) -> Result<Vec<(String, String)>> {
    let text = stage.agent.command(&["ls", "--output", "json"])?;
    let list: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    let images = list["images"].as_array().with_context(|| text.clone())?;
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let complete = images.iter().filter(|image| image["complete"] == true);
    Ok(complete.map(|image| (word(&image["reference"]), word(&image["digest"]))).collect())
}

fn is_whole(data: &Path, digest: &str) -> Result<()> {
    let mut wanted = BTreeSet::new();
    closure(data, digest.strip_prefix("sha256:").context("its digest must be a sha256")?, &mut wanted)?;
    let held = blobs(data)?;
    let missing: Vec<&String> = wanted.iter().filter(|hex| !held.contains_key(*hex)).collect();
    ensure!(missing.is_empty(), "these blobs are missing: {missing:?}");
    Ok(())
}

/// containerd checks every digest by itself.
fn pull_without_registry(stage: &Stage, library: &Library, complete: &[(String, String)]) -> Result<usize> {
    let known = |image: &&super::library::Image| {
        let reference = format!("{}/{}:{}", stage.registry, image.repository, image.tag);
        complete.iter().any(|(complete, _)| *complete == reference)
    };
    let images: Vec<_> = library.images.iter().filter(known).take(PULLED_AGAIN).collect();
    ensure!(!images.is_empty(), "no complete image has a tag: {complete:?}");
    for (image, containerd) in images.iter().zip(stage.containerds.iter().cycle()) {
        let reference = stage.reference(image);
        containerd.pull(&reference).with_context(|| format!("pull {reference}, which is complete, without the registry"))?;
        containerd.remove(&reference)?;
    }
    Ok(images.len())
}

fn nothing_is_quarantined(stage: &Stage) -> Result<()> {
    let text = stage.agent.command(&["verify", "--output", "json"])?;
    let last: Value = serde_json::from_str(text.lines().last().unwrap_or_default()).with_context(|| text.clone())?;
    ensure!(last["event"] == "done" && last["quarantined"] == 0, "verify says {last}");
    ensure!(files(&stage.data().join("quarantine"))?.is_empty(), "something was quarantined");
    Ok(())
}
