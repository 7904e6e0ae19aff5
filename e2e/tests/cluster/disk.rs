//! A node whose images, pods and cache share one small file system, as most nodes' do: the cache gives way before the kubelet acts.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use kuik_e2e::cluster::Node;
use kuik_e2e::disk::Room;
use kuik_e2e::images::{self, Content, Image};
use kuik_e2e::kube::with_temp_ns;
use kuik_e2e::wait;
use serde_json::{Value, json};

use crate::env::Env;
use crate::kuik::{Kuik, STATUS_LIMIT, rewritten, run_rewritten};
use crate::runner::say;

/// The one with the small disk.
const NODE: &str = "node3";
/// Its kubelet deletes images when less than this is free: `imageGCHighThresholdPercent: 85`, `imagefs.available: 15%`.
const KUBELET_PERCENT: f64 = 15.0;
/// The agent keeps so much free. Between the two is room for what containerd makes of an image before anybody can act.
const MIN_FREE_PERCENT: f64 = 25.0;
const LAYERS: usize = 2;
const LAYER_BYTES: usize = 8 << 20;
const IMAGE_BYTES: usize = LAYERS * LAYER_BYTES;
/// Less than any image of a test.
const BUDGET_BYTES: u64 = 100 << 10;
/// For the kubelet to hand on a configuration (10 s on this node), and the agent to read it (5 s).
const RELOAD_LIMIT: Duration = Duration::from_secs(120);
const ROOM_LIMIT: Duration = Duration::from_secs(20);
/// What the kubelet would say.
const KUBELET_WORDS: [&str; 4] = ["Removing image to free bytes", "attempting to reclaim", "FreeDiskSpaceFailed", "ImageGCFailed"];

/// Pulls that are together more than the file system: what is free stays above `minFree`, and the kubelet, which is content with less,
/// never deletes an image. The agent goes by new values without a restart.
pub(crate) fn pulls_fill_a_node_and_its_kubelet_removes_no_image(env: &Env) -> Result<()> {
    let kuik = Kuik::installed(env)?;
    let node = kuik.cluster()?.node_named(NODE)?;
    let marker = kuik.push("disk/marker", "1", &images::oci("never run, and never removed")?)?;
    node.ctr(&["images", "pull", "--plain-http", &marker])?;
    let before = node.images()?;
    let said_before = kubelet_log(&node)?.len();
    watches_the_same_disk(&kuik, &node)?;

    let agent = kuik.agent(NODE)?;
    let capacity = Room::at(&node.path("/var/lib/kuik"))?.capacity;
    // More than the values of all tests allow, and not all, for there are containerd's images too.
    let is_budget = |bytes| (capacity / 5 * 2..capacity / 4 * 3).contains(&bytes);
    set_cache(&kuik, &json!({ "maxSize": "75%", "minFree": format!("{MIN_FREE_PERCENT}%") }), is_budget)?;
    let filled = with_temp_ns(kuik.kube, "disk", |ns| {
        run_rewritten(ns, NODE, "used", &kuik.push("disk/used", "1", &images::oci("in use all the time")?)?)?;
        let filled = fill(&kuik, &node)?;
        ensure!(ns.json(&["get", "pod", "used"])?["status"]["containerStatuses"][0]["restartCount"] == 0, "the pod was restarted");
        Ok(filled)
    })?;
    ensure!(kuik.agent(NODE)? == agent, "the agent was restarted for new cache values");

    let after = node.images()?;
    let gone: Vec<&String> = before.iter().filter(|image| !after.contains(image)).collect();
    ensure!(gone.is_empty(), "the kubelet deleted {gone:?}");
    kubelet_did_nothing(&kuik, &node, said_before)?;
    shown(&kuik)?;
    say(&format!(
        "  {} pulls of {} MiB on {} MiB: {:.1} % free at the least, {:.1} % after each pull; {} images evicted",
        filled.pulls,
        IMAGE_BYTES >> 20,
        filled.capacity >> 20,
        filled.lowest_percent,
        filled.settled_percent,
        filled.evicted
    ));
    kuik.install(&json!({}))
}

/// What [`fill`] did and saw.
struct Filled {
    pulls: usize,
    capacity: u64,
    /// At any moment.
    lowest_percent: f64,
    /// Once the agent had had its time after a pull.
    settled_percent: f64,
    evicted: u64,
}

