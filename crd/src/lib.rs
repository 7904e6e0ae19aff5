//! The vocabulary that kube-image-keeper's programs share: image references, the localhost path that
//! stands for them, digests and tags; names of labels and objects; which nodes keep an image; what agents
//! and the control API say to each other; with the feature `credentials`, how docker writes down who we are
//! at registries; and, with the feature `objects`, the API objects.
//!
//! Everything here is pure: no IO, no async, no clock; but for `credentials/helper.rs`, which runs programs.
//! Both directions of every mapping are property-tested (`decode(encode(r)) == r`).
#![deny(missing_docs)]

#[cfg(feature = "objects")]
mod cached_image;
pub mod control;
#[cfg(feature = "credentials")]
pub mod credentials;
#[cfg(feature = "objects")]
mod definitions;
mod digest;
mod duration;
mod human_size;
mod image;
mod keepers;
pub mod names;
#[cfg(feature = "objects")]
mod node_cache;
mod object_name;
mod pull_key;
#[cfg(feature = "pull-tokens")]
pub mod pull_token;
mod registry;
mod repository;

#[cfg(feature = "objects")]
pub use cached_image::{
    CachedImage, CachedImageSpec, CachedImageStatus, CopyState, ImageCopy, LastRefusal, Phase, PodReference, ProvenNamespaces, UsedBy,
};
#[cfg(feature = "objects")]
pub use definitions::{crd_yaml, crds};
pub use digest::{Algorithm, Digest, DigestError};
pub use duration::parse_duration;
pub use human_size::human_size;
pub use image::{Image, ImageError, MAX_REPOSITORY_CHARS, Tag, Target};
pub use keepers::{Candidate, keepers};
#[cfg(feature = "objects")]
pub use node_cache::{HeldImages, NodeCache, NodeCacheSpec, NodeCacheStatus};
pub use object_name::{object_name, object_name_hashed, repository_label};
pub use pull_key::PullKey;
pub use registry::{DOCKER_HUB, Registry, RegistryError};
pub use repository::{Repository, RepositoryError, RepositoryName};
