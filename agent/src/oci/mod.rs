//! The words that every part speaks: references, digests, routes, ranges, manifests, error codes.
//!
//! Pure: no IO, no async, no axum. It must stay so, because everything here reads bytes that strangers sent and is fuzzed.

mod error;
mod hash;
mod manifest;
mod range;
mod route;

pub use error::{ErrorBody, ErrorCode};
pub use hash::Hasher;
pub use kuik_crd::{Algorithm, Digest, Image, Registry, Repository, RepositoryName, Tag, Target};
pub use manifest::{ACCEPT, Descriptor, MANIFEST_BYTES_MAX, Manifest, ManifestError, is_manifest_type};
pub use range::{ByteRange, ContentRange, Unsatisfiable};
pub use route::{Page, Route, RouteError, Router};
