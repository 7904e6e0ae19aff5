//! The definitions of our objects: what is in chart/crds, what they accept, and that everything in them is explained.
#![cfg(feature = "objects")]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod structural;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use kuik_crd::{
    CachedImage, CachedImageSpec, CachedImageStatus, CopyState, Image, NodeCache, Phase, crd_yaml, crds, names, object_name,
    repository_label,
};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use structural::check;

fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The documents of a sample.
fn sample(name: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&read(&path("tests/samples").join(name))).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Every object of every sample, with the file that it is from.
fn samples() -> Vec<(String, Value)> {
    let files = std::fs::read_dir(path("tests/samples")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut files: Vec<String> = files.filter(|name| !name.ends_with("-crd.yaml")).collect();
    files.sort();
    files.into_iter().flat_map(|file| sample(&file).into_iter().map(move |object| (file.clone(), object))).collect()
}

/// The schema of a kind.
fn schema(kind: &str) -> &'static Value {
    static ALL: LazyLock<HashMap<String, Value>> = LazyLock::new(|| {
        crds().into_iter().map(|crd| (crd.spec.names.kind.clone(), schema_of(&serde_json::to_value(crd).unwrap()))).collect()
    });
    &ALL[kind]
}

fn schema_of(crd: &Value) -> Value {
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

fn image(spec: &Value) -> Value {
    json!({"apiVersion": "kuik.enix.io/v1alpha1", "kind": "CachedImage", "metadata": {"name": "x"}, "spec": spec})
}

/// What an object is after it went through our types.
fn through<T: DeserializeOwned + Serialize>(object: &Value) -> Value {
    let read: T = serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{object}: {error}"));
    serde_json::to_value(read).unwrap()
}

/// Fields of `before` that are not in `after` as they were.
fn lost(path: &str, before: &Value, after: &Value, found: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (name, value) in before {
                lost(&format!("{path}.{name}"), value, after.get(name).unwrap_or(&Value::Null), found);
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (i, (value, after)) in before.iter().zip(after).enumerate() {
                lost(&format!("{path}[{i}]"), value, after, found);
            }
        }
        _ if before == after => {}
        _ => found.push(path.to_owned()),
    }
}

#[test]
fn the_chart_has_the_definitions_of_this_source() {
    let dir = path("../chart/crds");
    let mut files: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    assert_eq!(files, ["cachedimages.kuik.enix.io.yaml", "nodecaches.kuik.enix.io.yaml"]);
    for crd in crds() {
        let file = dir.join(format!("{}.yaml", crd.metadata.name.as_deref().unwrap()));
        assert_eq!(read(&file), crd_yaml(&crd), "{} is old: `make crds`", file.display());
    }
}

#[test]
fn yaml_says_what_the_definition_says() {
    for crd in crds() {
        let back: k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition =
            serde_saphyr::from_str(&crd_yaml(&crd)).unwrap();
        assert_eq!(back, crd);
    }
}

#[test]
fn a_definition_carries_the_hash_of_its_spec_and_our_label() {
    let all = crds();
    let hashes: Vec<&String> = all.iter().map(|crd| &crd.metadata.annotations.as_ref().unwrap()["kuik.enix.io/schema"]).collect();
    assert!(hashes.iter().all(|hash| hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit())), "{hashes:?}");
    assert_ne!(hashes[0], hashes[1]);
    assert_eq!(crds(), all);
    for crd in &all {
        assert_eq!(crd.metadata.labels.as_ref().unwrap()["app.kubernetes.io/name"], "kube-image-keeper");
        assert_eq!(crd.spec.scope, "Cluster");
        assert_eq!(crd.spec.preserve_unknown_fields, None);
    }
}

#[test]
fn samples_are_valid_and_only_what_nobody_reads_is_dropped() {
    let mut dropped = Vec::new();
    for (file, object) in samples() {
        let outcome = check(schema(object["kind"].as_str().unwrap()), &object, None);
        assert!(outcome.errors.is_empty(), "{file}: {:?}", outcome.errors);
        dropped.extend(outcome.dropped.into_iter().map(|field| format!("{file}{field}")));
    }
    assert_eq!(dropped, ["v1.14-cachedimages.yaml.status.progress"]);
}

#[test]
fn samples_of_v1_are_valid_in_v1_s_own_schema() {
    for version in ["v1.0", "v1.14"] {
        let theirs = schema_of(&sample(&format!("{version}-crd.yaml"))[0]);
        for object in sample(&format!("{version}-cachedimages.yaml")) {
            let outcome = check(&theirs, &object, None);
            assert!(outcome.errors.is_empty(), "{version}: {:?}", outcome.errors);
            let nulls_and_progress = [".status.lastSeenUpstream", ".status.lastSuccessfulPull", ".status.lastSync", ".status.progress"];
            assert!(outcome.dropped.iter().all(|field| nulls_and_progress.contains(&field.as_str())), "{version}: {:?}", outcome.dropped);
        }
    }
}

