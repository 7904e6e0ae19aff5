//! How much later the first byte of a layer comes, of an image that nobody has yet.

use anyhow::Result;

use crate::contenders::{Cold, Server, pull};
use crate::lab::Lab;
use crate::library::{Image, Library};
use crate::report::Report;
use crate::stats::{MIB, median, milliseconds, spread, turn};
use crate::upstream::Upstream;

const IMAGES: u64 = 60;
const TARGET_MS: f64 = 2.0;

pub(super) fn measure(lab: &Lab) -> Result<Report> {
    let mut library = Library::create(lab.folder("library")?)?;
    let count = if lab.options.quick { 5 } else { IMAGES };
    let mut images = Vec::new();
    for number in 0..count {
        let layer = library.random_blob(number + 1, MIB)?;
        images.push(library.image(&format!("bench/fresh-{number}"), "v1", vec![layer])?);
    }
    let upstream = Upstream::start(&library)?;
    let mut servers = Vec::new();
    for cold in [Cold::Agent, Cold::NginxProxyCache, Cold::Distribution] {
        servers.extend(cold.start(lab, &upstream)?.map(|server| (cold, server)));
    }
    let (direct, through) = pulls(&upstream, &images, &servers)?;
    let base = median(&direct);
    let mut report = Report::table(&["way", "first byte, ms", "added, ms"]);
    report.line(["direct".to_owned(), cell(&direct), "0".to_owned()]);
    for ((cold, server), seen) in servers.iter().zip(&through) {
        let added = median(seen) - base;
        report.line([server.name.to_owned(), cell(seen), format!("{added:.2}")]);
        if *cold == Cold::Agent {
            report.check("first byte of a cold pull", format!("+ {added:.2} ms"), "≤ + 2 ms", added <= TARGET_MS);
        }
    }
    report.note(format!(
        "median of {count} images that the contender has never seen, one after the other; from connect (a new connection for each) over the manifest by tag to the first byte of a layer of 1 MiB"
    ));
    Ok(report)
}

fn cell(seen: &[f64]) -> String {
    let (low, high) = spread(seen);
    format!("{:.2} ({low:.2}–{high:.2})", median(seen))
}

/// Milliseconds to the first byte, directly and through each, for each image.
fn pulls(upstream: &Upstream, images: &[Image], servers: &[(Cold, Server)]) -> Result<(Vec<f64>, Vec<Vec<f64>>)> {
    let mut direct = Vec::new();
    let mut through = vec![Vec::new(); servers.len()];
    for (round, image) in images.iter().enumerate() {
        direct.push(milliseconds(pull(upstream.addr, "", image)?.first_byte));
        for index in turn(servers.len(), round) {
            let (Some((_, server)), Some(seen)) = (servers.get(index), through.get_mut(index)) else { continue };
            seen.push(milliseconds(server.pull(image)?.first_byte));
        }
    }
    Ok((direct, through))
}
