//! Agents as the control API sees them: a pod on each node, its bound token, reports at an agent's pace, and two long polls each.
//!
//! They are curl's connections, with TLS and the certificate checked. The pace of agents: a report each minute, a full one when it is
//! asked for, else what changed: free disk, traffic, times of use.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::api::{Api, for_each};
use crate::contenders::webhook::{NAME, NAMESPACE, host};
use crate::lab::Lab;
use crate::library::hex;
use crate::population::node_name;

const HEARTBEAT: Duration = Duration::from_secs(60);
/// The first reports come spread over this.
const FIRST_WITHIN: Duration = Duration::from_secs(10);
/// After the first failure; twice as long after each further one, up to a minute.
const RETRY: Duration = Duration::from_secs(1);
/// Reports are at least so far apart.
const INTERVAL: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Longer than a long poll is held.
const POLL_SECONDS_MAX: u32 = 45;
/// Images pulled since the last report.
const USED: usize = 3;
const GIB: u64 = 1 << 30;

/// Running agents. Dropping them ends them.
pub(crate) struct Reporters {
    shared: Arc<Shared>,
    stop: Vec<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    agents: Vec<Mutex<Agent>>,
    folder: PathBuf,
    authority: PathBuf,
    reports: AtomicU64,
    polls: AtomicU64,
    failures: AtomicU64,
}

struct Agent {
    number: usize,
    token: String,
    boot: String,
    sequence: u64,
    full_wanted: bool,
    failures: u32,
    due: Instant,
    images: BTreeSet<String>,
    /// As the control API knows them.
    told: BTreeSet<String>,
    etags: [String; 2],
}

const POLLS: [&str; 2] = ["/v1/desired", "/v1/agents"];

impl Reporters {
    /// Makes an agent for each set of images, on the node of its number, and lets them report.
    pub(crate) fn start(lab: &Lab, api: &Api, authority: &Path, images: &[BTreeSet<String>]) -> Result<Self> {
        let count = images.len();
        let made: Vec<Mutex<Option<Agent>>> = images.iter().map(|_| Mutex::default()).collect();
        let numbered: Vec<(usize, &BTreeSet<String>)> = images.iter().enumerate().collect();
        for_each(&numbered, |&(number, images)| {
            let token = create_pod(api, number)?;
            let wait = FIRST_WITHIN * u32::try_from(number)? / u32::try_from(count)?;
            let agent = Agent::new(number, token, Instant::now() + wait, images.clone());
            *made.get(number).context("an agent must have a place")?.lock().unwrap_or_else(PoisonError::into_inner) = Some(agent);
            Ok(())
        })?;
        let agents = made.into_iter().filter_map(|agent| agent.into_inner().unwrap_or_else(PoisonError::into_inner)).map(Mutex::new);
        let shared = Arc::new(Shared {
            agents: agents.collect(),
            folder: lab.folder("reporters")?,
            authority: authority.to_owned(),
            reports: AtomicU64::new(0),
            polls: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        });
        let mut reporters = Self { shared, stop: Vec::new(), threads: Vec::new() };
        reporters.spawn(|shared, stop| {
            while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(LOOK_EVERY) {
                // What fails is counted, and shows in the row.
                drop(shared.report_due(stop));
            }
        });
        reporters.spawn(|shared, stop| {
            let (mut pause, mut failures) = (LOOK_EVERY, 0);
            while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(pause) {
                let all_answered = shared.poll_all(stop).unwrap_or(false);
                (pause, failures) = if all_answered { (LOOK_EVERY, 0) } else { (retry_after(failures), failures + 1) };
            }
        });
        Ok(reporters)
    }

    /// They have pulled these too.
    pub(crate) fn hold(&self, images: Vec<BTreeSet<String>>) {
        for (agent, images) in self.shared.agents.iter().zip(images) {
            let mut agent = agent.lock().unwrap_or_else(PoisonError::into_inner);
            agent.images.extend(images);
            agent.due = agent.due.min(Instant::now() + INTERVAL);
        }
    }

    /// Reports taken, polls answered, and calls that failed so far.
    pub(crate) fn counts(&self) -> [u64; 3] {
        [&self.shared.reports, &self.shared.polls, &self.shared.failures].map(|count| count.load(Ordering::Relaxed))
    }

    fn spawn(&mut self, work: impl FnOnce(&Shared, &Receiver<()>) + Send + 'static) {
        let (sender, receiver) = channel();
        let shared = Arc::clone(&self.shared);
        self.stop.push(sender);
        self.threads.push(thread::spawn(move || work(&shared, &receiver)));
    }
}

