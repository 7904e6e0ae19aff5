//! What an operator types: `serve`, and the commands that ask a running agent through its admin port.

mod api;
mod bars;
mod client;
mod gc;
mod images;
mod plain;
mod platform;
mod pull;
mod reference;
mod screen;
#[cfg(test)]
mod tests;
mod text;
mod usage;
mod verify;

pub use client::ClientError;
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

use self::screen::Screen;
use self::verify::Verdict;
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
    Serve(Box<AppError>),
    /// The running agent was not reached, or did not do as asked.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The running agent could not fetch an image.
    #[error("{0}")]
    Pull(String),
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
            // A file that the configuration names, and that is not what it should be.
            Self::Serve(error) if matches!(**error, AppError::Upstream(_)) => 64,
            Self::Telemetry(_) | Self::Runtime(_) | Self::Serve(_) | Self::Client(_) | Self::Pull(_) | Self::Output(_) => 1,
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
            help.print().map_err(Failure::Output)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    let mut stdout = io::stdout();
    let screen = &mut Screen::stdout(&mut stdout);
    match command {
        Command::Serve(args) => serve(*args)?,
        Command::Pull(args) => ask(pull::pull(args, screen))?,
        Command::Ls(args) => ask(images::ls(args, screen))?,
        Command::Inspect(args) => ask(images::inspect(args, screen))?,
        Command::Gc(args) => ask(gc::gc(args, screen))?,
        Command::Pin(args) => ask(gc::pin(args, true, screen))?,
        Command::Unpin(args) => ask(gc::pin(args, false, screen))?,
        Command::Verify(args) => match ask(verify::verify(args, screen))? {
            Verdict::Good => {}
            Verdict::Bad => return Ok(ExitCode::FAILURE),
        },
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs what one conversation with an agent needs: one thread.
fn ask<T>(conversation: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    Builder::new_current_thread().enable_all().build().map_err(Failure::Runtime)?.block_on(conversation)
}

fn serve(args: ServeArgs) -> Result<(), Failure> {
    let config = Config::load(args)?;
    telemetry::init(&config.log)?;
    let runtime = runtime().map_err(Failure::Runtime)?;
    let done = runtime.block_on(Box::pin(app::run(config)));
    runtime.shutdown_timeout(BLOCKING_SHUTDOWN);
    done.map_err(|error| Failure::Serve(Box::new(error)))
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(1, NonZero::get))
        .max_blocking_threads(64)
        .thread_keep_alive(Duration::from_secs(10))
        .enable_all()
        .build()
}