/// Pulls images through the agent and deletes each from containerd, until as much has been pulled as there is on the disk.
fn fill(kuik: &Kuik<'_>, node: &Node) -> Result<Filled> {
    let path = node.path("/var/lib/kuik");
    let capacity = Room::at(&path)?.capacity;
    let pulls = usize::try_from(capacity)? / IMAGE_BYTES + 1;
    let over = AtomicBool::new(false);
    let (settled, lowest) = thread::scope(|scope| {
        let watcher = scope.spawn(|| lowest(&path, &over));
        let settled = pull_all(kuik, node, &path, pulls);
        over.store(true, Ordering::Relaxed);
        (settled, watcher.join())
    });
    let settled_percent = settled?;
    let lowest_percent = lowest.map_err(|_| anyhow!("the watcher panicked"))??;
    ensure!(lowest_percent > KUBELET_PERCENT, "only {lowest_percent:.1} % were free at one moment");
    let evicted = evicted(kuik)?;
    Ok(Filled { pulls, capacity, lowest_percent, settled_percent, evicted })
}

/// Returns what was free at the least, in percent, once the agent had had its time after a pull.
fn pull_all(kuik: &Kuik<'_>, node: &Node, path: &Path, pulls: usize) -> Result<f64> {
    let mut settled_percent = 100.0_f64;
    for number in 0..pulls {
        pull(kuik, node, number)?;
        settled_percent = settled_percent.min(wait_room(path).with_context(|| format!("after pull {number}"))?);
    }
    Ok(settled_percent)
}

fn pull(kuik: &Kuik<'_>, node: &Node, number: usize) -> Result<()> {
    let image = rewritten(&kuik.push(&format!("disk/fill-{number}"), "1", &big(&format!("fill-{number}")))?)?;
    node.ctr(&["images", "pull", "--plain-http", &image])?;
    node.remove_image(&image)
}

fn big(name: &str) -> Image {
    let layers: Vec<Content> = (0..LAYERS).map(|layer| images::plain_layer(&format!("{name}-{layer}"), LAYER_BYTES)).collect();
    images::layered(name, &layers)
}

/// What was free at the least, until it is over.
fn lowest(path: &Path, over: &AtomicBool) -> Result<f64> {
    let mut lowest = 100.0_f64;
    wait::until("the pulls to be over", Duration::from_secs(600), || {
        lowest = lowest.min(Room::at(path)?.free_percent());
        Ok(over.load(Ordering::Relaxed).then_some(()))
    })?;
    Ok(lowest)
}

/// containerd writes on the same disk, and the agent looks at it every few seconds.
fn wait_room(path: &Path) -> Result<f64> {
    wait::until("the agent to have made room", ROOM_LIMIT, || {
        let percent = Room::at(path)?.free_percent();
        ensure!(percent >= MIN_FREE_PERCENT, "{percent:.1} % are free");
        Ok(Some(percent))
    })
}

/// The kubelet's own figures are of this very disk, so that it would act.
fn watches_the_same_disk(kuik: &Kuik<'_>, node: &Node) -> Result<()> {
    let capacity = Room::at(&node.path("/var/lib/kuik"))?.capacity;
    let stats = format!("/api/v1/nodes/{NODE}/proxy/stats/summary");
    wait::until_every(Duration::from_secs(1), "the kubelet to know its disk", STATUS_LIMIT, || {
        let text = kuik.kube.kubectl(&["get", "--raw", &stats])?;
        let summary: Value = serde_json::from_str(&text).context("the kubelet's figures")?;
        for figures in [&summary["node"]["fs"], &summary["node"]["runtime"]["imageFs"]] {
            ensure!(figures["capacityBytes"] == capacity, "the kubelet watches another disk than that of {capacity} bytes: {figures}");
        }
        Ok(Some(()))
    })
}

fn kubelet_log(node: &Node) -> Result<String> {
    fs::read_to_string(node.kubelet().log()).context("read the kubelet's log")
}

fn kubelet_did_nothing(kuik: &Kuik<'_>, node: &Node, from: usize) -> Result<()> {
    let log = kubelet_log(node)?;
    let said = log.get(from..).unwrap_or_default();
    let acted: Vec<&str> = said.lines().filter(|line| KUBELET_WORDS.iter().any(|word| line.contains(word))).collect();
    ensure!(acted.is_empty(), "the kubelet acted: {acted:?}");
    let events =
        kuik.kube.json(&["get", "events", "-A", "--field-selector", &format!("involvedObject.name={NODE},involvedObject.kind=Node")])?;
    let reasons: Vec<&str> = events["items"].as_array().into_iter().flatten().filter_map(|event| event["reason"].as_str()).collect();
    let bad = ["EvictionThresholdMet", "FreeDiskSpaceFailed", "ImageGCFailed", "NodeHasDiskPressure"];
    ensure!(!reasons.iter().any(|reason| bad.contains(reason)), "events of {NODE}: {reasons:?}");
    Ok(())
}

