//! Admission reviews at a held rate, over TLS on kept connections.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};

use crate::contenders::webhook::{Release, counted, host, metrics};
use crate::control_plane::ControlPlane;
use crate::lab::Lab;
use crate::process::Process;
use crate::report::Report;
use crate::stats::{float, median, milliseconds, percentile};
use crate::workload::{Images, pod, rewrite};

const REVIEWS_A_SECOND: usize = 1_000;
/// One hey for each shape: it sends one body.
const CONNECTIONS: usize = 2;
const SECONDS: usize = 30;
const P99_TARGET_MS: f64 = 5.0;
const MEMORY_TARGET_MIB: f64 = 40.0;
const PATH: &str = "/mutate-core-v1-pod";

/// One kind of review.
struct Shape {
    name: &'static str,
    review: Value,
    /// The answer must hold a patch, or must not.
    patched: bool,
}

/// What one hey saw.
#[derive(Default)]
struct Seen {
    latencies_ms: Vec<f64>,
    refused: usize,
}

pub(super) fn measure(lab: &Lab) -> Result<Report> {
    let plane = ControlPlane::start()?;
    plane.inside(|| {
        let release = Release::install(lab, &plane)?;
        let mut process = release.start()?;
        let authority = release.authority()?;
        let folder = lab.folder("reviews")?;
        let shapes = shapes();
        let files = shapes.iter().map(|shape| prove(&authority, &folder, shape)).collect::<Result<Vec<_>>>()?;
        load_and_report(lab, &mut process, &shapes, &files)
    })
}

fn load_and_report(lab: &Lab, process: &mut Process, shapes: &[Shape], files: &[PathBuf]) -> Result<Report> {
    let seconds = if lab.options.quick { 5 } else { SECONDS };
    let rate = REVIEWS_A_SECOND / shapes.len();
    let idle = process.memory()?;
    let (cpu_before, before) = (process.cpu()?, metrics()?);
    let started = Instant::now();
    let seen = load(files, rate, seconds)?;
    let took = started.elapsed();
    let (cpu, after, memory) = (process.cpu()?.saturating_sub(cpu_before), metrics()?, process.memory()?);
    process.check()?;

    let mut report = Report::table(&["review", "bytes", "answered", "p50 ms", "p99 ms", "max ms", "errors"]);
    let mut all = Seen::default();
    for ((shape, file), seen) in shapes.iter().zip(files).zip(seen) {
        report.line(line(shape.name, fs::metadata(file)?.len(), &seen));
        all.latencies_ms.extend(seen.latencies_ms);
        all.refused += seen.refused;
    }
    report.line(line("all", 0, &all));
    let (answered, wanted) = (all.latencies_ms.len(), REVIEWS_A_SECOND * seconds);
    let p99 = percentile(&all.latencies_ms, 0.99);
    report.check(format!("admission, {REVIEWS_A_SECOND} reviews/s: p99"), format!("{p99:.1} ms"), "< 5 ms", p99 < P99_TARGET_MS);
    let share = float(answered as u64) / float(wanted as u64);
    let held = share >= 0.99 && all.refused == 0;
    report.check("admission: rate held, without errors", format!("{:.1} %", share * 100.0), "≥ 99 %", held);
    let most = float(memory.high_water_kib) / 1024.0;
    report.check("admission: memory, at the most", format!("{most:.1} MiB"), "< 40 MiB", most < MEMORY_TARGET_MIB);
    let count = |label: &str| {
        let name = "kuik_webhook_admission_reviews_total";
        counted(&after, name, label) - counted(&before, name, label)
    };
    report.note(format!(
        "webhook: {:.2} s of CPU in {:.0} s ({:.0} µs for each review); memory before the load {:.1} MiB; it counted {} reviews patched, {} not, {} otherwise",
        cpu.as_secs_f64(),
        took.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / float(answered.max(1) as u64),
        float(idle.rss_kib) / 1024.0,
        count("\"patched\""),
        count("\"unpatched\""),
        count("") - count("\"patched\"") - count("\"unpatched\""),
    ));
    report.note(format!(
        "a hey for each kind of review at once, each with {CONNECTIONS} connections that send one review every {} ms; a review whose turn comes while the one before is not answered waits, and is not sent at all if the next turn comes too: what is missing of the rate was late",
        CONNECTIONS * 1000 / rate
    ));
    report.note("times are those of hey, from the request to the last byte of the answer, with the first request's TLS handshake; of pods with an init container and three containers; the webhook leads on a real API server, with its own certificates");
    report.command(process.command.clone());
    for file in files {
        report.command(format!("hey {}", arguments(file, rate, seconds).join(" ")));
    }
    Ok(report)
}

fn shapes() -> Vec<Shape> {
    let web = ["registry.example.com/shop/migrate:5.2.1", "registry.example.com/shop/web:5.2.1", "envoyproxy/envoy:v1.34.1", "nginx"];
    let digest = "sha256:2f3c4b5a69788796a5b4c3d2e1f00112233445566778899aabbccddeeff00112";
    let pinned = ["alpine/git", "ghcr.io/team/worker", "quay.io/prometheus/statsd-exporter", "docker.io/library/redis"];
    let private = ["tools", "billing/server", "mesh/proxy", "mesh/exporter"];
    let named = |images: [&str; 4], change: &dyn Fn(&str) -> String| -> Images { images.map(change) };
    let web = pod("shop", "web-7c9d5f6b48-x2x7k", &named(web, &str::to_owned));
    let worker = pod("team", "worker-0", &named(pinned, &|image| format!("{image}@{digest}")));
    let mut sidecar = pod("billing", "billing-1", &named(private, &|image| format!("registry.internal:5000/{image}:2026.03")));
    let mut rewritten = sidecar.clone();
    sidecar["spec"]["initContainers"][0]["restartPolicy"] = "Always".into();
    rewrite(&mut rewritten);
    let mut labelled = rewritten.clone();
    labelled["metadata"]["labels"]["rollout"] = "paused".into();
    vec![
        Shape { name: "create, tags of several registries", review: review("CREATE", &web, &Value::Null), patched: true },
        Shape { name: "create, digests", review: review("CREATE", &worker, &Value::Null), patched: true },
        Shape { name: "create, registry with a port, sidecar", review: review("CREATE", &sidecar, &Value::Null), patched: true },
        Shape { name: "update of a rewritten pod", review: review("UPDATE", &labelled, &rewritten), patched: false },
    ]
}

