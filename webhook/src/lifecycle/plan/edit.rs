//! A change of an object's metadata and spec, as a merge patch.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::ResourceExt as _;
use kuik_crd::CachedImage;
use kuik_crd::names::V1_IMAGE_FINALIZER;
use serde_json::{Map, Value, json};

use super::catalogue::is_v1_owner;
use super::{Action, Note, Step, Target};

/// What is to be different.
#[derive(Debug, Default)]
pub(super) struct Edit {
    labels: BTreeMap<&'static str, Option<String>>,
    annotations: BTreeMap<&'static str, Option<String>>,
    finalizers: Option<Vec<String>>,
    owners: Option<Vec<OwnerReference>>,
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

    /// Frees the object of kuik v1: nothing of v1 that is deleted later takes it along or holds it back.
    pub(super) fn take_from_v1(&mut self, object: &CachedImage) {
        if object.finalizers().iter().any(|one| one == V1_IMAGE_FINALIZER) {
            self.finalizers = Some(object.finalizers().iter().filter(|one| *one != V1_IMAGE_FINALIZER).cloned().collect());
        }
        if object.owner_references().iter().any(is_v1_owner) {
            self.owners = Some(object.owner_references().iter().filter(|owner| !is_v1_owner(owner)).cloned().collect());
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
        let Self { labels, annotations, finalizers, owners, spec, notes } = self;
        if labels.is_empty() && annotations.is_empty() && finalizers.is_none() && owners.is_none() && spec.is_empty() {
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
        if let Some(owners) = owners {
            meta.insert("ownerReferences".to_owned(), json!(owners));
        }
        let mut patch = Map::from_iter([("metadata".to_owned(), Value::Object(meta))]);
        if !spec.is_empty() {
            patch.insert("spec".to_owned(), Value::Object(spec));
        }
        Some(Step { action: Action::PatchImage(target, Value::Object(patch)), notes })
    }
}
