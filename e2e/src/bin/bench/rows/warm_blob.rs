//! A stored blob of 1 GiB, to one client and to eight at once.

use std::io::Read;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::contenders::{Agent, Flavour, Sendfile, Server, static_files, stored};
use crate::lab::Lab;
use crate::library::{Blob, Image, Library, Links};
use crate::report::Report;
use crate::stats::{GIB, MIB, float, gigabytes_a_second, median, spread, turn};
use crate::upstream::Upstream;

const ROUNDS: usize = 5;
const CPU_TARGET_SECONDS: f64 = 0.35;

/// Everybody who can serve an image that is stored, with it stored.
pub(super) struct Warm {
    pub(super) image: Image,
    pub(super) servers: Vec<Server>,
    pub(super) upstream: Upstream,
}

/// Makes an image, stores it with all contenders, and proves that they serve it.
pub(super) fn warm(lab: &Lab, layers: impl FnOnce(&Library) -> Result<Vec<Blob>>) -> Result<Warm> {
    let mut library = Library::create(lab.folder("library")?)?;
    let layers = layers(&library)?;
    let image = library.image("bench/warm", "v1", layers)?;
    let upstream = Upstream::start(&library)?;
    let registry_root = lab.folder("registry-root")?;
    library.lay_out_registry(&registry_root, Links::All)?;
    let mut servers = Vec::new();
    if let Some(agent) = Agent::start(lab, &lab.folder("agent")?, &upstream)? {
        agent.server.pull(&image)?;
        servers.push(agent.server);
    }
    for sendfile in [Sendfile::On, Sendfile::Off] {
        if lab.options.wants(sendfile.name()) {
            servers.push(static_files(lab, &library, sendfile)?);
        }
    }
    for flavour in [Flavour::Docker, Flavour::Distribution] {
        if lab.options.wants(flavour.name()) {
            servers.push(stored(lab, flavour, &registry_root)?);
        }
    }
    for server in &servers {
        server.prove(&image)?;
    }
    Ok(Warm { image, servers, upstream })
}

/// What one contender did in all rounds with a number of clients.
#[derive(Debug, Default, Clone)]
struct Seen {
    speed: Vec<f64>,
    cpu_seconds_a_gib: Vec<f64>,
}

pub(super) fn measure(lab: &Lab) -> Result<Report> {
    let size = if lab.options.quick { 128 * MIB } else { GIB };
    let warm = warm(lab, |library| Ok(vec![library.random_blob(1, size)?]))?;
    let mut report = Report::table(&["contender", "1 client, GB/s", "CPU s/GiB", "8 clients, GB/s", "CPU s/GiB"]);
    let mut all = vec![[Seen::default(), Seen::default()]; warm.servers.len()];
    for (which, clients) in [1, 8].into_iter().enumerate() {
        for round in 0..lab.rounds(ROUNDS) {
            for index in turn(warm.servers.len(), round) {
                let server = warm.servers.get(index).context("turn must stay in range")?;
                let (took, cpu) = pull_by(clients, server, &warm.image)?;
                let bytes = size * clients as u64;
                let Some(seen) = all.get_mut(index).and_then(|both| both.get_mut(which)) else { continue };
                seen.speed.push(gigabytes_a_second(bytes, took));
                seen.cpu_seconds_a_gib.push(cpu.as_secs_f64() / (float(bytes) / float(GIB)));
            }
        }
    }
    for (server, seen) in warm.servers.iter().zip(&all) {
        report.line([server.name.to_owned()].into_iter().chain(seen.iter().flat_map(Seen::cells)));
    }
    let named: Vec<_> = warm.servers.iter().map(|server| server.name).zip(all).collect();
    check(&mut report, &named);
    report.note("a client is a blocking socket read into a buffer of 512 KiB and dropped; 8 clients are 8 threads with a connection each, from the first request to the last byte");
    report.note("CPU of the server: user and system time of all its processes (/proc/PID/stat)");
    for server in &warm.servers {
        report.command(&server.process.command);
    }
    if let Some(server) = warm.servers.first() {
        report.command(format!("curl -so/dev/null {}", server.url(&warm.image.blob(warm.image.layer()?))));
    }
    Ok(report)
}

impl Seen {
    fn cells(&self) -> [String; 2] {
        let (low, high) = spread(&self.speed);
        let speed = median(&self.speed);
        [format!("{speed:.2} ({low:.2}–{high:.2})"), format!("{:.2}", median(&self.cpu_seconds_a_gib))]
    }
}

fn check(report: &mut Report, all: &[(&str, [Seen; 2])]) {
    let Some((_, agent)) = all.iter().find(|(name, _)| *name == Agent::NAME) else { return };
    let label = ["one client", "8 clients"];
    for (which, (label, agent)) in label.into_iter().zip(agent).enumerate() {
        let nginx = all.iter().filter(|(name, _)| name.starts_with("nginx"));
        let speeds = nginx.filter_map(|(_, both)| both.get(which)).map(|seen| median(&seen.speed));
        let best = speeds.fold(0.0, f64::max);
        if best > 0.0 {
            let ratio = median(&agent.speed) / best;
            report.check(format!("warm blob, {label}"), format!("{ratio:.2} × nginx at its best"), "≥ 1.00 ×", ratio >= 0.995);
        }
        let cpu = median(&agent.cpu_seconds_a_gib);
        report.check(format!("warm blob, {label}: CPU"), format!("{cpu:.2} s/GiB"), "≤ 0.35 s/GiB", cpu <= CPU_TARGET_SECONDS);
    }
}

/// Pulls the layer by several clients at once. Returns how long all of it took, and the server's CPU time.
fn pull_by(clients: usize, server: &Server, image: &Image) -> Result<(Duration, Duration)> {
    let layer = image.layer()?;
    let path = server.path(&image.blob(layer));
    let connections = (0..clients).map(|_| server.connect()).collect::<Result<Vec<_>>>()?;
    let barrier = Barrier::new(clients + 1);
    let cpu_before = server.process.cpu()?;
    let took = thread::scope(|scope| {
        let pulls: Vec<_> = connections
            .into_iter()
            .map(|mut connection| {
                let (barrier, path) = (&barrier, &path);
                scope.spawn(move || {
                    barrier.wait();
                    connection.drop_body(path, layer.size_bytes)
                })
            })
            .collect();
        barrier.wait();
        let started = Instant::now();
        for pull in pulls {
            pull.join().map_err(|_| anyhow::anyhow!("a client panicked"))?.with_context(|| server.name)?;
        }
        anyhow::Ok(started.elapsed())
    })?;
    Ok((took, server.process.cpu()?.saturating_sub(cpu_before)))
}

/// Everything warm, for a profiler.
pub(super) fn hold(lab: &Lab) -> Result<()> {
    let warm = warm(lab, |library| Ok(vec![library.random_blob(1, GIB)?, library.random_blob(2, 4 << 10)?]))?;
    for server in &warm.servers {
        println!("{} pid {}", server.name, server.process.id());
        for path in [warm.image.by_tag(), warm.image.by_digest()] {
            println!("  {}", server.url(&path));
        }
        for layer in &warm.image.layers {
            println!("  {} ({} bytes)", server.url(&warm.image.blob(layer)), layer.size_bytes);
        }
    }
    println!("upstream {}\nend of input ends it", warm.upstream.addr);
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
