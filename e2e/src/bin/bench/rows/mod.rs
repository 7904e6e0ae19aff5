//! The rows of the table, in its order.

mod admission;
mod cold_pull;
mod controller;
mod disk;
mod eviction;
mod fan_in;
mod first_byte;
mod memory;
mod start;
mod warm_blob;
mod warm_small;

use anyhow::{Result, bail};

use crate::args::Options;
use crate::lab::Lab;
use crate::machine;
use crate::report::{self, Report};

/// One row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Row {
    WarmBlob,
    WarmSmall,
    ColdPull,
    FirstByte,
    FanIn,
    Memory,
    Start,
    Disk,
    Eviction,
    Admission,
    Controller,
}

impl Row {
    pub(crate) const ALL: [Self; 11] = [
        Self::WarmBlob,
        Self::WarmSmall,
        Self::ColdPull,
        Self::FirstByte,
        Self::FanIn,
        Self::Memory,
        Self::Start,
        Self::Disk,
        Self::Eviction,
        Self::Admission,
        Self::Controller,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::WarmBlob => "warm-blob",
            Self::WarmSmall => "warm-small",
            Self::ColdPull => "cold-pull",
            Self::FirstByte => "first-byte",
            Self::FanIn => "fan-in",
            Self::Memory => "memory",
            Self::Start => "start",
            Self::Disk => "disk",
            Self::Eviction => "eviction",
            Self::Admission => "admission",
            Self::Controller => "controller",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::WarmBlob => "Warm blob of 1 GiB, one client and 8",
            Self::WarmSmall => "Warm manifests and 4 KiB blobs, 64 connections",
            Self::ColdPull => "Cold pull of 1 GiB",
            Self::FirstByte => "First byte of a cold pull",
            Self::FanIn => "32 clients, one cold blob",
            Self::Memory => "Memory, idle and with 32 cold streams",
            Self::Start => "Start with 100,000 blobs stored",
            Self::Disk => "Planning and accounting with 100,000 blobs stored",
            Self::Eviction => "Warm reads while 10 GB are evicted",
            Self::Admission => "Admission, 1,000 reviews a second",
            Self::Controller => "Controller with 10,000 pods and 2,000 images",
        }
    }

    /// It measures the webhook, and not the agent.
    fn is_of_the_webhook(self) -> bool {
        matches!(self, Self::Admission | Self::Controller)
    }

    /// Whether there is a program to measure.
    fn is_built(self, lab: &Lab) -> bool {
        if self.is_of_the_webhook() { lab.webhook.is_some() } else { lab.agent.is_some() }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|row| row.name() == name)
    }

    pub(crate) fn names() -> Vec<&'static str> {
        Self::ALL.iter().map(|row| row.name()).collect()
    }

    fn measure(self, lab: &Lab) -> Result<Report> {
        match self {
            Self::WarmBlob => warm_blob::measure(lab),
            Self::WarmSmall => warm_small::measure(lab),
            Self::ColdPull => cold_pull::measure(lab),
            Self::FirstByte => first_byte::measure(lab),
            Self::FanIn => fan_in::measure(lab),
            Self::Memory => memory::measure(lab),
            Self::Start => start::measure(lab),
            Self::Disk => disk::measure(lab),
            Self::Eviction => eviction::measure(lab),
            Self::Admission => admission::measure(lab),
            Self::Controller => controller::measure(lab),
        }
    }
}

/// Measures what was asked for, prints it, and keeps it where the run was complete.
pub(crate) fn run(options: Options) -> Result<()> {
    let lab = Lab::open(options)?;
    if lab.options.render {
        return report::render(&lab);
    }
    let chosen = if lab.options.only.is_empty() { Row::ALL.to_vec() } else { lab.options.only.clone() };
    let (webhook, agent): (Vec<Row>, Vec<Row>) = chosen.iter().partition(|row| row.is_of_the_webhook());
    if !agent.is_empty() || lab.options.hold {
        lab.check_tools()?;
    }
    if !webhook.is_empty() {
        lab.check_cluster_tools()?;
    }
    if lab.options.hold {
        return warm_blob::hold(&lab);
    }
    if !agent.is_empty() && lab.agent.is_none() && lab.options.wants("agent") {
        eprintln!("bench: no agent to measure (build it, or set KUIK_AGENT_BIN); the others are measured and nothing is kept");
    }
    let facts = machine::facts(&lab);
    let mut failed = Vec::new();
    for row in chosen {
        let (when, load) = (machine::now(), machine::load_average());
        eprintln!("bench: {}", row.title());
        match row.measure(&lab) {
            Ok(mut report) => {
                report.scrub(&lab);
                print!("{}", report.print(row, &when, &load)?);
                if lab.options.complete() && row.is_built(&lab) {
                    report.keep(&lab, row, &facts, &when, &load)?;
                    report::render(&lab)?;
                }
            }
            Err(error) => {
                eprintln!("bench: {}: {error:#}", row.name());
                failed.push(row.name());
            }
        }
    }
    if !failed.is_empty() {
        bail!("not measured: {}", failed.join(", "));
    }
    Ok(())
}