/// Upgrades the release to these cache values, and waits until the node's agent goes by them.
fn set_cache(kuik: &Kuik<'_>, cache: &Value, is_budget: impl Fn(u64) -> bool) -> Result<()> {
    kuik.install(&json!({ "agent": { "cache": cache } }))?;
    wait::until_every(Duration::from_secs(1), "the agent to go by other values", RELOAD_LIMIT, || {
        let text = kuik.on_agent(NODE, &["gc", "--dry-run", "--output", "json"])?;
        let plan: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        let budget = plan["budgetBytes"].as_u64().context("there must be a budget")?;
        ensure!(is_budget(budget), "its budget is {budget}");
        Ok(Some(()))
    })
}

/// Waits until eviction has caught up, and returns how many images went. An image that was just pulled stays until the controller has
/// heard of it; what gets no room meanwhile passes through.
fn evicted(kuik: &Kuik<'_>) -> Result<u64> {
    kuik.kube.wait_json("the cache to be below its high watermark", STATUS_LIMIT, &["get", "nodecache", NODE], |cache| {
        let status = &cache["status"];
        let figure = |name: &str| status[name].as_u64().with_context(|| format!("no {name} in {status}"));
        let (used, budget, evicted) = (figure("usedBytes")?, figure("budgetBytes")?, figure("evictedLastHour")?);
        ensure!(used <= budget / 10 * 9 && evicted > 0, "{status}");
        Ok(evicted)
    })
}

/// What an engineer sees of it.
fn shown(kuik: &Kuik<'_>) -> Result<()> {
    let table = kuik.kube.kubectl(&["get", "nodecaches"])?;
    let head = table.lines().next().unwrap_or_default();
    for column in ["USED", "BUDGET", "FREE", "IMAGES", "EVICTED 1H", "PRESSURE"] {
        ensure!(head.contains(column), "no column {column} in: {head}");
    }
    say(&table.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n"));
    Ok(())
}

/// An image that a pod uses and no other node has is never evicted. When it alone is more than the budget, the node's `NodeCache` says so,
/// and an Event too.
pub(crate) fn what_holds_the_budget_up_is_named(env: &Env) -> Result<()> {
    let kuik = Kuik::installed(env)?;
    let image = kuik.push("disk/pinned", "1", &images::oci("in use, and larger than the budget")?)?;
    with_temp_ns(kuik.kube, "pins", |ns| {
        run_rewritten(ns, NODE, "pinned", &image)?;
        kuik.wait_cached(&image, &[NODE])?;
        set_cache(&kuik, &json!({ "maxSize": BUDGET_BYTES }), |bytes| bytes == BUDGET_BYTES)?;
        kuik.kube.wait_json("the NodeCache to tell of pressure", STATUS_LIMIT, &["get", "nodecache", NODE], |cache| {
            let status = &cache["status"];
            let conditions = status["conditions"].as_array().into_iter().flatten();
            let pressed = conditions.clone().any(|condition| condition["type"] == "DiskPressure" && condition["status"] == "True");
            ensure!(pressed && status["pressure"] == "Yes" && names_last_copy(&status["held"]), "{status}");
            Ok(())
        })?;
        let selector = format!("reason=BudgetExceeded,involvedObject.kind=NodeCache,involvedObject.name={NODE}");
        let arguments = ["get", "events", "-A", "--field-selector", &selector];
        kuik.kube.wait_json("an Event that says what holds the budget up", STATUS_LIMIT, &arguments, |events| {
            let messages = events["items"].as_array().into_iter().flatten().filter_map(|event| event["message"].as_str());
            ensure!(messages.clone().any(|message| message.contains("held (")), "{:?}", messages.collect::<Vec<_>>());
            Ok(())
        })?;
        ensure!(kuik.held(NODE)?.contains(&image), "an image in use was evicted");
        Ok(())
    })?;
    kuik.install(&json!({}))
}

fn names_last_copy(held: &Value) -> bool {
    held.as_array().into_iter().flatten().any(|held| held["reason"] == "last copy" && held["images"].as_u64() >= Some(1))
}
