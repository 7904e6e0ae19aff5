//! An image of 1 GiB that nobody has yet, pulled through each, and directly from the same upstream.

use std::time::Duration;

use anyhow::Result;

use crate::contenders::{Cold, pull};
use crate::lab::Lab;
use crate::library::{Image, Library};
use crate::report::Report;
use crate::stats::{GIB, MIB, median, spread, turn};
use crate::upstream::Upstream;

const ROUNDS: usize = 3;
const HELD: u64 = 100_000_000;
const CONTENDERS: [Cold; 3] = [Cold::Agent, Cold::NginxProxyCache, Cold::Distribution];

pub(super) fn measure(lab: &Lab) -> Result<Report> {
    let mut library = Library::create(lab.folder("library")?)?;
    let size = if lab.options.quick { 128 * MIB } else { GIB };
    let layer = library.random_blob(1, size)?;
    let image = library.image("bench/cold", "v1", vec![layer])?;
    let upstream = Upstream::start(&library)?;
    let mut report = Report::table(&["upstream", "way", "seconds", "× direct"]);
    for (label, rate) in [("held to 100 MB/s", HELD), ("unlimited", 0)] {
        upstream.hold(rate);
        let (direct, through) = rounds(lab, &upstream, &image)?;
        let base = median(&direct);
        report.line([label.to_owned(), "direct".to_owned(), cell(&direct), "1".to_owned()]);
        let mut ratios = Vec::new();
        for (cold, seconds) in through {
            let ratio = median(&seconds) / base;
            report.line([label.to_owned(), cold.name().to_owned(), cell(&seconds), format!("{ratio:.3}")]);
            ratios.push((cold, ratio));
        }
        check(&mut report, label, rate, &ratios);
    }
    report.note("a pull is: connect, manifest by tag, layer; timed from connect to last byte; every contender is started anew with an empty folder for each pull, and dirty pages are written out before");
    report.note("the upstream sends from the page cache with sendfile; held, it paces each response in pieces of 128 KiB");
    report.note("the agent and distribution fsync what they keep, nginx does not");
    Ok(report)
}

type Through = Vec<(Cold, Vec<f64>)>;

/// Seconds of direct pulls, and of pulls through each contender.
fn rounds(lab: &Lab, upstream: &Upstream, image: &Image) -> Result<(Vec<f64>, Through)> {
    let mut direct = Vec::new();
    let mut through: Through = CONTENDERS.iter().map(|&cold| (cold, Vec::new())).collect();
    for round in 0..lab.rounds(ROUNDS) {
        direct.push(seconds(pull(upstream.addr, "", image)?.all));
        for index in turn(CONTENDERS.len(), round) {
            let Some((cold, seen)) = through.get_mut(index) else { continue };
            rustix::fs::sync();
            let Some(server) = cold.start(lab, upstream)? else { continue };
            seen.push(seconds(server.pull(image)?.all));
        }
    }
    through.retain(|(_, seconds)| !seconds.is_empty());
    Ok((direct, through))
}

fn check(report: &mut Report, label: &str, rate: u64, ratios: &[(Cold, f64)]) {
    let find = |wanted: Cold| ratios.iter().find(|(cold, _)| *cold == wanted).map(|(_, ratio)| *ratio);
    let Some(agent) = find(Cold::Agent) else { return };
    let what = format!("cold pull, upstream {label}");
    if rate > 0 {
        report.check(what, format!("{agent:.3} × direct"), "≤ 1.02 × direct", agent <= 1.02);
    } else if let Some(nginx) = find(Cold::NginxProxyCache) {
        let figure = format!("{agent:.2} × direct, nginx proxy_cache {nginx:.2} ×");
        report.check(what, figure, "ahead of nginx proxy_cache", agent < nginx);
    }
}

fn seconds(took: Duration) -> f64 {
    took.as_secs_f64()
}

fn cell(seconds: &[f64]) -> String {
    let (low, high) = spread(seconds);
    format!("{:.2} ({low:.2}–{high:.2})", median(seconds))
}
