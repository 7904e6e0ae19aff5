//! Real clients pull real images through the agent, from a real registry.
//!
//! Every test starts a registry and an agent of its own. What the clients need is installed by
//! `make test-tools`; nothing is skipped when it is missing.

mod bytes;
mod conformance;
mod containerd;
mod crane;
mod oras;
mod podman;
mod setup;
mod skopeo;
mod soak;
