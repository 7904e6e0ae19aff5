//! kube-image-keeper's node agent: a pull-through OCI registry in one process.
//!
//! ```text
//!  containerd ──HTTP──▶ http ──Route──▶ cache ──▶ store          (hit: stream from disk)
//!                                        │  ▲
//!                                        │  └──── fill ◀── upstream ── registry
//!                                        └─ flight
//!                 oci: the words every box speaks; knows none of them
//! ```
//! One request, in order: `http/mod.rs` has `oci::Router` read method, path and `ns` into a `Route` → `http/blobs.rs` calls
//! `Cache::blob` → the store opens the file (hit), or `cache/fill.rs` leads one download for all who wait → `cache/source.rs` asks
//! `upstream` and resumes what breaks → bytes go to a `store::Writer` and, up to its frontier, to every client → `Writer::verify`,
//! then commit → `http/error.rs` maps any failure, `http/observe.rs` writes one line and one set of metrics.

pub mod access;
pub mod app;
pub mod args;
pub mod cache;
pub mod cli;
pub mod config;
pub mod control;
pub mod disk;
pub mod http;
pub mod metrics;
pub mod oci;
pub mod readiness;
pub mod requester;
pub mod shutdown;
pub mod store;
pub mod telemetry;
pub mod upstream;
