//! The command line.

use std::path::PathBuf;

use crate::rows::Row;

/// What the command line asked for.
pub(crate) enum Parsed {
    Help(String),
    Run(Options),
}

/// How to run.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// Rows to measure; empty for all.
    pub(crate) only: Vec<Row>,
    /// Contenders to measure; empty for all.
    pub(crate) contenders: Vec<String>,
    /// Rounds of each throughput measurement; `None` for each row's own number.
    pub(crate) rounds: Option<usize>,
    /// Fewer and shorter measurements, to see that everything works.
    pub(crate) quick: bool,
    /// Start everything warm, print where, and wait.
    pub(crate) hold: bool,
    /// Write BENCHMARKS.md anew from what was kept, and measure nothing.
    pub(crate) render: bool,
    /// Folder for all data; on one file system for all contenders.
    pub(crate) work_dir: Option<PathBuf>,
}

impl Options {
    /// A run that leaves something out is printed and not kept.
    pub(crate) fn complete(&self) -> bool {
        self.contenders.is_empty() && self.rounds.is_none() && !self.quick
    }

    pub(crate) fn wants(&self, contender: &str) -> bool {
        self.contenders.is_empty() || self.contenders.iter().any(|wanted| contender.starts_with(wanted.as_str()))
    }
}

const CONTENDERS: [&str; 6] = ["agent", "nginx", "nginx-sendfile", "nginx-buffers", "docker-registry", "distribution"];

/// Reads the arguments (without the program's name).
pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Parsed, String> {
    let mut options = Options::default();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "-h" | "--help" => return Ok(Parsed::Help(help())),
            "--only" => options.only.extend(rows(&value()?)?),
            "--contender" => options.contenders.extend(contenders(&value()?)?),
            "--rounds" => options.rounds = Some(rounds(&value()?)?),
            "--work-dir" => options.work_dir = Some(PathBuf::from(value()?)),
            "--quick" => options.quick = true,
            "--hold" => options.hold = true,
            "--render" => options.render = true,
            other => return Err(format!("unknown argument {other:?}")),
        }
    }
    Ok(Parsed::Run(options))
}

fn rows(list: &str) -> Result<Vec<Row>, String> {
    list.split(',').map(|name| Row::named(name).ok_or_else(|| format!("no row {name:?}; there are {}", Row::names().join(", ")))).collect()
}

fn contenders(list: &str) -> Result<Vec<String>, String> {
    list.split(',')
        .map(|name| match CONTENDERS.contains(&name) {
            true => Ok(name.to_owned()),
            false => Err(format!("no contender {name:?}; there are {}", CONTENDERS.join(", "))),
        })
        .collect()
}

fn rounds(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(rounds @ 1..=100) => Ok(rounds),
        _ => Err(format!("--rounds takes 1 to 100, not {text:?}")),
    }
}

fn help() -> String {
    let rows: String = Row::ALL.iter().map(|row| format!("  {:<12} {}\n", row.name(), row.title())).collect();
    format!(
        "\
bench: measures kuik-agent beside nginx, docker-registry and distribution v3, and kuik-webhook on a real
API server, and writes BENCHMARKS.md

Usage: bench [OPTIONS]

Options:
  --only ROW[,ROW]         measure these rows only; the others stay in BENCHMARKS.md as they were
  --contender NAME[,NAME]  measure these contenders only ({contenders});
                           the direct way, where a row has it, is always measured
  --rounds N               rounds of each measurement, 1 to 100 (default: each row's own, 3 or 5)
  --quick                  short and few measurements, to see that everything works
  --work-dir DIR           folder for all data, of all contenders (default: target/bench/work)
  --hold                   start all contenders with a warm 1 GiB blob and small objects, print their
                           addresses and process ids, and wait for the end of input: for a profiler
  --render                 write BENCHMARKS.md anew from target/bench/*.json, and measure nothing
  -h, --help               this text

A run with --contender, --rounds or --quick, or a row without its program to run, is printed only.
Any other keeps each row it measured in target/bench/<row>.json and writes BENCHMARKS.md of all that are kept.

Rows:
{rows}
Environment:
  KUIK_AGENT_BIN    the agent (default: target/release/kuik-agent)
  KUIK_WEBHOOK_BIN  the webhook (default: target/release/kuik-webhook)
  KUIK_TOOLS        where scripts/install-test-tools put what it built (default: ~/.cache/kuik/tools)

Exit: 0 all measured (targets met or not), 1 something could not be measured, 64 bad usage",
        contenders = CONTENDERS.join(", "),
    )
}
