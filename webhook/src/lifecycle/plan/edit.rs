//! A change of an object's metadata and spec, as a merge patch.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use kuik_crd::CachedImage;
use serde_json::{Map, Value, json};

use super::{Action, Note, Step, Target};

/// What is to be different.
#[derive(Debug, Default)]
pub(super) struct Edit {
    labels: BTreeMap<&'static str, Option<String>>,
    annotations: BTreeMap<&'static str, Option<String>>,
    finalizers: Option<Vec<String>>,
    spec: Map<String, Value>,
    notes: Vec<Note>,
}

impl Edit {
    pub(super) fn label(&mut self, key: &'static str, value: Option<String>) {
        self.labels.insert(key, value);
    }

    pub(super) fn remove_annotation(&mut self, key: &'static str) {
        self.annotations.insert(key, None);
    }

    pub(super) fn remove_finalizer(&mut self, object: &CachedImage, finalizer: &str) {
        if object.finalizers().iter().any(|one| one == finalizer) {
            self.finalizers = Some(object.finalizers().iter().filter(|one| *one != finalizer).cloned().collect());
        }
    }

    pub(super) fn expires_at(&mut self, at: Option<&Time>) {
        self.spec.insert("expiresAt".to_owned(), json!(at));
    }

    pub(super) fn retain(&mut self) {
        self.spec.insert("retain".to_owned(), json!(true));
    }

    pub(super) fn note(&mut self, note: Note) {
        self.notes.push(note);
    }

    /// The write, if there is anything to write. It fails if the object has changed meanwhile.
    pub(super) fn step(self, object: &CachedImage) -> Option<Step> {
        let Self { labels, annotations, finalizers, spec, notes } = self;
        if labels.is_empty() && annotations.is_empty() && finalizers.is_none() && spec.is_empty() {
            return None;
        }
        let target = Target::of(object);
        let mut meta = Map::new();
        meta.insert("resourceVersion".to_owned(), json!(target.version));
        if !labels.is_empty() {
            meta.insert("labels".to_owned(), json!(labels));
        }
        if !annotations.is_empty() {
            meta.insert("annotations".to_owned(), json!(annotations));
        }
        if let Some(finalizers) = finalizers {
            meta.insert("finalizers".to_owned(), json!(finalizers));
        }
        let mut patch = Map::from_iter([("metadata".to_owned(), Value::Object(meta))]);
        if !spec.is_empty() {
            patch.insert("spec".to_owned(), Value::Object(spec));
        }
        Some(Step { action: Action::PatchImage(target, Value::Object(patch)), notes })
    }
}
