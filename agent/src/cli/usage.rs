//! A wrong command line in one line: which flag or variable, what it holds, what was expected.

use std::error::Error as _;
use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, CommandFactory as _};

use crate::args::Args;
use crate::telemetry;

/// Why a command line is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(String);

impl UsageError {
    /// Puts clap's `error` about `args` into one line; `in_env` tells whether a variable is set.
    pub(super) fn new(error: &clap::Error, args: &[OsString], in_env: impl Fn(&str) -> bool) -> Self {
        if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand || error.kind() == ErrorKind::MissingSubcommand {
            return Self("no command: expected serve, pull, ls, inspect or verify; see kuik-agent --help".to_owned());
        }
        let blamed = match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::String(arg)) => Some(blame(arg, args, in_env)),
            _ => None,
        };
        match (error.kind(), blamed, error.source()) {
            (ErrorKind::ValueValidation, Some(blamed), Some(reason)) => Self(format!("{blamed}: {}", telemetry::chain(reason))),
            (ErrorKind::InvalidValue, Some(blamed), _) if blamed.starts_with("KUIK_") => Self(format!("{blamed}: {}", first_lines(error))),
            _ => Self(first_lines(error)),
        }
    }
}

/// Who said it: the flag, or the variable that stands in for it.
fn blame(arg: &str, args: &[OsString], in_env: impl Fn(&str) -> bool) -> String {
    let flag = arg.split([' ', '=']).next().unwrap_or(arg);
    let typed = args.iter().any(|word| word.to_str().is_some_and(|word| word.split('=').next() == Some(flag)));
    let twin = find(&Args::command(), flag).filter(|name| !typed && in_env(name));
    twin.unwrap_or_else(|| flag.trim_matches(['<', '>']).to_owned())
}

/// The variable that stands in for `flag`, in whatever command has it.
fn find(command: &Command, flag: &str) -> Option<String> {
    let twin = |arg: &Arg| Some(arg.get_env()?.to_str()?.to_owned());
    let own = command.get_arguments().find(|arg| arg.get_long().is_some_and(|long| flag.strip_prefix("--") == Some(long)));
    own.and_then(twin).or_else(|| command.get_subcommands().find_map(|command| find(command, flag)))
}

/// What clap says, up to the usage, on one line.
fn first_lines(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let end = ["\nUsage:", "\nFor more information"].iter().filter_map(|mark| text.find(mark)).min().unwrap_or(text.len());
    text[..end].split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn check(words: &[&str], expected: &str) {
        let args: Vec<OsString> = words.iter().map(OsString::from).collect();
        let error = Args::try_parse_from(&args).unwrap_err();
        assert_eq!(UsageError::new(&error, &args, |_| false).to_string(), expected);
    }

    #[test]
    fn a_wrong_value_is_named_with_its_flag_and_what_was_expected() {
        check(
            &["kuik-agent", "serve", "--tag-fresh-for", "60"],
            "--tag-fresh-for: not a duration: \"60\": expected numbers with units up to 3650d, such as 500ms, 10s, 5m, 12h, 7d or 1h30m",
        );
        check(
            &["kuik-agent", "serve", "--listen=7439"],
            "--listen: not an address: \"7439\": expected IP:PORT, such as 127.0.0.1:7439 or [::1]:7439",
        );
        check(
            &["kuik-agent", "pull", "Nginx"],
            "REF: not an image reference: \"Nginx\": the repository name has a part that is not lower-case letters and digits, \
             separated by '.', '_', '__' or '-'",
        );
        check(&["kuik-agent", "ls", "--output", "xml"], "invalid value 'xml' for '--output <FORMAT>' [possible values: table, json]");
    }

    #[test]
    fn a_wrong_command_line_is_one_line() {
        check(&["kuik-agent"], "no command: expected serve, pull, ls, inspect or verify; see kuik-agent --help");
        check(&["kuik-agent", "serve", "--lisen", "x"], "unexpected argument '--lisen' found tip: a similar argument exists: '--listen'");
        check(&["kuik-agent", "pull"], "the following required arguments were not provided: <REF>");
    }

    #[test]
    fn a_value_from_the_environment_is_blamed_on_its_variable() {
        let blamed = |args: &[&str], set: bool| {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            blame("--drain-timeout <DURATION>", &args, |name| set && name == "KUIK_DRAIN_TIMEOUT")
        };
        assert_eq!(blamed(&["kuik-agent", "serve"], true), "KUIK_DRAIN_TIMEOUT");
        assert_eq!(blamed(&["kuik-agent", "serve", "--drain-timeout=1"], true), "--drain-timeout");
        assert_eq!(blamed(&["kuik-agent", "serve"], false), "--drain-timeout");
    }
}