fn review(operation: &str, pod: &Value, old: &Value) -> Value {
    let kind = json!({ "group": "", "version": "v1", "kind": "Pod" });
    let resource = json!({ "group": "", "version": "v1", "resource": "pods" });
    json!({
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "kind": kind, "resource": resource, "requestKind": kind, "requestResource": resource,
            "name": pod["metadata"]["name"], "namespace": pod["metadata"]["namespace"], "operation": operation,
            "userInfo": {
                "username": "system:serviceaccount:kube-system:replicaset-controller", "uid": "a0b1c2d3-0000-4000-8000-42010a800002",
                "groups": ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"],
            },
            "object": pod, "oldObject": old, "dryRun": false,
            "options": { "kind": format!("{}Options", if operation == "CREATE" { "Create" } else { "Update" }), "apiVersion": "meta.k8s.io/v1" },
        },
    })
}

/// Writes a review into a file, and has it answered once, with the certificate checked.
fn prove(authority: &Path, folder: &Path, shape: &Shape) -> Result<PathBuf> {
    let file = folder.join(format!("{}.json", shape.name.replace([' ', ','], "-")));
    fs::write(&file, shape.review.to_string()).with_context(|| format!("cannot write {}", file.display()))?;
    let name = host("webhook");
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--fail", "--resolve", &format!("{name}:8443:127.0.0.1"), "--cacert"]).arg(authority);
    curl.arg("--json").arg(format!("@{}", file.display())).arg(format!("https://{name}:8443{PATH}"));
    let answer = kuik_e2e::process::run_text(&mut curl).with_context(|| shape.name)?;
    ensure!(answer.contains("\"allowed\":true"), "{}: not allowed: {answer}", shape.name);
    ensure!(answer.contains("\"patch\"") == shape.patched, "{}: a wrong answer: {answer}", shape.name);
    Ok(file)
}

/// One hey for each file, all at once.
fn load(files: &[PathBuf], rate: usize, seconds: usize) -> Result<Vec<Seen>> {
    let start = |file: &PathBuf| {
        let mut hey = Command::new("hey");
        hey.args(arguments(file, rate, seconds)).stdin(Stdio::null()).stdout(Stdio::piped());
        hey.spawn().context("cannot run hey")
    };
    let running = files.iter().map(start).collect::<Result<Vec<_>>>()?;
    let threads: Vec<_> = running.into_iter().map(|hey| std::thread::spawn(move || hey.wait_with_output())).collect();
    let outputs = threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?.context("hey failed"));
    outputs.map(|output| read(&String::from_utf8_lossy(&output?.stdout))).collect()
}

fn arguments(file: &Path, rate: usize, seconds: usize) -> Vec<String> {
    let line = format!(
        "-z {seconds}s -c {CONNECTIONS} -q {} -cpus 1 -o csv -m POST -T application/json -host {}",
        rate / CONNECTIONS,
        host("webhook")
    );
    let rest = ["-D".to_owned(), file.display().to_string(), format!("https://127.0.0.1:8443{PATH}")];
    line.split(' ').map(str::to_owned).chain(rest).collect()
}

/// Columns: time of the answer in seconds first, status seventh.
fn read(csv: &str) -> Result<Seen> {
    let mut seen = Seen::default();
    for line in csv.lines().skip(1).filter(|line| !line.is_empty()) {
        let columns: Vec<&str> = line.split(',').collect();
        let (Some(time), Some(status)) = (columns.first(), columns.get(6)) else { return Err(anyhow!("hey printed {line:?}")) };
        let time = Duration::from_secs_f64(time.parse().with_context(|| format!("hey printed {line:?}"))?);
        match *status {
            "200" => seen.latencies_ms.push(milliseconds(time)),
            _ => seen.refused += 1,
        }
    }
    ensure!(!seen.latencies_ms.is_empty(), "hey saw no answer:\n{csv}");
    Ok(seen)
}

fn line(name: &str, bytes: u64, seen: &Seen) -> [String; 7] {
    let times = &seen.latencies_ms;
    [
        name.to_owned(),
        if bytes == 0 { "–".to_owned() } else { bytes.to_string() },
        times.len().to_string(),
        format!("{:.1}", median(times)),
        format!("{:.1}", percentile(times, 0.99)),
        format!("{:.1}", percentile(times, 1.0)),
        seen.refused.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_are_no_success_are_errors_and_no_times() {
        let csv = "response-time,DNS+dialup,DNS,Request-write,Response-delay,Response-read,status-code,offset\n\
                   0.0012,0.0001,0.0000,0.0000,0.0010,0.0000,200,0.0000\n0.2000,0.0000,0.0000,0.0000,0.1000,0.0000,503,0.0160\n";
        let seen = read(csv).unwrap();
        assert_eq!((seen.latencies_ms, seen.refused), (vec![1.2], 1));
        assert!(read("response-time,status\n").is_err(), "no answer at all");
    }
}
