//! What the end-to-end tests and the benchmark stand on: real registries, real clients, the agent
//! as a program, and images made here without any network.
//!
//! Everything started is a child of the test that started it, listens on a random port of
//! loopback, writes into a temporary directory of its own, and dies with its owner. The one
//! exception is a [`cluster`], which lives on until it is taken down.

pub mod agent;
pub mod cluster;
pub mod containerd;
pub mod disk;
pub mod http;
pub mod images;
pub mod kube;
pub mod metrics;
pub mod process;
pub mod registry;
pub mod relay;
pub mod token_server;
pub mod tools;
pub mod wait;
