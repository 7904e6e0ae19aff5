//! The leader's work: watch, think, write, tell the agents, and again whenever something has changed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::watcher::Config;
use kube::{Api, Client, Resource};
use kuik_crd::names::{MANAGED_LABEL, MANAGED_LABEL_V1_0};
use kuik_crd::{CachedImage, Image, NodeCache};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::cluster::{AgentPod, NodeInfo, PodUse, Texts, agent_pod, node_info, pod_use};
use super::crds;
use super::events::events;
use super::execute::Executor;
use super::metrics::Metrics;
use super::mirror::{Health, Mirror};
use super::plan::{Plan, plan};
use super::world::{Memory, Reference, World};
use crate::board::Board;
use crate::config::Settings;
use crate::naming::Names;

/// The least time from one plan to the next.
const PLAN_EVERY: Duration = Duration::from_millis(200);

/// The same while very much changes.
const PLAN_EVERY_IN_A_BURST: Duration = Duration::from_secs(1);

/// So many changes since the last plan are a burst.
const BURST: u64 = 200;

/// Planning takes at most one part in so many of a processor's time,
const IDLE_FACTOR: u32 = 10;

/// as long as plans are not further apart than this.
const PLAN_SELDOM: Duration = Duration::from_secs(5);

/// The most time from one plan to the next.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What agents found, and whom they refused, is remembered for this long, in seconds.
const FINDING_KEPT_SECONDS: u64 = 86_400;

/// What the leader works with.
pub(super) struct Leader {
    pub(super) client: Client,
    pub(super) names: Arc<Names>,
    pub(super) settings: Arc<Settings>,
    pub(super) board: Board,
    pub(super) metrics: Metrics,
    /// Bring the definitions of our objects up to date.
    pub(super) install_crds: bool,
}

impl fmt::Debug for Leader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leader").field("names", &self.names).finish_non_exhaustive()
    }
}

/// What the API server has.
#[derive(Debug)]
struct Mirrors {
    pods: Mirror<PodUse>,
    v1_pods: Mirror<PodUse>,
    images: Mirror<CachedImage>,
    node_caches: Mirror<NodeCache>,
    nodes: Mirror<NodeInfo>,
    agents: Mirror<AgentPod>,
    /// Counts their changes.
    changes: watch::Receiver<u64>,
}

impl Leader {
    /// Leads until `stop`.
    pub(super) async fn lead(&self, stop: CancellationToken) {
        self.metrics.leads(true);
        stop.run_until_cancelled(self.work()).await;
        self.metrics.leads(false);
    }

    /// Returns when it cannot go on.
    async fn work(&self) {
        if self.install_crds {
            crds::bring_up_to_date(&self.client).await;
        }
        let mut tasks = JoinSet::new();
        let mirrors = self.watch(&mut tasks);
        let (events, sender) = events(self.client.clone(), self.names.pod_name.clone(), self.metrics.clone());
        tasks.spawn(sender.run());
        tokio::select! {
            () = self.plan_on(&mirrors, Executor::new(&self.client, events, self.metrics.clone())) => {}
            () = any_ended(&mut tasks) => {}
        }
    }

    /// Plans and carries out plans for ever.
    async fn plan_on(&self, mirrors: &Mirrors, mut executor: Executor) {
        let (mut memory, led_since) = (Memory::default(), unix_now());
        let mut changes = mirrors.changes.clone();
        let mut reports = self.board.reported();
        loop {
            let (seen, began) = (*changes.borrow_and_update(), Instant::now());
            reports.mark_unchanged();
            let mut next = began + LOOK_EVERY;
            if mirrors.health().synced {
                let plan = self.plan(mirrors, &mut memory, led_since);
                next = next.min(Instant::now() + Duration::from_secs(plan.next_wakeup.saturating_sub(unix_now())));
                // A plan may take long where there is very much; then it is made less often.
                let pause = (began.elapsed() * IDLE_FACTOR).clamp(PLAN_EVERY, PLAN_SELDOM);
                let ready_at = began + pause;
                self.board.wish(plan.wishes);
                executor.tell(plan.telling.notes);
                let (expired, is_more) = executor.execute(plan.steps).await;
                expired.into_iter().for_each(|expired| memory.tombstones.expired(expired, unix_now()));
                next = if is_more { Instant::now() } else { next.min(executor.next_wakeup().unwrap_or(next)) };
                sleep_until(ready_at).await;
            }
            tokio::select! {
                Ok(()) = changes.changed() => {}
                Ok(()) = reports.changed() => {}
                () = sleep_until(next) => {}
            }
            if changes.borrow().saturating_sub(seen) > BURST {
                sleep_until(began + PLAN_EVERY_IN_A_BURST).await;
            }
        }
    }

