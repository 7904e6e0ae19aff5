//! The leader with a whole cluster's pods and images: at rest, and after it was killed.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kuik_e2e::wait;
use serde_json::Value;

use crate::api::Api;
use crate::contenders::webhook::Release;
use crate::control_plane::ControlPlane;
use crate::lab::Lab;
use crate::population::{Population, Size};
use crate::process::Process;
use crate::report::Report;
use crate::reporters::Reporters;
use crate::stats::float;
use crate::writes::Writes;

const SIZE: Size = Size { nodes: 100, namespaces: 50, pods: 10_000, images: 2_000 };
const SMALL: Size = Size { nodes: 10, namespaces: 5, pods: 500, images: 200 };
/// Images whose pods all go while nobody leads, and as many new ones.
const CHANGED: usize = 17;
/// Longer than whatever is written now and then takes to come round.
const REST: Duration = Duration::from_secs(360);
const REST_QUICK: Duration = Duration::from_secs(20);
/// Nothing was written for so long: the leader is at rest.
const QUIET: Duration = Duration::from_secs(15);
const CATCH_UP_LIMIT: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(200);
const IMAGES: &str = "/apis/kuik.enix.io/v1alpha1/cachedimages?resourceVersion=0";
const MEMORY_TARGET_MIB: f64 = 150.0;
const WRITES_TARGET: f64 = 1.0;

/// What is asked of the `CachedImage`s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// There is one for each image, with its number of pods; those without pods expire.
    Users,
    /// And their copies are known.
    Copies,
}

pub(super) fn measure(lab: &Lab) -> Result<Report> {
    let plane = ControlPlane::start()?;
    plane.inside(|| {
        let api = Api::open(lab, &plane.kubeconfig())?;
        let release = Release::install(lab, &plane)?;
        let size = if lab.options.quick { SMALL } else { SIZE };
        let started = Instant::now();
        let population = Population::create(&api, size)?;
        eprintln!("bench: {} pods of {} images in {:.0} s", size.pods, size.images, started.elapsed().as_secs_f64());
        Writes::begin(&api)?;
        Course { lab, api, release, size, population, report: table() }.run()
    })
}

fn table() -> Report {
    Report::table(&["phase", "seconds", "CPU s", "writes", "memory then, MiB", "at the most"])
}

/// The row's course.
struct Course<'a> {
    lab: &'a Lab,
    api: Api,
    release: Release,
    size: Size,
    population: Population,
    report: Report,
}

/// What is compared before and after a phase.
struct Mark {
    at: Instant,
    cpu: Duration,
    writes: Writes,
}