impl Drop for Reporters {
    fn drop(&mut self) {
        self.stop.clear();
        for thread in self.threads.drain(..) {
            // Its panic was printed.
            drop(thread.join());
        }
    }
}

impl Shared {
    /// Sends the reports that are due.
    fn report_due(&self, stop: &Receiver<()>) -> Result<()> {
        let now = Instant::now();
        let due: Vec<usize> = (0..self.agents.len()).filter(|&number| self.with(number, |agent| agent.due <= now)).collect();
        if due.is_empty() {
            return Ok(());
        }
        let mut config = String::new();
        for &number in &due {
            let (body, token) = self.with(number, |agent| (agent.compose(), agent.token.clone()));
            fs::write(self.file(number, "report"), body.to_string())?;
            config += &self.block(number, 0, "/v1/report", &token);
            config += &format!(
                "header = \"Content-Type: application/json\"\ndata-binary = \"@{}\"\nnext\n",
                self.file(number, "report").display()
            );
        }
        let said = self.curl("reports", &config, &[], stop)?;
        let answered: BTreeSet<usize> =
            said.lines().filter_map(|line| line.strip_suffix(" 200 ")?.split(' ').next()?.parse().ok()).collect();
        for number in due {
            let answer = fs::read(self.file(number, "0")).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
            let answer = answer.filter(|_| answered.contains(&number));
            let counter = if answer.is_some() { &self.reports } else { &self.failures };
            counter.fetch_add(1, Ordering::Relaxed);
            self.with(number, |agent| agent.answered(answer.as_ref()));
        }
        Ok(())
    }

    /// Two polls of each agent, until all have ended; whether all were answered.
    fn poll_all(&self, stop: &Receiver<()>) -> Result<bool> {
        let mut config = String::new();
        for number in 0..self.agents.len() {
            let (token, etags) = self.with(number, |agent| (agent.token.clone(), agent.etags.clone()));
            for (which, (path, etag)) in POLLS.iter().zip(etags).enumerate() {
                config += &self.block(number, which + 1, path, &token);
                config += &format!("header = \"If-None-Match: {}\"\nnext\n", etag.replace('"', "\\\""));
            }
        }
        let most = format!("{}", POLLS.len() * self.agents.len());
        let said = self.curl("polls", &config, &["--parallel", "--parallel-immediate", "--parallel-max", &most], stop)?;
        let mut all_answered = true;
        for line in said.lines() {
            let mut words = line.split(' ');
            let (number, which, status, etag) = (words.next(), words.next(), words.next(), words.next().unwrap_or_default());
            let numbers = number.and_then(|word| word.parse::<usize>().ok()).zip(which.and_then(|word| word.parse::<usize>().ok()));
            let answered = matches!(status, Some("200" | "304"));
            all_answered &= answered;
            (if answered { &self.polls } else { &self.failures }).fetch_add(1, Ordering::Relaxed);
            if let Some((number, which)) = numbers.filter(|(number, _)| answered && *number < self.agents.len()) {
                self.with(number, |agent| agent.etags.iter_mut().skip(which - 1).take(1).for_each(|known| etag.clone_into(known)));
            }
        }
        Ok(all_answered)
    }

    /// What every call has, as curl reads it; says `number which status etag` in the end.
    fn block(&self, number: usize, which: usize, path: &str, token: &str) -> String {
        let (host, output) = (host("control"), self.file(number, &which.to_string()));
        format!(
            "silent\nurl = \"https://{host}:9443{path}\"\nresolve = \"{host}:9443:127.0.0.1\"\ncacert = \"{}\"\nmax-time = {POLL_SECONDS_MAX}\n\
             header = \"Authorization: Bearer {token}\"\noutput = \"{}\"\nwrite-out = \"{number} {which} %{{http_code}} %header{{etag}}\\n\"\n",
            self.authority.display(),
            output.display()
        )
    }

    /// Runs curl to its end, or until it is time to stop.
    fn curl(&self, name: &str, config: &str, more: &[&str], stop: &Receiver<()>) -> Result<String> {
        let file = |extension: &str| self.folder.join(format!("{name}.{extension}"));
        fs::write(file("curl"), config.strip_suffix("next\n").unwrap_or(config))?;
        let mut curl = Command::new("curl");
        curl.args(more).arg("--config").arg(file("curl")).stdin(Stdio::null()).stderr(Stdio::null()).stdout(File::create(file("out"))?);
        let mut running = curl.spawn().context("cannot run curl")?;
        while running.try_wait()?.is_none() {
            if let Err(RecvTimeoutError::Disconnected) = stop.recv_timeout(Duration::from_millis(20)) {
                running.kill()?;
            }
        }
        Ok(fs::read_to_string(file("out"))?)
    }

