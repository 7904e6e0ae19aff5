//! Who leads: a Lease that one replica holds.
//!
//! Clocks of other machines are not trusted. A holder is dead when its Lease has not changed for as long as the Lease says, *as seen from
//! here*; and whoever leads stops on its own, well before that, when it could not renew. Both are measured on the monotonic clock.

use std::future::Future;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt as _};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::board::{Board, Leadership};
use crate::naming::Names;

/// How long a Lease is good for without being renewed.
const LEASE_SECONDS: i32 = 15;

/// How often the leader renews.
const RENEW_EVERY: Duration = Duration::from_secs(5);

/// The leader stops when it has not renewed for so long: others take over 5 s later at the earliest.
const RENEW_WITHIN: Duration = Duration::from_secs(10);

/// How often the others look, and how soon a failed renewal is tried again.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The most that one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);

/// The most that the leader's work may take to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// A replica whose work ended by itself stands back for so long.
const AFTER_AN_END: Duration = Duration::from_secs(3);

/// What to do about the Lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// Nobody holds it, or its holder is dead.
    Acquire,
    /// It is ours.
    Renew,
    /// Somebody else holds it.
    Wait,
}

/// What to do about a Lease that has not changed for `unchanged`, as seen from here.
pub(super) fn decide(lease: Option<&LeaseSpec>, us: &str, unchanged: Duration) -> Decision {
    match lease.and_then(|lease| lease.holder_identity.as_deref()) {
        None | Some("") => Decision::Acquire,
        Some(holder) if holder == us => Decision::Renew,
        Some(_) => {
            let seconds = lease.and_then(|lease| lease.lease_duration_seconds).unwrap_or(LEASE_SECONDS);
            let lasts = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            if unchanged >= lasts { Decision::Acquire } else { Decision::Wait }
        }
    }
}

/// The address within the identity of a replica: `<pod name>_<pod IP>`.
fn address(identity: &str) -> Option<IpAddr> {
    identity.rsplit_once('_').and_then(|(_, address)| address.parse().ok())
}

/// The Lease as last seen, and since when it looks like that.
#[derive(Debug)]
struct Seen {
    spec: Option<LeaseSpec>,
    since: Instant,
}

impl Seen {
    fn look(&mut self, spec: Option<&LeaseSpec>) -> Duration {
        if self.spec.as_ref() != spec {
            (self.spec, self.since) = (spec.cloned(), Instant::now());
        }
        self.since.elapsed()
    }
}

/// Takes part in the election.
#[derive(Debug)]
pub(super) struct Elector {
    leases: Api<Lease>,
    name: String,
    identity: String,
    board: Board,
}

impl Elector {
    pub(super) fn new(client: Client, names: &Names, board: Board) -> Self {
        Self {
            leases: Api::namespaced(client, &names.namespace),
            name: names.lease(),
            identity: format!("{}_{}", names.pod_name, names.pod_ip),
            board,
        }
    }

    /// Runs `work` whenever this replica leads; its token is cancelled when it does not lead any more. Returns on `stop`.
    pub(super) async fn run<W: Future<Output = ()>>(&self, stop: &CancellationToken, work: impl Fn(CancellationToken) -> W) {
        while let Some(lease) = stop.run_until_cancelled(self.acquire()).await {
            info!(lease = self.name, "this replica leads");
            self.board.lead(Leadership::Us);
            let working = stop.child_token();
            let mut work = std::pin::pin!(work(working.clone()));
            let (lost, working_still) = tokio::select! {
                () = stop.cancelled() => (false, true),
                () = self.keep(lease) => (true, true),
                () = &mut work => (false, false),
            };
            working.cancel();
            if working_still && timeout(STOP_TIMEOUT, work).await.is_err() {
                warn!(lease = self.name, "the leader's work took too long to end and was dropped");
            }
            self.board.lead(Leadership::Unknown);
            if lost {
                warn!(lease = self.name, "this replica does not lead any more");
            } else {
                self.release().await;
            }
            if !working_still {
                // What ended here may go well elsewhere: the others look first.
                stop.run_until_cancelled(sleep(AFTER_AN_END)).await;
            }
        }
    }

    /// Waits until the Lease is ours.
    async fn acquire(&self) -> Lease {
        let mut seen = Seen { spec: None, since: Instant::now() };
        loop {
            match timeout(REQUEST_TIMEOUT, self.try_acquire(&mut seen)).await {
                Ok(Ok(Some(lease))) => return lease,
                Ok(Ok(None)) => {}
                Ok(Err(error)) if is_conflict(&error) => {}
                Ok(Err(error)) => warn!(lease = self.name, %error, "the Lease cannot be read or written: trying again"),
                Err(_) => warn!(lease = self.name, "the Lease cannot be read or written: no answer in {REQUEST_TIMEOUT:?}"),
            }
            sleep(jittered(LOOK_EVERY)).await;
        }
    }

