//! What an operator types: `serve`, and the commands that ask a running agent through its admin port.

mod platform;
mod reference;
mod usage;

pub use platform::{Platform, PlatformError};
pub use reference::{AdminAddress, AdminAddressError, ImageRef, ImageRefError};
pub use usage::UsageError;

use std::ffi::OsString;
use std::io;
use std::num::NonZero;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use tokio::runtime::{Builder, Runtime};

use crate::app::{self, AppError};
use crate::args::{Args, Command, ServeArgs};
use crate::config::{Config, ConfigError};
use crate::telemetry::{self, TelemetryError};

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
    /// The agent could not start, or not go on.
    #[error(transparent)]
    Serve(#[from] AppError),
}

impl Failure {
    /// What the process ends with: 64, the usual code for a wrong invocation, or 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Config(_) => 64,
            Self::Telemetry(_) | Self::Runtime(_) | Self::Serve(_) => 1,
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
        Ok(Args { command }) => run(command),
        Err(error) if error.use_stderr() => Err(UsageError::new(&error, &args, |name| std::env::var_os(name).is_some()).into()),
        Err(help) => {
            help.print().map_err(Failure::Runtime)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Serve(args) => serve(args),
        Command::Pull(_) | Command::Ls(_) | Command::Inspect(_) | Command::Verify(_) => Ok(ExitCode::FAILURE),
    }
}

fn serve(args: ServeArgs) -> Result<ExitCode, Failure> {
    let config = Config::load(args)?;
    telemetry::init(&config.log)?;
    let runtime = runtime().map_err(Failure::Runtime)?;
    let done = runtime.block_on(Box::pin(app::run(config)));
    runtime.shutdown_timeout(BLOCKING_SHUTDOWN);
    done?;
    Ok(ExitCode::SUCCESS)
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(1, NonZero::get))
        .max_blocking_threads(64)
        .thread_keep_alive(Duration::from_secs(10))
        .enable_all()
        .build()
}
