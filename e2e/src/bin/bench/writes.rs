//! Who wrote what: the API server counts requests by flow schema, so each kind of write of the webhook's account gets one.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use kuik_e2e::wait;
use serde_json::{Value, json};

use crate::api::Api;
use crate::contenders::webhook::{ACCOUNT, NAMESPACE, counted};

const VERBS: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];
const COUNTER: &str = "apiserver_flowcontrol_dispatched_requests_total";
const LIMIT: Duration = Duration::from_secs(30);

/// API group and resource, and what it is called. Whatever is not named before is the last.
const KINDS: [(&str, &str, &str); 6] = [
    ("kuik.enix.io", "cachedimages", "CachedImages"),
    ("kuik.enix.io", "nodecaches", "NodeCaches"),
    ("events.k8s.io", "events", "Events"),
    ("coordination.k8s.io", "leases", LEASES),
    ("authentication.k8s.io", "tokenreviews", REVIEWS),
    ("*", "*", "others"),
];
/// The leader's sign of life.
const LEASES: &str = "Leases";
/// Not written anywhere, but asked by POST.
const REVIEWS: &str = "TokenReviews";

/// Writes by what was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Writes(BTreeMap<&'static str, u64>);

impl Writes {
    /// Makes the flow schemas, and waits until the API server counts by them.
    pub(crate) fn begin(api: &Api) -> Result<()> {
        for (precedence, (group, resource, name)) in (200..).zip(KINDS) {
            api.create("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas", &schema(precedence, group, resource, name))?;
        }
        // One that changes nothing shows in the counters once they are in force.
        wait::until("the API server to count by flow schema", LIMIT, || {
            let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{ACCOUNT}");
            api.merge_as(&format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}"), &path, &json!({}))?;
            Ok((Self::now(api)?.total() > 0).then_some(()))
        })
    }

    pub(crate) fn now(api: &Api) -> Result<Self> {
        let metrics = api.metrics()?;
        ensure!(metrics.contains(COUNTER), "the API server has no metric {COUNTER}");
        let count = |name: &'static str| (name, counted(&metrics, COUNTER, &format!("flow_schema=\"{}\"", schema_name(name))));
        Ok(Self(KINDS.into_iter().map(|(_, _, name)| count(name)).collect()))
    }

    pub(crate) fn since(&self, before: &Self) -> Self {
        Self(self.0.iter().map(|(name, count)| (*name, count - before.0.get(name).copied().unwrap_or(0))).collect())
    }

    /// Without the Lease, and what is only asked by POST.
    pub(crate) fn total(&self) -> u64 {
        self.0.iter().filter(|(name, _)| ![LEASES, REVIEWS].contains(name)).map(|(_, count)| count).sum()
    }

    /// What there was of each kind.
    pub(crate) fn words(&self) -> String {
        let words: Vec<String> = self.0.iter().map(|(name, count)| format!("{name} {count}")).collect();
        words.join(", ")
    }
}

fn schema_name(name: &str) -> String {
    format!("bench-{}", name.to_lowercase())
}

/// Of the same priority as service accounts have without it.
fn schema(precedence: u16, group: &str, resource: &str, name: &str) -> Value {
    let resources = if resource == "*" { vec![resource.to_owned()] } else { vec![resource.to_owned(), format!("{resource}/status")] };
    let rule = json!({ "verbs": VERBS, "apiGroups": [group], "resources": resources, "clusterScope": true, "namespaces": ["*"] });
    let subject = json!({ "kind": "ServiceAccount", "serviceAccount": { "name": ACCOUNT, "namespace": NAMESPACE } });
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": { "name": schema_name(name) },
        "spec": {
            "matchingPrecedence": precedence, "priorityLevelConfiguration": { "name": "workload-low" },
            "rules": [{ "subjects": [subject], "resourceRules": [rule] }],
        },
    })
}