    async fn try_acquire(&self, seen: &mut Seen) -> kube::Result<Option<Lease>> {
        let lease = self.leases.get_opt(&self.name).await?;
        let spec = lease.as_ref().and_then(|lease| lease.spec.as_ref());
        let unchanged = seen.look(spec);
        if decide(spec, &self.identity, unchanged) == Decision::Wait {
            let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).and_then(address);
            self.board.lead(holder.map_or(Leadership::Unknown, Leadership::Other));
            return Ok(None);
        }
        let Some(mut lease) = lease else {
            let mut lease = Lease::default();
            lease.metadata.name = Some(self.name.clone());
            lease.spec = Some(self.taken(None));
            return self.leases.create(&PostParams::default(), &lease).await.map(Some);
        };
        lease.spec = Some(self.taken(lease.spec.as_ref()));
        self.leases.replace(&self.name, &PostParams::default(), &lease).await.map(Some)
    }

    /// The Lease's content when we take it.
    fn taken(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let transitions = before.and_then(|before| before.lease_transitions);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(transitions.map_or(0, |count| count.saturating_add(1))),
            ..LeaseSpec::default()
        }
    }

    /// Renews the Lease; returns when it is lost, or could not be renewed in time.
    async fn keep(&self, mut lease: Lease) {
        let mut renewed = Instant::now();
        let mut next = renewed + jittered(RENEW_EVERY);
        loop {
            sleep_until(next).await;
            let (began, deadline) = (Instant::now(), renewed + RENEW_WITHIN);
            match timeout_at(deadline.min(began + REQUEST_TIMEOUT), self.renew(&mut lease)).await {
                Ok(Ok(true)) => (renewed, next) = (began, began + jittered(RENEW_EVERY)),
                Ok(Ok(false)) => return,
                Ok(Err(error)) => {
                    warn!(lease = self.name, %error, "the Lease could not be renewed: trying again");
                    next = (began + jittered(LOOK_EVERY)).min(deadline);
                }
                Err(_) => next = Instant::now(),
            }
            if Instant::now() >= renewed + RENEW_WITHIN {
                warn!(lease = self.name, "the Lease could not be renewed in {RENEW_WITHIN:?}");
                return;
            }
        }
    }

    /// Whether it is still ours. Somebody may have written to it and left us the holder.
    async fn renew(&self, lease: &mut Lease) -> kube::Result<bool> {
        if let Some(spec) = &mut lease.spec {
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        match self.leases.replace(&lease.name_any(), &PostParams::default(), lease).await {
            Ok(written) => *lease = written,
            Err(error) if is_conflict(&error) => {
                let Some(found) = self.leases.get_opt(&self.name).await? else { return Ok(false) };
                if decide(found.spec.as_ref(), &self.identity, Duration::ZERO) != Decision::Renew {
                    return Ok(false);
                }
                *lease = found;
                return Box::pin(self.renew(lease)).await;
            }
            // Whoever comes first makes a new one.
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Gives the Lease back, so that another replica need not wait for it to expire.
    async fn release(&self) {
        let release = async {
            let Some(mut lease) = self.leases.get_opt(&self.name).await? else { return Ok(()) };
            if decide(lease.spec.as_ref(), &self.identity, Duration::ZERO) != Decision::Renew {
                return Ok(());
            }
            if let Some(spec) = &mut lease.spec {
                spec.holder_identity = Some(String::new());
                spec.renew_time = Some(MicroTime(Timestamp::now()));
            }
            self.leases.replace(&self.name, &PostParams::default(), &lease).await.map(drop)
        };
        match timeout(REQUEST_TIMEOUT, release).await {
            Ok(Ok(())) => info!(lease = self.name, "the Lease was given back"),
            Ok(Err(error)) => warn!(lease = self.name, %error, "the Lease could not be given back: it expires"),
            Err(_) => warn!(lease = self.name, "the Lease could not be given back in {REQUEST_TIMEOUT:?}: it expires"),
        }
    }
}

/// Whether somebody else was faster.
fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

/// Three quarters of `span` to all of it, so that replicas do not move in step.
fn jittered(span: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 256;
    span * 3 / 4 + span / 4 * u32::try_from(random).unwrap_or(0) / 256
}

#[cfg(test)]
mod tests;
