//! kube-image-keeper's webhook: three small servers and one leader.
//!
//! ```text
//!  kube-apiserver ──AdmissionReview──▶ admission        rewrites images; pure, on every replica
//!
//!  Kubernetes API ◀──watch, write───── lifecycle        pods → CachedImages, use, expiry, status; on the leader
//!                                        │  ▲
//!                                 wishes ▼  │ reports
//!                                        board
//!                                        │  ▲
//!  agents ──────────TLS, token───────▶ control          agents, desired, report; followers forward to the leader
//!
//!  pull: the token that each namespace shows to agents, in a Secret of it; on the leader
//!  certs: the authority and the certificate that admission and control serve with, by tls_server
//!  health: probes and metrics, for kubelet and Prometheus
//! ```
//! `app` builds these and ends them in order; `cli`, `args`, `usage`, `config` and `words` are what is typed and written for it;
//! `probe` is the other command, which `helm test` runs.

pub mod admission;
pub mod app;
pub mod args;
pub mod board;
pub mod certs;
pub mod cli;
pub mod config;
pub mod control;
pub mod credentials;
pub mod health;
pub mod lifecycle;
pub mod metrics;
pub mod naming;
pub mod pod_images;
pub mod probe;
pub mod pull;
pub mod readiness;
pub mod shutdown;
pub mod telemetry;
pub mod tls_server;
pub mod usage;
pub mod words;

pub use cli::{Failure, main};