impl Course<'_> {
    fn run(mut self) -> Result<Report> {
        let (pods, images, nodes) = (self.size.pods, self.size.images, self.size.nodes);
        let before = Writes::now(&self.api)?;
        let mut process = self.release.launch()?;
        let mark = Mark { at: process.started, cpu: Duration::ZERO, writes: before };
        self.wait_until(Wanted::Users, &mut process)?;
        self.phase(&format!("first start: {pods} pods, until {images} CachedImages name their users"), &mark, &process)?;

        let mark = self.mark(&process)?;
        let reporters = Reporters::start(self.lab, &self.api, &self.release.authority()?, &self.held())?;
        self.wait_until(Wanted::Copies, &mut process).with_context(|| format!("reports, polls, failures: {:?}", reporters.counts()))?;
        self.phase(&format!("{nodes} agents begin to report, until all copies are known"), &mark, &process)?;

        self.rest(&mut process, &reporters)?;
        let process = self.restart(process, &reporters)?;
        self.notes(&process, &reporters);
        Ok(self.report)
    }

    /// Waits until nothing is written any more, and then looks on for a while.
    fn rest(&mut self, process: &mut Process, reporters: &Reporters) -> Result<()> {
        let (mut last, mut since) = (Writes::now(&self.api)?.total(), Instant::now());
        wait::until_every(Duration::from_secs(1), "the leader to be at rest", CATCH_UP_LIMIT, || {
            let now = Writes::now(&self.api)?.total();
            if now != last {
                (last, since) = (now, Instant::now());
            }
            Ok((since.elapsed() >= QUIET).then_some(()))
        })?;
        let (mark, [reports, polls, failures]) = (self.mark(process)?, reporters.counts());
        thread::sleep(if self.lab.options.quick { REST_QUICK } else { REST });
        process.check()?;
        self.phase("at rest", &mark, process)?;
        let (took, writes) = (mark.at.elapsed(), Writes::now(&self.api)?.since(&mark.writes));
        let minutes = took.as_secs_f64() / 60.0;
        let cpu = process.cpu()?.saturating_sub(mark.cpu);
        let after = reporters.counts();
        let written = float(writes.total()) / minutes;
        let met = written <= WRITES_TARGET;
        self.report.check("controller, at rest: writes, the Lease left out", format!("{written:.1} a minute"), "≈ 0", met);
        self.report.note(format!(
            "at rest: {:.2} s of CPU a minute ({:.1} % of a core); by kind in {minutes:.1} minutes: {}; the agents made {} reports and {} polls, {} failed",
            cpu.as_secs_f64() / minutes,
            cpu.as_secs_f64() / minutes / 0.6,
            writes.words(),
            after[0] - reports,
            after[1] - polls,
            after[2] - failures,
        ));
        Ok(())
    }

    /// Kills the leader, changes the cluster, and starts it again.
    fn restart(&mut self, process: Process, reporters: &Reporters) -> Result<Process> {
        let most = float(process.memory()?.high_water_kib) / 1024.0;
        process.kill()?;
        let changed = self.population.change(&self.api, CHANGED)?;
        reporters.hold(self.held());
        let before = Writes::now(&self.api)?;
        let mut process = self.release.launch()?;
        let mark = Mark { at: process.started, cpu: Duration::ZERO, writes: before };
        self.wait_until(Wanted::Users, &mut process)?;
        self.phase(
            &format!("after kill -9, {changed} pods deleted and {changed} made of {CHANGED} new images: until the users are right"),
            &mark,
            &process,
        )?;
        self.wait_until(Wanted::Copies, &mut process)?;
        self.phase("the same, until all copies are known", &mark, &process)?;
        let most = most.max(float(process.memory()?.high_water_kib) / 1024.0);
        self.report.check("controller: memory, at the most", format!("{most:.1} MiB"), "< 150 MiB", most < MEMORY_TARGET_MIB);
        Ok(process)
    }

    fn notes(&mut self, process: &Process, reporters: &Reporters) {
        let Size { nodes, namespaces, pods, images } = self.size;
        let [reports, polls, failures] = reporters.counts();
        self.report.note(format!(
            "{pods} managed pods with four containers each in {namespaces} namespaces, bound to {nodes} nodes that no kubelet runs; {images} images, of which 40 are shared by many pods"
        ));
        self.report.note(format!(
            "the agents are played: a pod, its bound token, a report a minute (a full one when asked for), two long polls, each by curl over TLS; {reports} reports and {polls} polls in all, {failures} calls failed, the kill among them"
        ));
        self.report.note("writes: what the webhook's account wrote, counted by the API server (a flow schema for each kind); Leases and TokenReviews are left out of the sums");
        self.report.note("one replica: after the kill it is the same pod, which takes its own Lease at once, as a container that is restarted does; another replica waits until the Lease expires (15 s)");
        self.report.command(process.command.clone());
    }

    fn mark(&self, process: &Process) -> Result<Mark> {
        Ok(Mark { at: Instant::now(), cpu: process.cpu()?, writes: Writes::now(&self.api)? })
    }

    fn phase(&mut self, name: &str, mark: &Mark, process: &Process) -> Result<()> {
        let (took, memory) = (mark.at.elapsed(), process.memory()?);
        let (cpu, writes) = (process.cpu()?.saturating_sub(mark.cpu), Writes::now(&self.api)?.since(&mark.writes));
        let mib = |kib: u64| format!("{:.1}", float(kib) / 1024.0);
        let cells = [format!("{:.1}", took.as_secs_f64()), format!("{:.2}", cpu.as_secs_f64()), writes.total().to_string()];
        eprintln!("bench: {name}: {}; {}", cells.join(", "), writes.words());
        let memory = [mib(memory.rss_kib), mib(memory.high_water_kib)];
        self.report.line(std::iter::once(name.to_owned()).chain(cells).chain(memory));
        Ok(())
    }

    /// The images that each node's agent holds.
    fn held(&self) -> Vec<BTreeSet<String>> {
        let on = |number| self.population.images_on(number).into_iter().map(str::to_owned).collect();
        (0..self.size.nodes).map(on).collect()
    }

    fn wait_until(&self, wanted: Wanted, process: &mut Process) -> Result<()> {
        let users = self.population.users();
        let what = format!("the CachedImages to be right ({wanted:?})");
        let ended = wait::until_every(LOOK_EVERY, &what, CATCH_UP_LIMIT, || {
            if let Err(error) = process.check() {
                return Ok(Some(Err(error)));
            }
            are_right(&self.api.get(IMAGES)?, &users, wanted).map(|()| Some(Ok(())))
        });
        match ended.with_context(|| self.release.log_tail())? {
            Ok(()) => Ok(()),
            Err(error) => bail!("{error:#}\n{}", self.release.log_tail()),
        }
    }
}

/// An error says what is not right.
fn are_right(list: &Value, users: &BTreeMap<&str, usize>, wanted: Wanted) -> Result<()> {
    let items = list["items"].as_array().context("a list must have items")?;
    ensure!(items.len() == users.len(), "{} CachedImages of {}", items.len(), users.len());
    for item in items {
        let image = item["spec"]["sourceImage"].as_str().unwrap_or_default();
        let users = *users.get(image).with_context(|| format!("{image} was never used"))?;
        let seen = &item["status"]["usedBy"]["count"];
        ensure!(seen.as_u64() == Some(users as u64), "{image} has {users} users, not {seen}");
        ensure!((users == 0) == item["spec"]["expiresAt"].is_string(), "{image} with {users} users: expires {}", item["spec"]["expiresAt"]);
        if wanted == Wanted::Copies {
            ensure!(item["status"]["isCached"] == true, "{image} is not cached: {}", item["status"]["phase"]);
        }
    }
    Ok(())
}
