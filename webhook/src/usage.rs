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
    pub(crate) fn new(error: &clap::Error, args: &[OsString], in_env: impl Fn(&str) -> bool) -> Self {
        match error.kind() {
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
                return Self("no command: expected serve or probe; see kuik-webhook --help".to_owned());
            }
            ErrorKind::MissingRequiredArgument => return Self(missing(error)),
            _ => {}
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

/// What must be given, each with its variable: in a pod that is where it was forgotten.
fn missing(error: &clap::Error) -> String {
    let Some(ContextValue::Strings(flags)) = error.get(ContextKind::InvalidArg) else {
        return first_lines(error);
    };
    let command = Args::command();
    let spell = |flag: &String| match twin(&command, first_word(flag)) {
        Some(variable) => format!("{flag} (or {variable})"),
        None => flag.clone(),
    };
    format!("missing: {}", flags.iter().map(spell).collect::<Vec<_>>().join(", "))
}

/// Who said it: the flag, or the variable that stands in for it.
fn blame(arg: &str, args: &[OsString], in_env: impl Fn(&str) -> bool) -> String {
    let flag = first_word(arg);
    let typed = args.iter().any(|word| word.to_str().is_some_and(|word| word.split('=').next() == Some(flag)));
    let variable = twin(&Args::command(), flag).filter(|name| !typed && in_env(name));
    variable.unwrap_or_else(|| flag.to_owned())
}

fn first_word(arg: &str) -> &str {
    arg.split([' ', '=']).next().unwrap_or(arg)
}

/// The variable that stands in for `flag`, in whatever command has it.
fn twin(command: &Command, flag: &str) -> Option<String> {
    let variable = |arg: &Arg| Some(arg.get_env()?.to_str()?.to_owned());
    let own = command.get_arguments().find(|arg| arg.get_long().is_some_and(|long| flag.strip_prefix("--") == Some(long)));
    own.and_then(variable).or_else(|| command.get_subcommands().find_map(|command| twin(command, flag)))
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

    /// All that `serve` cannot do without.
    const SERVE: [&str; 5] = ["kuik-webhook", "serve", "--namespace=kuik-system", "--pod-name=webhook-1", "--pod-ip=10.0.0.1"];

    fn check(words: &[&str], expected: &str) {
        let args: Vec<OsString> = words.iter().map(OsString::from).collect();
        let error = Args::try_parse_from(&args).unwrap_err();
        assert_eq!(UsageError::new(&error, &args, |_| false).to_string(), expected);
    }

    #[test]
    fn a_wrong_value_is_named_with_its_flag_and_what_was_expected() {
        let check = |flag: &str, expected: &str| check(&[&SERVE[..], &[flag]].concat(), expected);
        check(
            "--shutdown-delay=5",
            "--shutdown-delay: not a duration: \"5\": expected numbers with units up to 3650d, such as 500ms, 10s, 5m, 12h, 7d or 1h30m",
        );
        check("--control-listen=9443", "--control-listen: not an address: \"9443\": expected IP:PORT, such as [::]:8443 or 127.0.0.1:8443");
        check("--ca-lifetime=0s", "--ca-lifetime: not a lifetime: \"0s\": expected at least 1s");
        check(
            "--name=Kuik",
            "--name: not the name of an object: \"Kuik\": expected lower-case letters, digits, '-' and '.', beginning and ending with one of the former",
        );
        check("--install-crds=yes", "invalid value 'yes' for '--install-crds <BOOL>' [possible values: true, false]");
    }

    #[test]
    fn a_wrong_command_line_is_one_line() {
        check(&["kuik-webhook"], "no command: expected serve or probe; see kuik-webhook --help");
        check(
            &["kuik-webhook", "serve", "--pod-ip=10.0.0.1"],
            "missing: --namespace <NAMESPACE> (or KUIK_NAMESPACE), --pod-name <NAME> (or KUIK_POD_NAME)",
        );
        check(&["kuik-webhook", "probe"], "missing: --url <URL>");
        check(&["kuik-webhook", "probe", "--uri", "x"], "unexpected argument '--uri' found tip: a similar argument exists: '--url'");
    }

    #[test]
    fn a_value_from_the_environment_is_blamed_on_its_variable() {
        let blamed = |args: &[&str], set: bool| {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            blame("--drain-timeout <DURATION>", &args, |name| set && name == "KUIK_DRAIN_TIMEOUT")
        };
        assert_eq!(blamed(&SERVE, true), "KUIK_DRAIN_TIMEOUT");
        assert_eq!(blamed(&[&SERVE[..], &["--drain-timeout=1"]].concat(), true), "--drain-timeout");
        assert_eq!(blamed(&SERVE, false), "--drain-timeout");
    }
}
