//! The conditions of our objects, with messages that a person can act on.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kuik_crd::control::UpstreamState;

use crate::lifecycle::world::time;

/// What a condition says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Saying {
    pub(super) type_: &'static str,
    pub(super) status: &'static str,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// Puts sayings into conditions: the time of a condition changes with its status only. Conditions of other types stay.
pub(super) fn set(conditions: &mut Vec<Condition>, sayings: impl IntoIterator<Item = Saying>, now: u64) {
    for Saying { type_, status, reason, message } in sayings {
        let old = conditions.iter().find(|old| old.type_ == type_);
        if old.is_some_and(|old| (old.status.as_str(), old.reason.as_str(), &old.message) == (status, reason, &message)) {
            continue;
        }
        let since = old.filter(|old| old.status == status).map_or_else(|| time(now), |old| old.last_transition_time.clone());
        let new = Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            last_transition_time: since,
            observed_generation: None,
        };
        match conditions.iter_mut().find(|old| old.type_ == type_) {
            Some(old) => *old = new,
            None => conditions.push(new),
        }
    }
}

/// Whether one node, at least, holds the image as a whole.
pub(super) fn cached(ready: &[&str], error: Option<&str>, wanted: bool) -> Saying {
    let (status, reason, message) = match (ready, error) {
        ([], Some(error)) => ("False", "ErrImagePull", error.to_owned()),
        ([], None) if wanted => ("False", "Pulling", "no node holds it as a whole yet".to_owned()),
        ([], None) => ("False", "NotWanted", "no node holds it, and no pod uses it".to_owned()),
        ([one], _) => ("True", "Cached", format!("{one} holds it as a whole")),
        (nodes, _) => ("True", "Cached", format!("{} nodes hold it as a whole", nodes.len())),
    };
    Saying { type_: "Cached", status, reason, message }
}

/// Whether as many nodes as wanted hold it.
pub(super) fn durable(ready: usize, wanted: usize) -> Saying {
    let (status, reason, message) = match (ready, wanted) {
        (0, _) => ("False", "NotCached", "without its registry, no pod could start with it".to_owned()),
        (ready, wanted) if ready < wanted => ("False", "TooFewCopies", format!("{ready} of {wanted} nodes hold it as a whole")),
        (1, _) => ("True", "EnoughCopies", "pods start without its registry as long as the one node that holds it is there".to_owned()),
        (ready, _) => ("True", "EnoughCopies", format!("pods start without its registry as long as one of {ready} nodes is there")),
    };
    Saying { type_: "Durable", status, reason, message }
}

/// Whether upstream still has it.
pub(super) fn upstream(state: UpstreamState, is_digest: bool) -> Saying {
    let (status, reason, message) = match state {
        UpstreamState::Available => ("True", "Available", "the registry has it"),
        UpstreamState::NotFound => ("False", "NotFound", "the registry does not have it any more: set spec.retain to keep it for good"),
        UpstreamState::Denied => ("False", "Denied", "the registry does not give it to us: check the credentials for it"),
        UpstreamState::RateLimited => ("Unknown", "RateLimited", "the registry says that it was asked too often: what is cached is served"),
        UpstreamState::Unavailable => ("Unknown", "Unreachable", "the registry could not be reached, or failed: what is cached is served"),
        UpstreamState::Unknown if is_digest => ("Unknown", "NotAsked", "the registry is not asked about a digest, which cannot change"),
        UpstreamState::Unknown => ("Unknown", "NotAsked", "no node has asked the registry yet"),
    };
    Saying { type_: "UpstreamAvailable", status, reason, message: message.to_owned() }
}

/// Whether a node's agent has reported lately.
pub(super) fn reporting(is_reporting: bool) -> Saying {
    let (status, reason, message) = if is_reporting {
        ("True", "Reporting", "the agent reports")
    } else {
        ("False", "Silent", "the agent has not reported for 3 minutes: look at its pod on this node, and at its log")
    };
    Saying { type_: "Reporting", status, reason, message: message.to_owned() }
}
