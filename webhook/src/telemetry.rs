//! The log: one line, or one JSON object, per event on standard output.

use std::error::Error;
use std::io::IsTerminal as _;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

/// How an event is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// A line for people.
    #[default]
    Text,
    /// A JSON object, its fields beside timestamp, level and message.
    Json,
}

/// Which events are written: a level, or levels by target, in the syntax of `EnvFilter`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

/// Why a text is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a log filter: {0:?}: expected off, error, warn, info, debug or trace, or a list such as info,kuik_webhook::control=debug")]
pub struct LogFilterError(String);

impl FromStr for LogFilter {
    type Err = LogFilterError;

    fn from_str(text: &str) -> Result<Self, LogFilterError> {
        // A lone word that is no level would be taken for a target, and a misspelt level would mute everything.
        let meant = |part: &str| part.contains(['=', '[']) || !part.is_empty() && part.parse::<LevelFilter>().is_ok();
        if text.split(',').all(meant) && parse(text).is_ok() { Ok(Self(text.to_owned())) } else { Err(LogFilterError(text.to_owned())) }
    }
}

fn parse(text: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().parse(text)
}

/// Why no log can be written.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is none after all.
    #[error("the log filter is not understood")]
    Filter(#[from] ParseError),
    /// Somebody else writes one.
    #[error("the log was started twice")]
    Twice(#[from] TryInitError),
}

/// Starts the log of this process.
///
/// # Errors
/// When there is one already.
pub fn init(format: LogFormat, LogFilter(filter): &LogFilter) -> Result<(), TelemetryError> {
    let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let builder = tracing_subscriber::fmt().with_env_filter(parse(filter)?).with_ansi(colours);
    match format {
        LogFormat::Text => builder.finish().try_init()?,
        LogFormat::Json => builder.json().flatten_event(true).with_span_list(false).finish().try_init()?,
    }
    Ok(())
}

/// An error and its sources on one line.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        line.push_str(": ");
        line.push_str(&error.to_string());
        source = error.source();
    }
    line.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_targets_are_filters() {
        for text in ["off", "info", "DEBUG", "warn,kuik_webhook=trace", "kuik_webhook::control=debug", "info,[request{host=a}]=debug"] {
            assert!(text.parse::<LogFilter>().is_ok(), "{text}");
        }
    }

    #[test]
    fn a_misspelt_level_is_refused() {
        for text in ["", "debg", "info,", "a=verbose", "info;debug", "warn,store"] {
            assert!(text.parse::<LogFilter>().is_err(), "{text}");
        }
    }
}