#[test]
fn samples_come_back_from_our_types_as_they_went_in() {
    let mut gone = Vec::new();
    for (file, object) in samples() {
        let after = if object["kind"] == "NodeCache" { through::<NodeCache>(&object) } else { through::<CachedImage>(&object) };
        lost(&file, &object, &after, &mut gone);
        assert_eq!(if object["kind"] == "NodeCache" { through::<NodeCache>(&after) } else { through::<CachedImage>(&after) }, after);
    }
    // The offset of a time is not kept, the time is.
    assert_eq!(gone, ["hand-made.yaml.spec.expiresAt", "v1.14-cachedimages.yaml.status.progress"]);
}

#[test]
fn what_our_types_write_with_every_field_is_valid() {
    for (file, object) in samples().into_iter().filter(|(file, _)| ["cachedimage.yaml", "nodecache.yaml"].contains(&file.as_str())) {
        let schema = schema(object["kind"].as_str().unwrap());
        for part in ["spec", "status"] {
            let known = schema["properties"][part]["properties"].as_object().into_iter().flatten().map(|(name, _)| name);
            let missing: Vec<_> =
                known.filter(|name| !name.starts_with("pullSecret") && object[part].get(name.as_str()).is_none()).collect();
            assert!(missing.is_empty(), "{file}: a field is in the schema and not in the sample: {missing:?}");
        }
    }
    let empty = CachedImage {
        status: Some(CachedImageStatus::default()),
        ..CachedImage::new("x", CachedImageSpec { source_image: "nginx".to_owned(), ..CachedImageSpec::default() })
    };
    let outcome = check(schema("CachedImage"), &serde_json::to_value(empty).unwrap(), None);
    assert!(outcome.errors.is_empty() && outcome.dropped.is_empty(), "{outcome:?}");
}

#[test]
fn words_of_other_versions_can_be_read() {
    let object = json!({"phase": "Verifying", "copies": [{"node": "a", "state": "Remote", "bytes": 1, "since": "2026-01-01T00:00:00Z"}], "news": [1]});
    let status: CachedImageStatus = serde_json::from_value(object).unwrap();
    assert_eq!((status.phase, status.copies[0].state), (Some(Phase::Synchronizing), CopyState::Partial));
    for phase in [Phase::Pulling, Phase::ErrImagePull, Phase::Ready, Phase::Terminating, Phase::Synchronizing] {
        assert_eq!(serde_json::from_value::<Phase>(json!(format!("{phase:?}"))).unwrap(), phase);
        assert_eq!(serde_json::to_value(phase).unwrap(), json!(format!("{phase:?}")));
    }
}

#[test]
fn what_cannot_be_an_image_is_refused() {
    let long = "a".repeat(1025);
    for text in [
        "",
        " ",
        "nginx 1.25",
        "https://docker.io/nginx",
        "docker://nginx",
        "quay.io/Team/app",
        "nginx:",
        "nginx@",
        "nginx@sha256:abc",
        "/nginx",
        "a//b",
        "a b",
        "nginx\n",
        &long,
    ] {
        let outcome = check(schema("CachedImage"), &image(&json!({"sourceImage": text})), None);
        assert!(!outcome.errors.is_empty(), "{text:?} is accepted");
    }
    for spec in [
        json!({}),
        json!({"sourceImage": 5}),
        json!({"sourceImage": "nginx", "expiresAt": "tomorrow"}),
        json!({"sourceImage": "nginx", "retain": "yes"}),
    ] {
        assert!(!check(schema("CachedImage"), &image(&spec), None).errors.is_empty(), "{spec} is accepted");
    }
}

#[test]
fn an_image_cannot_be_changed_and_everything_else_can() {
    let old = image(&json!({"sourceImage": "nginx:1"}));
    let errors = |spec: Value| check(schema("CachedImage"), &image(&spec), Some(&old)).errors;
    assert_eq!(errors(json!({"sourceImage": "nginx:1", "retain": true, "expiresAt": "2026-01-01T00:00:00Z"})), [""; 0]);
    let message = ".spec.sourceImage: cannot be changed: create another CachedImage for the other image, and delete this one";
    assert_eq!(errors(json!({"sourceImage": "nginx:2"})), [message]);
}

#[test]
fn figures_cannot_be_negative() {
    let mut node = sample("nodecache.yaml").remove(0);
    for (field, value) in [
        ("usedBytes", -1),
        ("hitPercent", 101),
        ("evictedLastHour", -1),
        ("missingBytes", -1),
        ("quarantined", -1),
        ("images", -1),
        ("images", i64::from(i32::MAX) + 1),
    ] {
        let before = std::mem::replace(&mut node["status"][field], value.into());
        assert_eq!(check(schema("NodeCache"), &node, None).errors.len(), 1, "{field}: {value}");
        node["status"][field] = before;
    }
}

#[test]
fn kuik_s_objects_have_the_names_and_labels_that_ours_would_have() {
    for (file, object) in samples().into_iter().filter(|(file, _)| !["hand-made.yaml", "nodecache.yaml"].contains(&file.as_str())) {
        let source: Image = object["spec"]["sourceImage"].as_str().unwrap().parse().unwrap();
        assert_eq!(object["metadata"]["name"], object_name(&source), "{file}");
        assert_eq!(object["metadata"]["labels"][names::REPOSITORY_LABEL], repository_label(source.repository()), "{file}");
    }
}

