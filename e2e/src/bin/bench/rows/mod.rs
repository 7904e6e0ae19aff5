//! The rows of the table, in its order.

mod cold_pull;
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
}

impl Row {
    pub(crate) const ALL: [Self; 7] =
        [Self::WarmBlob, Self::WarmSmall, Self::ColdPull, Self::FirstByte, Self::FanIn, Self::Memory, Self::Start];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::WarmBlob => "warm-blob",
            Self::WarmSmall => "warm-small",
            Self::ColdPull => "cold-pull",
            Self::FirstByte => "first-byte",
            Self::FanIn => "fan-in",
            Self::Memory => "memory",
            Self::Start => "start",
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
        }
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
        }
    }
}

/// Measures what was asked for, prints it, and keeps it where the run was complete.
pub(crate) fn run(options: Options) -> Result<()> {
    let lab = Lab::open(options)?;
    if lab.options.render {
        return report::render(&lab);
    }
    lab.check_tools()?;
    if lab.options.hold {
        return warm_blob::hold(&lab);
    }
    if lab.agent.is_none() && lab.options.wants("agent") {
        eprintln!("bench: no agent to measure (build it, or set KUIK_AGENT_BIN); the others are measured and nothing is kept");
    }
    let keep = lab.options.complete() && lab.agent.is_some();
    let facts = machine::facts(&lab);
    let mut failed = Vec::new();
    let chosen = if lab.options.only.is_empty() { Row::ALL.to_vec() } else { lab.options.only.clone() };
    for row in chosen {
        let (when, load) = (machine::now(), machine::load_average());
        eprintln!("bench: {}", row.title());
        match row.measure(&lab) {
            Ok(mut report) => {
                report.scrub(&lab);
                print!("{}", report.print(row, &when, &load)?);
                if keep {
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