    fn file(&self, number: usize, what: &str) -> PathBuf {
        self.folder.join(format!("{number}.{what}"))
    }

    fn with<T>(&self, number: usize, work: impl FnOnce(&mut Agent) -> T) -> T {
        let agent = self.agents.get(number).expect("the number of an agent must be one of ours");
        work(&mut agent.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Agent {
    fn new(number: usize, token: String, due: Instant, images: BTreeSet<String>) -> Self {
        let boot = format!("bench-{number}");
        let etags = [String::new(), String::new()];
        Self { number, token, boot, sequence: 0, full_wanted: true, failures: 0, due, images, told: BTreeSet::new(), etags }
    }

    fn compose(&self) -> Value {
        let (now, turn) = (now(), self.sequence + 1);
        let used = (0..USED)
            .filter_map(|nth| self.images.iter().nth((usize::try_from(turn).unwrap_or(0) * USED + nth) % self.images.len().max(1)));
        let used: BTreeSet<&String> = used.collect();
        let tell = |image: &&String| self.full_wanted || !self.told.contains(*image) || used.contains(image);
        let images: Vec<Value> = self.images.iter().filter(tell).map(|image| held(image, now)).collect();
        json!({
            "boot": self.boot, "sequence": turn, "full": self.full_wanted, "agentVersion": env!("CARGO_PKG_VERSION"), "startedAt": now - 60 * turn,
            "disk": {
                "capacityBytes": 200 * GIB, "freeBytes": 120 * GIB + (turn * 7919 + self.number as u64) % 1000 * 4096, "usedBytes": 30 * GIB,
                "blobs": 8 * self.images.len(), "evictedImages": 0,
            },
            "traffic": { "hits": 900 * turn, "misses": 40 * turn, "servedBytes": turn * GIB, "fetchedBytes": turn * GIB / 10 },
            "images": images, "removed": [], "findings": [],
        })
    }

    fn answered(&mut self, answer: Option<&Value>) {
        let now = Instant::now();
        let Some(answer) = answer else {
            self.due = now + retry_after(self.failures);
            self.failures += 1;
            return;
        };
        self.failures = 0;
        self.sequence += 1;
        self.told.clone_from(&self.images);
        self.full_wanted = answer["fullWanted"] == true;
        self.due = now + if self.full_wanted { INTERVAL } else { HEARTBEAT };
    }
}

fn retry_after(failures: u32) -> Duration {
    (RETRY * 2_u32.pow(failures.min(6))).min(HEARTBEAT)
}

fn held(image: &str, now: u64) -> Value {
    json!({
        "image": image, "digest": format!("sha256:{}", hex(&Sha256::digest(image))), "sizeBytes": 180_000_000_u64 + image.len() as u64 * 1_000_003,
        "complete": true, "usedAt": now, "checkedAt": now, "validatedAt": now, "upstream": "available",
    })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Makes an agent's pod, ready on its node, and returns a token that is bound to it.
fn create_pod(api: &Api, number: usize) -> Result<String> {
    let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let (name, account) = (format!("{NAME}-agent-{number:03}"), format!("{NAME}-agent"));
    let labels = json!({ "app.kubernetes.io/name": NAME, "app.kubernetes.io/instance": NAME, "app.kubernetes.io/component": "agent" });
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": labels },
        "spec": {
            "serviceAccountName": account, "automountServiceAccountToken": false, "nodeName": node_name(number),
            "containers": [{ "name": "agent", "image": "kube-image-keeper/agent:bench" }],
        },
    });
    let made = api.create(&pods, &pod)?;
    let ready = json!({ "type": "Ready", "status": "True" });
    let address = format!("10.244.{}.{}", number / 250, number % 250 + 2);
    let status = json!({ "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }], "conditions": [ready] });
    api.merge(&format!("{pods}/{name}/status"), &json!({ "status": status }))?;
    let bound = json!({ "apiVersion": "v1", "kind": "Pod", "name": name, "uid": made["metadata"]["uid"] });
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": { "audiences": ["kuik"], "expirationSeconds": 7200, "boundObjectRef": bound },
    });
    let answer = api.create(&format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{account}/token"), &request)?;
    answer["status"]["token"].as_str().map(str::to_owned).context("a token request must be answered with a token")
}
