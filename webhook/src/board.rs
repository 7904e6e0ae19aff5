//! What the lifecycle and the control API leave for each other: reports of nodes in, wishes for nodes out.
//! Both know the board, neither knows the other.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kuik_crd::PullKey;
use kuik_crd::control::{Agents, Desired, Disk, Finding, Held, REPORT_MAX_IMAGES, Refused, Report, ReportAnswer, Traffic};
use tokio::sync::watch;

/// Refusals of one node that are remembered; the latest stay.
const REFUSALS_KEPT_MAX: usize = 1_000;

/// Who leads, as far as this replica knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Leadership {
    /// Nobody that we know.
    #[default]
    Unknown,
    /// This replica.
    Us,
    /// The replica at this address.
    Other(IpAddr),
}

/// What one node holds: its reports put together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeState {
    /// The boot and the sequence number of the last report.
    pub boot: String,
    /// See `boot`.
    pub sequence: u64,
    /// When it came, in seconds since 1970.
    pub received_at: u64,
    /// As reported.
    pub agent_version: String,
    /// As reported.
    pub started_at: u64,
    /// As reported.
    pub disk: Disk,
    /// As reported.
    pub traffic: Traffic,
    /// Images by reference.
    pub images: BTreeMap<String, Held>,
    /// The latest finding by image; the lifecycle removes what is over.
    pub findings: BTreeMap<String, Finding>,
    /// The latest refusal by image and namespace; the lifecycle removes what is over.
    pub refusals: BTreeMap<(String, String), Refused>,
}

/// What the leader wants: the answers of the control API.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wishes {
    /// For everybody.
    pub agents: Agents,
    /// By node. A node that is missing here has no wishes.
    pub desired: BTreeMap<String, Desired>,
    /// For everybody: what tokens are checked with, which the board puts into every node's wishes. Nothing until that is known: who was
    /// told of no keys would forget those that it has.
    pub pull_keys: Option<Vec<PullKey>>,
}

/// The board. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Board {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Held for a merge or a copy, never across an await.
    nodes: Mutex<BTreeMap<String, Arc<NodeState>>>,
    /// Counts the reports that changed something.
    reported: watch::Sender<u64>,
    /// Nothing until the leader has seen the cluster.
    wishes: watch::Sender<Option<Arc<Wishes>>>,
    leadership: watch::Sender<Leadership>,
    /// What tokens are checked with, once that is known. Held while the wishes change, never across an await.
    pull_keys: Mutex<Option<Vec<PullKey>>>,
}

impl Default for Board {
    fn default() -> Self {
        let inner = Inner {
            nodes: Mutex::default(),
            reported: watch::channel(0).0,
            wishes: watch::channel(None).0,
            leadership: watch::channel(Leadership::Unknown).0,
            pull_keys: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }
}

impl Board {
    /// Takes a node's report. A delta without what it builds on is not taken, and a full one asked for; nor is one that would make the
    /// node hold more than any full report could say.
    pub fn report(&self, node: &str, report: Report, received_at: u64) -> ReportAnswer {
        let mut nodes = self.nodes();
        let last = nodes.get(node).cloned();
        let follows = last.as_ref().is_some_and(|last| last.boot == report.boot && last.sequence.checked_add(1) == Some(report.sequence));
        if !report.full && !follows {
            return ReportAnswer { full_wanted: true };
        }
        let mut state = last.as_deref().cloned().unwrap_or_default();
        state.merge(report, received_at);
        if state.images.len() > REPORT_MAX_IMAGES {
            return ReportAnswer { full_wanted: true };
        }
        let changed = last.is_none_or(|last| state.differs(&last));
        nodes.insert(node.to_owned(), Arc::new(state));
        drop(nodes);
        if changed {
            self.inner.reported.send_modify(|count| *count += 1);
        }
        ReportAnswer { full_wanted: false }
    }

    /// What all nodes have reported.
    #[must_use]
    pub fn nodes_now(&self) -> BTreeMap<String, Arc<NodeState>> {
        self.nodes().clone()
    }

    /// Forgets nodes that the cluster does not have any more.
    pub fn retain_nodes(&self, keep: impl Fn(&str) -> bool) {
        self.nodes().retain(|node, _| keep(node));
    }

    /// Forgets findings that are over.
    pub fn retain_findings(&self, keep: impl Fn(&Finding) -> bool) {
        for state in self.nodes().values_mut() {
            if !state.findings.values().all(&keep) {
                Arc::make_mut(state).findings.retain(|_, finding| keep(finding));
            }
        }
    }

    /// Forgets refusals that are over.
    pub fn retain_refusals(&self, keep: impl Fn(&Refused) -> bool) {
        for state in self.nodes().values_mut() {
            if !state.refusals.values().all(&keep) {
                Arc::make_mut(state).refusals.retain(|_, refused| keep(refused));
            }
        }
    }

