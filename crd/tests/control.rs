//! What agents and the control API say to each other survives neighbouring versions on either side.
#![expect(clippy::unwrap_used, clippy::needless_pass_by_value, reason = "helpers of tests fail as tests do, and take what `json!` makes")]

use kuik_crd::control::{Agents, Desired, Disk, Finding, Held, HeldBack, PinReason, Pressure, Report, ReportAnswer, UpstreamState};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn read<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{value}: {error}"))
}

/// An empty message is the default, and an unknown field changes nothing.
fn check_lenient<T: DeserializeOwned + Serialize + Default + PartialEq + std::fmt::Debug>() {
    assert_eq!(read::<T>(json!({})), T::default());
    let mut value = serde_json::to_value(T::default()).unwrap();
    value["newsFromTheFuture"] = json!({"a": [1]});
    assert_eq!(read::<T>(value), T::default());
}

#[test]
fn missing_fields_have_defaults_and_unknown_ones_are_ignored() {
    check_lenient::<Agents>();
    check_lenient::<Desired>();
    check_lenient::<Report>();
    check_lenient::<Disk>();
    check_lenient::<Pressure>();
    check_lenient::<HeldBack>();
    check_lenient::<ReportAnswer>();
    check_lenient::<Held>();
    check_lenient::<Finding>();
}

#[test]
fn unknown_words_are_read_as_such() {
    let desired: Desired = read(json!({"pins": [{"image": "a", "reasons": ["retained", "askedForByTheMoon"], "weight": 1}]}));
    assert_eq!(desired.pins[0].reasons, [PinReason::Retained, PinReason::Other]);
    let held: Held = read(json!({"image": "a", "upstream": "moved"}));
    assert_eq!(held.upstream, UpstreamState::Unknown);
}

#[test]
fn a_report_is_spelled_as_the_contract_says() {
    let value = json!({
        "boot": "b", "sequence": 2, "full": true, "agentVersion": "2.0.0", "startedAt": 1,
        "disk": {
            "capacityBytes": 1, "freeBytes": 2, "usedBytes": 3, "budgetBytes": 4, "blobs": 5, "evictedImages": 6, "evictedLastHour": 7,
            "pressure": {"since": 8, "missingBytes": 9, "held": [{"reason": "last copy", "images": 10, "bytes": 11}]},
            "quarantinedBlobs": 12, "lastQuarantined": "sha256:b of docker.io/library/nginx"
        },
        "traffic": {"hits": 1, "misses": 2, "servedBytes": 3, "fetchedBytes": 4},
        "images": [{
            "image": "docker.io/library/nginx:1", "digest": "sha256:a", "sizeBytes": 1, "complete": true,
            "usedAt": 2, "checkedAt": 3, "validatedAt": 4, "upstream": "rateLimited"
        }],
        "removed": ["docker.io/library/nginx:0"],
        "findings": [{"image": "docker.io/library/nginx:1", "at": 5, "error": "no"}]
    });
    assert_eq!(serde_json::to_value(read::<Report>(value.clone())).unwrap(), value);
}

#[test]
fn a_wish_is_spelled_as_the_contract_says() {
    let value = json!({
        "keep": ["a"], "refresh": [{"image": "b", "since": 1}], "drop": [{"image": "c", "unusedSince": 2}],
        "pins": [{"image": "d", "reasons": ["retained", "usedHere", "usedElsewhere", "goneUpstream", "lastCopy", "other"]}]
    });
    assert_eq!(serde_json::to_value(read::<Desired>(value.clone())).unwrap(), value);
}
