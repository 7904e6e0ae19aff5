//! The `CachedImage`s by the image that they are for.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt as _;
use kuik_crd::names::{GROUP, MANAGED_BY, MANAGED_BY_LABEL, V1_IMAGE_FINALIZER};
use kuik_crd::{CachedImage, ImageError, object_name_hashed};

use crate::lifecycle::mirror::Objects;
use crate::lifecycle::world::{Reference, References};

/// All objects that are for one image.
#[derive(Debug)]
pub(super) struct Group<'a> {
    pub(super) reference: Arc<Reference>,
    /// The one with the right name that is not being deleted.
    right: Option<&'a CachedImage>,
    /// Those with other names.
    pub(super) wrong: Vec<&'a CachedImage>,
    /// Those that are being deleted.
    pub(super) terminating: Vec<&'a CachedImage>,
}

impl<'a> Group<'a> {
    pub(super) fn right(&self) -> Option<&'a CachedImage> {
        self.right
    }

    /// Whether an object is there that is not being deleted.
    pub(super) fn is_live(&self) -> bool {
        self.right.is_some() || !self.wrong.is_empty()
    }

    fn add(&mut self, object: &'a CachedImage) {
        let name = object.metadata.name.as_deref().unwrap_or_default();
        if object.metadata.deletion_timestamp.is_some() {
            return self.terminating.push(object);
        }
        if name == self.reference.name {
            self.wrong.extend(self.right.replace(object));
        } else if self.right.is_none() && name == object_name_hashed(&self.reference.image) {
            self.right = Some(object);
        } else {
            self.wrong.push(object);
        }
    }
}

/// The objects, grouped.
#[derive(Debug)]
pub(super) struct Catalogue<'a> {
    all: &'a BTreeMap<Arc<str>, Arc<CachedImage>>,
    groups: BTreeMap<String, Group<'a>>,
    /// Images that are named by a digest: by repository and digest.
    by_digest: HashMap<(String, String), Vec<String>>,
    /// Those whose `sourceImage` is no reference.
    pub(super) invalid: Vec<(&'a CachedImage, ImageError)>,
}

impl<'a> Catalogue<'a> {
    pub(super) fn new(images: &'a Objects<CachedImage>, references: &mut References) -> Self {
        let mut catalogue = Self { all: images, groups: BTreeMap::new(), by_digest: HashMap::new(), invalid: Vec::new() };
        for object in images.values() {
            match references.get(&object.spec.source_image) {
                Ok(reference) => catalogue.add(reference, object),
                Err(error) => catalogue.invalid.push((object, error)),
            }
        }
        references.prune(images.len());
        catalogue
    }

    fn add(&mut self, reference: Arc<Reference>, object: &'a CachedImage) {
        let digests = &mut self.by_digest;
        let group = self.groups.entry(reference.text.clone()).or_insert_with(|| {
            if let Some(digest) = &reference.digest {
                digests.entry((reference.repository.clone(), digest.clone())).or_default().push(reference.text.clone());
            }
            Group { reference, right: None, wrong: Vec::new(), terminating: Vec::new() }
        });
        group.add(object);
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = (&str, &Group<'a>)> {
        self.groups.iter().map(|(text, group)| (text.as_str(), group))
    }

    pub(super) fn get(&self, text: &str) -> Option<&Group<'a>> {
        self.groups.get(text)
    }

    /// What an agent may mean by an entry of its report: its own reference, and whatever names its digest.
    pub(super) fn matching(&self, text: &str, repository: &str, digest: &str) -> impl Iterator<Item = &Group<'a>> {
        let by_digest = if self.by_digest.is_empty() { None } else { self.by_digest.get(&(repository.to_owned(), digest.to_owned())) };
        let others = by_digest.into_iter().flatten().filter(move |other| *other != text).filter_map(|other| self.groups.get(other));
        self.groups.get(text).into_iter().chain(others)
    }

    /// The name of a new object for an image; nothing while an object that is being deleted has it.
    pub(super) fn free_name(&self, reference: &Reference) -> Option<String> {
        let names = [reference.name.clone(), object_name_hashed(&reference.image)];
        let is_for_it =
            |object: &CachedImage| object.spec.source_image.parse().is_ok_and(|image: kuik_crd::Image| image == reference.image);
        for name in names {
            match self.all.get(name.as_str()) {
                None => return Some(name),
                Some(object) if is_for_it(object) => return None,
                Some(_) => {}
            }
        }
        None
    }
}

/// Whether copies of the image are kept although nothing uses it: it is retained, or somebody made the object by hand.
pub(super) fn is_kept(object: &CachedImage) -> bool {
    object.spec.retain || is_made_by_hand(object)
}

/// Whether neither we made the object nor kuik v1, which made one for every image that a pod ever used.
pub(super) fn is_made_by_hand(object: &CachedImage) -> bool {
    object.labels().get(MANAGED_BY_LABEL).map_or_else(|| object.spec.retain || !is_v1s(object), |by| by != MANAGED_BY)
}

/// Whether the object is as kuik v1 left it.
pub(super) fn is_v1s(object: &CachedImage) -> bool {
    object.finalizers().iter().any(|one| one == V1_IMAGE_FINALIZER) || object.owner_references().iter().any(is_v1_owner)
}

/// Whether the owner is a `Repository` of kuik v1.
pub(super) fn is_v1_owner(owner: &OwnerReference) -> bool {
    owner.kind == "Repository" && owner.api_version.split_once('/').is_some_and(|(group, _)| group == GROUP)
}