#[test]
fn keys_and_values_fit_into_labels() {
    let part = |text: &str, extra: &str| {
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        ends(text.chars().next()) && ends(text.chars().last()) && text.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
    };
    for key in [
        names::CACHING_POLICY_LABEL,
        names::MANAGED_LABEL,
        names::MANAGED_LABEL_V1_0,
        names::REWRITE_ANNOTATION,
        names::FORCE_UPDATE_ANNOTATION,
        names::REPOSITORY_LABEL,
        names::MANAGED_BY_LABEL,
        names::V1_IMAGE_FINALIZER,
        names::SCHEMA_ANNOTATION,
    ] {
        let (prefix, name) = key.split_once('/').unwrap();
        assert!(prefix.len() <= 253 && part(prefix, "-."), "{key}");
        assert!(name.len() <= names::LABEL_MAX_CHARS && part(name, "-_."), "{key}");
    }
    for value in [names::IGNORE, names::MANAGED_BY] {
        assert!(value.len() <= names::LABEL_MAX_CHARS && part(value, "-_."), "{value}");
    }
    for crd in crds() {
        assert_eq!(crd.metadata.name, Some(format!("{}.{}", crd.spec.names.plural, names::GROUP)));
        assert_eq!((crd.spec.group.as_str(), crd.spec.versions[0].name.as_str()), (names::GROUP, names::VERSION));
    }
}

#[test]
fn every_field_has_a_description() {
    fn walk(path: &str, schema: &Value, bare: &mut Vec<String>) {
        if schema["description"].as_str().is_none_or(|text| text.len() < 10 || text.contains('\n')) {
            bare.push(path.to_owned());
        }
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            walk(&format!("{path}.{name}"), field, bare);
        }
        for (name, field) in schema["items"]["properties"].as_object().into_iter().flatten() {
            walk(&format!("{path}[].{name}"), field, bare);
        }
    }
    let mut bare = Vec::new();
    for crd in crds() {
        walk(&crd.spec.names.kind, schema(&crd.spec.names.kind), &mut bare);
    }
    assert_eq!(bare, [""; 0]);
}

#[test]
fn deprecated_fields_say_so() {
    for field in ["pullSecretNames", "pullSecretsNamespace"] {
        let text = schema("CachedImage")["properties"]["spec"]["properties"][field]["description"].to_string();
        assert!(text.starts_with("\"Deprecated"), "{text}");
    }
}

/// Names that the columns have, those of `-o wide` in brackets.
fn columns(kind: &str) -> String {
    let crd = crds().into_iter().find(|crd| crd.spec.names.kind == kind).unwrap();
    let columns = crd.spec.versions[0].additional_printer_columns.clone().unwrap();
    for column in &columns {
        let (root, field) = column.json_path[1..].split_once('.').unwrap();
        let known = root == "metadata"
            || field.split('.').try_fold(&schema(kind)["properties"][root], |schema, name| schema["properties"].get(name)).is_some();
        assert!(known, "{kind}: {} is no field", column.json_path);
    }
    let name = |name: String, priority| if priority > 0 { format!("[{name}]") } else { name };
    columns.into_iter().map(|column| name(column.name, column.priority.unwrap_or(0))).collect::<Vec<_>>().join(" · ")
}

#[test]
fn columns_are_kuik_s_and_ours() {
    let v1 = sample("v1.14-crd.yaml").remove(0);
    let v1: Vec<&str> = v1["spec"]["versions"][0]["additionalPrinterColumns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| column["name"].as_str().unwrap())
        .collect();
    let ours = columns("CachedImage");
    assert_eq!(ours, "Status · Cached · Retain · Expires at · Pods count · Copies · Size · [Image] · [Upstream] · [Digest] · Age");
    let kept: Vec<&str> = ours.split(" · ").filter(|name| v1.contains(name)).collect();
    assert_eq!(kept, v1);
    assert_eq!(
        columns("NodeCache"),
        "Used · Budget · Free · Images · Evicted 1h · Pressure · Hits % · [Capacity] · [Evictions] · [Saved] · [Quarantined] · Agent version · Last report · Age"
    );
}

proptest! {
    #[test]
    fn every_image_that_we_can_read_is_accepted(
        text in "(([a-zA-Z]{1,4}[.][a-z]{2}|localhost|[a-z]{1,3}:[1-9][0-9]{0,3}|[\\[]::(ffff:1[.]2[.]3[.]4|1)[\\]](:5)?)/)?[a-z]{1,3}(([.]|_|__|-{1,3})[0-9]{1,2})?(/[a-z]{1,2}){0,2}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,12})?(@sha256:[0-9a-f]{64})?"
    ) {
        if let Ok(read) = text.parse::<Image>() {
            for text in [text, read.to_string()] {
                let outcome = check(schema("CachedImage"), &image(&json!({"sourceImage": text})), None);
                prop_assert!(outcome.errors.is_empty(), "{}: {:?}", text, outcome.errors);
            }
        }
    }
}
