//! The agent as a program, between a client and an upstream that can misbehave on command.
//!
//! Everything here talks to the real binary over loopback. `support` holds the upstream, the images, the agent's process and
//! the clients; each other module holds the rules of one area. Whatever two parties do at the same time is put in order by a
//! `Gate` in the upstream, never by sleeping.
#![cfg(test)]

mod admin;
mod auth;
mod blobs;
mod config;
mod control;
mod control_work;
mod disk;
mod endpoints;
mod flight;
mod full;
mod hostile;
mod lists;
mod manifests;
mod private;
mod ranges;
mod restart;
mod resume;
mod rot;
mod scrub;
mod selfcheck;
mod support;
mod tags;
mod tidy;
