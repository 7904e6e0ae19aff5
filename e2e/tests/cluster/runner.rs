//! Runs the tests one after another, for they share a cluster, which is taken down whatever happens to this program.
//!
//! It understands what `cargo test` and people pass to a test program: names or parts of them, `--exact`, `--skip`, `--list`.

use std::fmt;
use std::io::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Error, Result, anyhow};
use kuik_e2e::kube::{dump, dumps};

use crate::env::Env;

/// A test: its name, and what it does.
pub(crate) type Test = (&'static str, fn(&Env) -> Result<()>);

/// Why a test cannot say anything here.
#[derive(Debug)]
pub(crate) struct Skipped(pub(crate) String);

impl fmt::Display for Skipped {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.0)
    }
}

impl std::error::Error for Skipped {}

#[derive(Default)]
struct Options {
    only: Vec<String>,
    skip: Vec<String>,
    exact: bool,
    list: bool,
    ignored: bool,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self::default();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--exact" => options.exact = true,
                "--list" => options.list = true,
                "--ignored" => options.ignored = true,
                "--skip" => options.skip.push(arguments.next().context("--skip needs a name")?),
                // Output is always shown, and tests never run side by side.
                "--nocapture" | "--no-capture" | "--include-ignored" | "--show-output" | "-q" | "--quiet" => {}
                "--test-threads" | "--format" | "--color" | "-Z" => drop(arguments.next()),
                option if option.starts_with("--") && option.contains('=') => {}
                option if option.starts_with('-') => return Err(anyhow!("unknown option {option}")),
                _ => options.only.push(argument),
            }
        }
        Ok(options)
    }

    fn wants(&self, name: &str) -> bool {
        let matches = |wanted: &String| if self.exact { name == wanted } else { name.contains(wanted.as_str()) };
        !self.ignored && (self.only.is_empty() || self.only.iter().any(matches)) && !self.skip.iter().any(matches)
    }
}

/// Runs what the command line asks for.
pub(crate) fn main(tests: &[Test]) -> ExitCode {
    match Options::parse(std::env::args().skip(1)).and_then(|options| run(tests, &options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(101),
        Err(error) => {
            say(&format!("cluster tests: {error:#}"));
            ExitCode::from(64)
        }
    }
}

fn run(tests: &[Test], options: &Options) -> Result<bool> {
    let wanted: Vec<&Test> = tests.iter().filter(|(name, _)| options.wants(name)).collect();
    if options.list {
        wanted.iter().for_each(|(name, _)| say(&format!("{name}: test")));
        return Ok(true);
    }
    say(&format!("\nrunning {} cluster tests", wanted.len()));
    let start = Instant::now();
    let env = Env::new();
    let mut failed = Vec::new();
    let mut skipped = 0;
    for (name, test) in &wanted {
        // The cluster's own start is not the first test's time.
        let prepared = env.prepare();
        let (start, dumps_before) = (Instant::now(), dumps());
        let result = prepared.and_then(|()| catch(|| test(&env)));
        let seconds = start.elapsed().as_secs_f64();
        match result {
            Ok(()) => say(&format!("test {name} ... ok ({seconds:.1} s)")),
            Err(error) if error.is::<Skipped>() => {
                say(&format!("test {name} ... SKIPPED: {error}"));
                skipped += 1;
            }
            Err(error) => {
                say(&format!("test {name} ... FAILED ({seconds:.1} s)\n{}\n", told(&error)));
                if dumps() == dumps_before {
                    show_cluster(&env);
                }
                failed.push(*name);
            }
        }
    }
    let down = env.finish();
    if let Err(error) = &down {
        say(&format!("the cluster was not taken down: {}", told(error)));
    }
    let verdict = if failed.is_empty() { "ok".to_owned() } else { format!("FAILED: {}", failed.join(", ")) };
    let passed = wanted.len() - failed.len() - skipped;
    let seconds = start.elapsed().as_secs_f64();
    say(&format!("\ncluster tests: {verdict}. {passed} passed; {} failed; {skipped} skipped; {seconds:.1} s\n", failed.len()));
    Ok(failed.is_empty() && down.is_ok())
}

/// Shows what may tell why a test failed that had no namespace of its own, or whose failure came outside of it.
fn show_cluster(env: &Env) {
    if let Ok(kube) = env.kube() {
        // There is nowhere left to say that this failed.
        drop(dump(kube, "default", &mut io::stderr().lock()));
    }
}

fn catch(test: impl FnOnce() -> Result<()>) -> Result<()> {
    catch_unwind(AssertUnwindSafe(test)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
        Err(Error::msg(text.unwrap_or_else(|| "a panic without a message".to_owned())))
    })
}

/// The whole chain, each cause on a line of its own.
fn told(error: &Error) -> String {
    error.chain().map(|cause| format!("  {cause}")).collect::<Vec<_>>().join("\n")
}

/// Progress, at once: a test may take a minute.
pub(crate) fn say(line: &str) {
    let mut stdout = io::stdout().lock();
    // Nobody listens any more.
    drop(writeln!(stdout, "{line}").and_then(|()| stdout.flush()));
}
