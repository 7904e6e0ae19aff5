//! `NodeCache`: the cache of one node.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Empty: there is nothing to wish for, the object shows what a node's agent reports. Settings of the caches are values of the chart.
#[expect(clippy::duplicated_attributes, reason = "columns have things in common")]
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kuik.enix.io",
    version = "v1alpha1",
    kind = "NodeCache",
    plural = "nodecaches",
    shortname = "nc",
    status = "NodeCacheStatus",
    derive = "PartialEq",
    doc = "The image cache of one node, named as its node and owned by it. The controller makes, updates and deletes it: it is there to be read.",
    label("app.kubernetes.io/name", "kube-image-keeper"),
    printcolumn(name = "Used", type_ = "string", json_path = ".status.used", description = "What the cache takes"),
    printcolumn(name = "Budget", type_ = "string", json_path = ".status.budget", description = "What the cache may take"),
    printcolumn(name = "Free", type_ = "string", json_path = ".status.free", description = "Free on the cache's file system"),
    printcolumn(name = "Images", type_ = "integer", json_path = ".status.images"),
    printcolumn(
        name = "Evicted 1h",
        type_ = "integer",
        json_path = ".status.evictedLastHour",
        description = "Images evicted to make room within the last hour"
    ),
    printcolumn(
        name = "Pressure",
        type_ = "string",
        json_path = ".status.pressure",
        description = "Whether the cache cannot make the room that it should"
    ),
    printcolumn(
        name = "Hits %",
        type_ = "integer",
        json_path = ".status.hitPercent",
        description = "Share of requests answered from the node's disk since the agent started"
    ),
    printcolumn(
        name = "Capacity",
        type_ = "string",
        json_path = ".status.capacity",
        description = "Size of the cache's file system",
        priority = 1
    ),
    printcolumn(name = "Evictions", type_ = "integer", json_path = ".status.evictions", priority = 1),
    printcolumn(
        name = "Saved",
        type_ = "string",
        json_path = ".status.saved",
        description = "Served without asking a registry since the agent started",
        priority = 1
    ),
    printcolumn(
        name = "Quarantined",
        type_ = "integer",
        json_path = ".status.quarantined",
        description = "Blobs found with wrong bytes since the agent started",
        priority = 1
    ),
    printcolumn(name = "Agent version", type_ = "string", json_path = ".status.agentVersion"),
    printcolumn(name = "Last report", type_ = "date", json_path = ".status.lastReport"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct NodeCacheSpec {}

/// What the agent of the node reports. The leader of the controllers writes it, when a figure has changed visibly; anything else that is
/// written here is overwritten.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeCacheStatus {
    /// Size of the file system that the cache is on, in bytes.
    #[schemars(range(min = 0))]
    pub capacity_bytes: i64,
    /// What is free on the file system that the cache is on, in bytes.
    #[schemars(range(min = 0))]
    pub free_bytes: i64,
    /// What the cache's data directory takes, in bytes.
    #[schemars(range(min = 0))]
    pub used_bytes: i64,
    /// What the cache may take now, in bytes: the chart's `agent.cache.maxSize`, or less where `agent.cache.minFree` leaves less of the file
    /// system. Absent when that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub budget_bytes: Option<i64>,
    /// `usedBytes` for people, such as `1.5Gi`.
    pub used: String,
    /// `freeBytes` for people.
    pub free: String,
    /// `capacityBytes` for people.
    pub capacity: String,
    /// `budgetBytes` for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<String>,
    /// How many images the node holds as a whole.
    #[schemars(range(min = 0))]
    pub images: i32,
    /// Share of requests for manifests and blobs that were answered from the node's disk since the agent started, in percent. Absent
    /// before the first request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub hit_percent: Option<i32>,
    /// What was served and had not to be fetched from registries, in bytes, since the agent started.
    #[schemars(range(min = 0))]
    pub saved_upstream_bytes: i64,
    /// `savedUpstreamBytes` for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saved: Option<String>,
    /// How many images were evicted to make room since the agent started.
    #[schemars(range(min = 0))]
    pub evictions: i64,
    /// How many images were evicted to make room within the last hour. It can lag by up to 5 minutes.
    #[schemars(range(min = 0))]
    pub evicted_last_hour: i64,
    /// `Yes` while the cache cannot make the room that it should, or can keep nothing more; `No` otherwise. The condition `DiskPressure`
    /// says why.
    pub pressure: String,
    /// What has to go until eviction ends, in bytes. Absent without pressure.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub missing_bytes: Option<i64>,
    /// The images that are not evicted in spite of the pressure, by the reason that holds them, the largest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<HeldImages>,
    /// How many blobs were found with wrong bytes, and put aside, since the agent started.
    #[schemars(range(min = 0))]
    pub quarantined: i64,
    /// The last blob that was found with wrong bytes: its digest, and of which repository it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_quarantined: Option<String>,
    /// The version of the node's agent.
    pub agent_version: String,
    /// When the agent last reported. It is not written for each report, so it can lag by up to 5 minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_report: Option<Time>,
    /// `Reporting`: whether the agent has reported lately. `DiskPressure`: whether the cache cannot make the room that it should, what holds
    /// it back, and what to do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Images that are not evicted for one reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HeldImages {
    /// In words of the agent, such as `retained` or `last copy`.
    pub reason: String,
    /// How many images.
    #[schemars(range(min = 0))]
    pub images: i64,
    /// What they take, in bytes.
    #[schemars(range(min = 0))]
    pub bytes: i64,
}
