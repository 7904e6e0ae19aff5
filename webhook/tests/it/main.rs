//! The webhook from outside: its routers, its servers over TLS on loopback, and the program.
//!
//! `support` holds a Kubernetes API that answers as it is told, certificates, and what asks; each other module holds the rules of one
//! area. Where time matters the clock is paused; what two parties do at the same time is put in order by a gate in the fake, never by
//! sleeping.
#![cfg(test)]

mod board;
mod credentials;
mod forward;
mod health;
mod polls;
mod probe;
mod program;
mod reports;
mod support;
mod tidy;
mod tokens;
