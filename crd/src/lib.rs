//! The vocabulary that kube-image-keeper's programs share: image references, the localhost path that
//! stands for them, digests and tags.
//!
//! Everything here is pure: no IO, no async, no clock. Both directions of every mapping are
//! property-tested (`decode(encode(r)) == r`).
#![deny(missing_docs)]

mod digest;
mod image;
mod registry;
mod repository;

pub use digest::{Algorithm, Digest, DigestError};
pub use image::{Image, ImageError, MAX_REPOSITORY_CHARS, Tag, Target};
pub use registry::{DOCKER_HUB, Registry, RegistryError};
pub use repository::{Repository, RepositoryError, RepositoryName};
