//! `bench`: the agent beside nginx, docker-registry and distribution, and the webhook on a real API server, measured on one machine.
//!
//! ```text
//!  args ──▶ lab (work folder, tools, what is left out)
//!             │
//!             ├─ library     images made here, and what each path must answer
//!             ├─ upstream    a registry that serves the library, at a held rate if asked, and counts bytes
//!             ├─ contenders  agent │ nginx │ docker-registry │ distribution │ webhook, each a child
//!             ├─ client      reads and drops, and takes the time
//!             ├─ control_plane, api      a real API server, and a quick way to it
//!             ├─ workload, population    pods, and nodes, and what uses which image
//!             ├─ reporters, writes       agents that only report; what the webhook writes
//!             └─ rows        one file for each row of the table: what is done, what was seen, what was aimed at
//!                  └──▶ report: target/bench/<row>.json, and BENCHMARKS.md of all of them
//! ```
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal: figures go to stdout, progress to stderr")]

mod api;
mod args;
mod client;
mod contenders;
mod control_plane;
mod lab;
mod library;
mod load;
mod machine;
mod population;
mod process;
mod report;
mod reporters;
mod rows;
mod stats;
mod upstream;
mod workload;
mod writes;

use std::process::ExitCode;

fn main() -> ExitCode {
    match args::parse(std::env::args().skip(1)) {
        Ok(args::Parsed::Help(text)) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Ok(args::Parsed::Run(options)) => match rows::run(options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("bench: {error:#}");
                ExitCode::FAILURE
            }
        },
        Err(message) => {
            eprintln!("bench: {message}; see bench --help");
            ExitCode::from(64)
        }
    }
}
