//! The pulls, by several containerds at one time, and the accidents among them.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Error, Result, anyhow, ensure};
use kuik_e2e::agent::Agent;
use kuik_e2e::containerd::Containerd;
use kuik_e2e::disk::Disk;
use kuik_e2e::registry::{Registry, Sent};
use kuik_e2e::wait;

use super::library::Library;
use super::observer::{Seen, observe};
use super::schedule::{Event, Schedule};
use super::{BUDGET_BYTES, Stage};

const PULL_LIMIT: Duration = Duration::from_secs(180);
const FILL_LIMIT: Duration = Duration::from_secs(60);
/// After so many pulls nobody waits for a miss any more.
const HITS_MAX: usize = 10;

/// How far it has come. What happens at the same time meets here.
#[derive(Default)]
pub(super) struct Course {
    /// Held for a moment.
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    begun: usize,
    done: usize,
    interrupted: usize,
    /// Goes up before each kill.
    kills: u64,
    down: bool,
    over: bool,
    failure: Option<Error>,
}

impl Course {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("who holds the state must not panic")
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    /// Ends it for everybody; the first failure is the one that is told.
    fn fail(&self, failure: Error) {
        self.change(|state| {
            state.over = true;
            state.failure.get_or_insert(failure);
        });
    }

    /// Waits so long at most for the end.
    pub(super) fn is_over_within(&self, limit: Duration) -> bool {
        let (state, _) = self.changed.wait_timeout_while(self.state(), limit, |state| !state.over).expect("who holds it must not panic");
        state.over
    }

    /// The next pull, unless there is none.
    fn next(&self, pulls: &[usize]) -> Option<usize> {
        let mut state = self.state();
        let next = pulls.get(state.begun).filter(|_| !state.over)?;
        state.begun += 1;
        Some(*next)
    }

    /// Waits until the agent is up, and returns how often it has been killed. `None` when it is over.
    fn wait_up(&self) -> Option<u64> {
        let state = self.changed.wait_while(self.state(), |state| state.down && !state.over).expect("who holds it must not panic");
        (!state.over).then_some(state.kills)
    }

    /// Waits until so many pulls are done. `false` when it is over before.
    fn wait_done(&self, pulls: usize) -> Result<bool> {
        let mut state = self.state();
        while state.done < pulls && !state.over {
            let before = state.done;
            let waits = |state: &mut State| state.done == before && !state.over;
            let (now, timeout) = self.changed.wait_timeout_while(state, PULL_LIMIT, waits).expect("who holds it must not panic");
            ensure!(!timeout.timed_out(), "{before} pulls are done, and no other within {PULL_LIMIT:?}");
            state = now;
        }
        Ok(!state.over)
    }
}

/// What came of it all.
pub(super) struct Outcome {
    /// How often a kill interrupted a pull.
    pub(super) interrupted: usize,
    pub(super) seen: Seen,
    /// What the registry had sent when the first accident was due.
    pub(super) sent_in_calm: Vec<Sent>,
}

/// Has everything happen.
pub(super) fn run(stage: &mut Stage, library: &Library, schedule: &Schedule, registry: &Registry) -> Result<Outcome> {
    let course = Course::default();
    let references: Vec<String> = library.images.iter().map(|image| stage.reference(image)).collect();
    let metrics_url = stage.agent.admin_url("metrics");
    let allowed_bytes = BUDGET_BYTES + library.largest_bytes();
    let Stage { agent, containerds, disk, .. } = stage;
    let mut sent_in_calm = Vec::new();
    let seen = thread::scope(|scope| {
        for containerd in containerds.iter() {
            scope.spawn(|| {
                if let Err(error) = pull_all(&course, containerd, &schedule.pulls, &references) {
                    course.fail(error);
                }
            });
        }
        let observer = scope.spawn(|| observe(&course, &metrics_url, allowed_bytes).inspect_err(|error| course.fail(anyhow!("{error:#}"))));
        // On this thread: the agent dies with the thread that started it.
        let all = course.wait_done(schedule.calm).and_then(|_| {
            sent_in_calm = registry.sent()?;
            accidents(&course, agent, disk, schedule)
        });
        match all {
            Ok(()) => course.change(|state| state.over = true),
            Err(error) => course.fail(error),
        }
        observer.join().map_err(|_| anyhow!("the observer panicked"))
    })?;
    let mut state = course.state();
    if let Some(failure) = state.failure.take() {
        return Err(failure.context(agent.server().log_tail()));
    }
    Ok(Outcome { interrupted: state.interrupted, seen: seen?, sent_in_calm })
}

fn pull_all(course: &Course, containerd: &Containerd, pulls: &[usize], references: &[String]) -> Result<()> {
    while let Some(pull) = course.next(pulls) {
        let reference = &references[pull];
        loop {
            let Some(kills) = course.wait_up() else { return Ok(()) };
            let Err(error) = containerd.pull(reference) else { break };
            // Only a kill excuses a failure. The kubelet tries again, and so do we.
            ensure_killed(course, kills).with_context(|| format!("{error:#}"))?;
            course.change(|state| state.interrupted += 1);
        }
        containerd.remove(reference).context("remove what was pulled")?;
        course.change(|state| state.done += 1);
    }
    Ok(())
}

fn ensure_killed(course: &Course, kills_before: u64) -> Result<()> {
    ensure!(course.state().kills > kills_before, "a pull failed though the agent was not killed");
    Ok(())
}

/// Waits for each event's time and has it happen; returns when all pulls are done.
fn accidents(course: &Course, agent: &mut Agent, disk: &Disk, schedule: &Schedule) -> Result<()> {
    for (after, event) in &schedule.events {
        if !course.wait_done(*after)? {
            return Ok(());
        }
        match event {
            Event::Fill { .. } => disk.fill_up()?,
            Event::Free => disk.free_up()?,
            Event::Kill => kill(course, agent)?,
            Event::KillFilling => {
                wait_filling(course, agent, *after + HITS_MAX)?;
                kill(course, agent)?;
            }
        }
    }
    course.wait_done(schedule.pulls.len()).map(drop)
}

/// Waits until a blob is on its way in, or so many pulls are done that they must all be hits.
fn wait_filling(course: &Course, agent: &Agent, pulls: usize) -> Result<()> {
    wait::until("a blob to be on its way in", FILL_LIMIT, || {
        let filling = agent.metrics()?.count("kuik_agent_fills_in_flight")? > 0;
        let state = course.state();
        Ok((filling || state.over || state.done >= pulls).then_some(()))
    })
}

fn kill(course: &Course, agent: &mut Agent) -> Result<()> {
    course.change(|state| {
        state.kills += 1;
        state.down = true;
    });
    agent.kill()?;
    agent.start_again().context("start the agent after a kill")?;
    course.change(|state| state.down = false);
    Ok(())
}