    /// Looks at everything and decides.
    fn plan(&self, mirrors: &Mirrors, memory: &mut Memory, led_since: u64) -> Plan {
        let (now, began) = (unix_now(), Instant::now());
        let health = mirrors.health();
        for object in mirrors.images.take_deleted() {
            if let Ok(image) = object.spec.source_image.parse::<Image>() {
                memory.tombstones.deleted(Reference::new(image).held_as(), object.spec.retain, now);
            }
        }
        let nodes = mirrors.nodes.objects();
        if health.works {
            self.board.retain_nodes(|node| nodes.contains_key(node));
        }
        self.board.retain_findings(|finding| finding.at + FINDING_KEPT_SECONDS >= now);
        self.board.retain_refusals(|refused| refused.at + FINDING_KEPT_SECONDS >= now);
        let world = World {
            settings: Arc::clone(&self.settings),
            pods: mirrors.pods.objects(),
            v1_pods: mirrors.v1_pods.objects(),
            images: mirrors.images.objects(),
            node_caches: mirrors.node_caches.objects(),
            nodes,
            agents: mirrors.agents.objects(),
            states: self.board.nodes_now(),
            led_since,
            watches_work: health.works,
            images_steady_since: now.saturating_sub(mirrors.images.health().steady_for.as_secs()),
        };
        let plan = plan(&world, memory, now);
        let spent = began.elapsed();
        self.metrics.planned(spent.as_secs_f64(), &plan.census);
        plan.telling.reasons.iter().for_each(|reason| self.metrics.refused(reason));
        debug!(?spent, pods = world.pods.len(), images = world.images.len(), steps = plan.steps.len(), "planned");
        plan
    }

    /// Begins to watch everything that is needed.
    fn watch(&self, tasks: &mut JoinSet<()>) -> Mirrors {
        let (client, (changed, changes)) = (&self.client, watch::channel(0));
        let mirrors = Mirrors {
            pods: Mirror::new("Pod", changed.clone()),
            v1_pods: Mirror::new("Pod of kuik v1.0", changed.clone()),
            images: Mirror::new("CachedImage", changed.clone()),
            node_caches: Mirror::new("NodeCache", changed.clone()),
            nodes: Mirror::new("Node", changed.clone()),
            agents: Mirror::new("Pod of an agent", changed),
            changes,
        };
        let texts = Texts::default();
        for (mirror, label) in [(&mirrors.pods, MANAGED_LABEL), (&mirrors.v1_pods, MANAGED_LABEL_V1_0)] {
            let (settings, texts) = (Arc::clone(&self.settings), texts.clone());
            let config = Config::default().labels(&format!("{label}=true"));
            let keep = move |pod: Pod| pod_use(&pod, &settings.agent_address, &texts);
            tasks.spawn(mirror.clone().watch(Api::all(client.clone()), config, keep));
        }
        tasks.spawn(mirrors.images.clone().watch(Api::all(client.clone()), Config::default(), readable::<CachedImage>));
        tasks.spawn(mirrors.node_caches.clone().watch(Api::all(client.clone()), Config::default(), readable::<NodeCache>));
        let nodes = Api::<PartialObjectMeta<Node>>::all(client.clone());
        tasks.spawn(mirrors.nodes.clone().watch(nodes, Config::default(), |node| node_info(&node)));
        let agents = Api::<Pod>::namespaced(client.clone(), &self.names.namespace);
        let config = Config::default().labels(&self.names.agent_selector());
        tasks.spawn(mirrors.agents.clone().watch(agents, config, |pod| agent_pod(&pod)));
        mirrors
    }
}

impl Mirrors {
    /// That of the worst of them; how long they are steady is not asked of all.
    fn health(&self) -> Health {
        let all = [
            self.pods.health(),
            self.v1_pods.health(),
            self.images.health(),
            self.node_caches.health(),
            self.nodes.health(),
            self.agents.health(),
        ];
        Health {
            synced: all.iter().all(|one| one.synced),
            works: all.iter().all(|one| one.works),
            steady_for: all.iter().map(|one| one.steady_for).min().unwrap_or_default(),
        }
    }
}

/// Waits until one of the tasks ends, of which none should: without a watch, what is planned would be ever more wrong.
async fn any_ended(tasks: &mut JoinSet<()>) {
    let ended = tasks.join_next().await;
    let reason = ended.map_or_else(String::new, |ended| ended.map_or_else(|error| error.to_string(), |()| "it returned".to_owned()));
    error!(reason, "a task of the leader has ended: the Lease is given back");
}

/// An object of ours without what nobody reads; one that cannot be read is left alone, and said once per change.
fn readable<K: Resource<DynamicType = ()>>(object: DeserializeGuard<K>) -> (String, Option<K>) {
    let name = object.meta().name.clone().unwrap_or_default();
    match object.0 {
        Ok(mut object) => {
            object.meta_mut().managed_fields = None;
            (name, Some(object))
        }
        Err(error) => {
            warn!(kind = %K::kind(&()), object = name, %error, "cannot be read and is left alone");
            (name, None)
        }
    }
}

fn unix_now() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_work_ends_with_any_of_its_tasks() {
        let mut tasks = JoinSet::new();
        tasks.spawn(std::future::pending());
        assert!(timeout(LOOK_EVERY, any_ended(&mut tasks)).await.is_err());
        tasks.spawn(async { panic!("for a test") });
        assert!(timeout(LOOK_EVERY, any_ended(&mut tasks)).await.is_ok());
    }
}
