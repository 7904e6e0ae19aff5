//! What is typed: `serve` and `probe`, and how each ends.

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use tokio::runtime::Builder;

use crate::app::{self, AppError};
use crate::args::{Args, Command, ProbeArgs, ServeArgs};
use crate::config::{ConfigError, Settings};
use crate::probe::{self, ProbeError};
use crate::telemetry::{self, TelemetryError};
use crate::usage::UsageError;

/// How long work on blocking threads may hold up the end of the process.
const BLOCKING_SHUTDOWN: Duration = Duration::from_secs(5);

/// Why the program ends without having done what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line is wrong.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No log can be written.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// The system gives no threads.
    #[error("the runtime cannot start")]
    Runtime(#[source] io::Error),
    /// The webhook could not start, or not go on.
    #[error(transparent)]
    Serve(Box<AppError>),
    /// A server did not answer as it should.
    #[error(transparent)]
    Probe(Box<ProbeError>),
    /// The result cannot be printed.
    #[error("standard output cannot be written")]
    Output(#[source] io::Error),
}

impl Failure {
    /// What the process ends with: 64, the usual code for a wrong invocation, or 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Config(_) => 64,
            Self::Probe(error) if matches!(**error, ProbeError::Url { .. }) => 64,
            Self::Telemetry(_) | Self::Runtime(_) | Self::Serve(_) | Self::Probe(_) | Self::Output(_) => 1,
        }
    }

    /// The whole story on one line.
    #[must_use]
    pub fn line(&self) -> String {
        telemetry::chain(self)
    }
}

/// Does what the command line asks for, and says how that went.
///
/// # Errors
/// When it could not be done; the caller prints [`Failure::line`] and ends with [`Failure::exit_code`].
pub fn main(args: impl Iterator<Item = OsString>) -> Result<ExitCode, Failure> {
    let args: Vec<_> = args.collect();
    match Args::try_parse_from(&args) {
        Ok(Args { command: Command::Serve(args) }) => serve(*args)?,
        Ok(Args { command: Command::Probe(args) }) => probe(args)?,
        Err(error) if error.use_stderr() => {
            return Err(UsageError::new(&error, &args, |name| std::env::var_os(name).is_some()).into());
        }
        Err(help) => help.print().map_err(Failure::Output)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn serve(args: ServeArgs) -> Result<(), Failure> {
    let settings = Settings::load(args.config.as_deref())?;
    telemetry::init(args.log_format, &args.log_filter)?;
    let runtime = Builder::new_multi_thread().enable_all().build().map_err(Failure::Runtime)?;
    let done = runtime.block_on(Box::pin(app::run(args, settings)));
    runtime.shutdown_timeout(BLOCKING_SHUTDOWN);
    done.map_err(|error| Failure::Serve(Box::new(error)))
}

fn probe(args: ProbeArgs) -> Result<(), Failure> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(Failure::Runtime)?;
    runtime.block_on(probe::run(args, &mut io::stdout())).map_err(|error| Failure::Probe(Box::new(error)))
}