    /// Tells of reports that changed something.
    #[must_use]
    pub fn reported(&self) -> watch::Receiver<u64> {
        self.inner.reported.subscribe()
    }

    /// Publishes what the leader wants; `None` when this replica does not lead (any more).
    pub fn wish(&self, mut wishes: Option<Wishes>) {
        let keys = self.pull_keys();
        if let Some(wishes) = &mut wishes {
            wishes.put(keys.as_deref());
        }
        self.inner.wishes.send_if_modified(|current| {
            let same = current.as_deref() == wishes.as_ref();
            if !same {
                *current = wishes.map(Arc::new);
            }
            !same
        });
    }

    /// Tells agents what tokens are checked with, none where there are no tokens, until this replica does not lead any more. `false` as long
    /// as they are told nothing.
    pub fn publish_pull_keys(&self, published: &[PullKey]) -> bool {
        let mut keys = self.pull_keys();
        if *self.inner.leadership.borrow() != Leadership::Us {
            return false;
        }
        *keys = Some(published.to_vec());
        self.inner.wishes.send_if_modified(|current| {
            let differing = current.as_mut().filter(|wishes| wishes.pull_keys.as_deref() != Some(published));
            differing.map(|wishes| Arc::make_mut(wishes).put(Some(published))).is_some()
        });
        self.inner.wishes.borrow().is_some()
    }

    /// What the leader wants, and when that changes.
    #[must_use]
    pub fn wishes(&self) -> watch::Receiver<Option<Arc<Wishes>>> {
        self.inner.wishes.subscribe()
    }

    /// Says who leads. Whoever begins to lead begins without reports and wishes: they may be of another time.
    pub fn lead(&self, leadership: Leadership) {
        let before = *self.inner.leadership.borrow();
        if before == leadership {
            return;
        }
        // What is left of our time goes before we lead again, and only after nobody can add to it.
        if leadership == Leadership::Us {
            self.forget();
        }
        self.inner.leadership.send_replace(leadership);
        if leadership != Leadership::Us {
            self.forget();
        }
    }

    fn forget(&self) {
        self.nodes().clear();
        self.pull_keys().take();
        self.wish(None);
    }

    /// Who leads, and when that changes.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.subscribe()
    }

    fn pull_keys(&self) -> MutexGuard<'_, Option<Vec<PullKey>>> {
        self.inner.pull_keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<String, Arc<NodeState>>> {
        self.inner.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wishes {
    fn put(&mut self, keys: Option<&[PullKey]>) {
        self.pull_keys = keys.map(<[PullKey]>::to_vec);
        for desired in self.desired.values_mut() {
            desired.pull_keys = keys.map(<[PullKey]>::to_vec).unwrap_or_default();
        }
    }
}

impl NodeState {
    fn merge(&mut self, report: Report, received_at: u64) {
        let Report { boot, sequence, full, agent_version, started_at, disk, traffic, images, removed, findings, refusals } = report;
        if full {
            self.images.clear();
        }
        (self.boot, self.sequence, self.received_at) = (boot, sequence, received_at);
        (self.agent_version, self.started_at, self.disk, self.traffic) = (agent_version, started_at, disk, traffic);
        for gone in removed {
            self.images.remove(&gone);
        }
        self.images.extend(images.into_iter().map(|held| (held.image.clone(), held)));
        self.findings.extend(findings.into_iter().map(|finding| (finding.image.clone(), finding)));
        self.bound_findings();
        let key = |refused: &Refused| (refused.image.clone(), refused.namespace.clone());
        self.refusals.extend(refusals.into_iter().map(|refused| (key(&refused), refused)));
        self.bound_refusals();
    }

    fn bound_refusals(&mut self) {
        while self.refusals.len() > REFUSALS_KEPT_MAX {
            let oldest = self.refusals.iter().min_by_key(|(_, refused)| refused.at).map(|(key, _)| key.clone());
            oldest.and_then(|key| self.refusals.remove(&key));
        }
    }

    /// Of more findings than one report may hold, the oldest go.
    fn bound_findings(&mut self) {
        let Some(excess) = self.findings.len().checked_sub(REPORT_MAX_IMAGES).filter(|excess| *excess > 0) else {
            return;
        };
        let mut oldest: Vec<(u64, String)> = self.findings.values().map(|finding| (finding.at, finding.image.clone())).collect();
        oldest.sort();
        for (_, image) in &oldest[..excess] {
            self.findings.remove(image);
        }
    }

    /// Whether something is different that anybody acts on.
    fn differs(&self, before: &Self) -> bool {
        (&self.images, &self.findings, &self.refusals) != (&before.images, &before.findings, &before.refusals)
            || (&self.disk, &self.boot) != (&before.disk, &before.boot)
    }
}
