//! What this module promises, held against registries on loopback that do as they are told.

mod auth;
mod blobs;
mod credentials;
mod failover;
mod limits;
mod redirects;
mod requests;
pub(crate) mod support;
mod tls;
