//! Many small requests: wrk, and hey for a second opinion.

use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Connections of every load of small requests.
pub(crate) const CONNECTIONS: u32 = 64;

/// Without it distribution answers 404 for an OCI manifest.
const ACCEPT: &str = "Accept: application/vnd.oci.image.manifest.v1+json";

/// What a load generator saw.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) requests_a_second: f64,
    pub(crate) p99_ms: f64,
}

/// Which generator, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Load {
    Wrk {
        seconds: u64,
    },
    /// For HEAD too; wrk waits for the body that Content-Length announces.
    Hey {
        seconds: u64,
        method: &'static str,
    },
}

impl Load {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Wrk { .. } => "wrk",
            Self::Hey { .. } => "hey",
        }
    }

    fn arguments(self, url: &str) -> Vec<String> {
        let line = match self {
            Self::Wrk { seconds } => format!("wrk -t1 -c{CONNECTIONS} -d{seconds}s --latency"),
            Self::Hey { seconds, method } => format!("hey -z {seconds}s -c {CONNECTIONS} -m {method}"),
        };
        line.split(' ').chain(["-H", ACCEPT, url]).map(str::to_owned).collect()
    }

    /// As it would be typed.
    pub(crate) fn command(self, url: &str) -> String {
        self.arguments(url).join(" ").replace(ACCEPT, &format!("'{ACCEPT}'"))
    }

    pub(crate) fn run(self, url: &str) -> Result<Seen> {
        let arguments = self.arguments(url);
        let (program, rest) = arguments.split_first().context("a load must have a program")?;
        let output = Command::new(program).args(rest).output().with_context(|| format!("cannot run {program}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{}: {}{text}", self.command(url), String::from_utf8_lossy(&output.stderr));
        match self {
            Self::Wrk { .. } => read_wrk(&text),
            Self::Hey { .. } => read_hey(&text),
        }
        .with_context(|| format!("{} printed:\n{text}", self.command(url)))
    }
}

fn read_wrk(text: &str) -> Result<Seen> {
    ensure!(!text.contains("Non-2xx"), "some answers were no success");
    ensure!(!text.contains("Socket errors"), "some connections failed");
    ensure!(!text.contains(" 0 requests in"), "nothing was answered");
    let requests = value_of(text, "Requests/sec:").context("no rate")?;
    let p99 = value_of(text, "99%").context("no 99%")?;
    Ok(Seen { requests_a_second: requests.parse()?, p99_ms: wrk_milliseconds(p99)? })
}

fn read_hey(text: &str) -> Result<Seen> {
    ensure!(text.contains("[200]") && text.matches("responses").count() == 1, "some answers were no success");
    let requests = value_of(text, "Requests/sec:").context("no rate")?;
    let p99 = value_of(text, "99% in").context("no 99%")?;
    Ok(Seen { requests_a_second: requests.parse()?, p99_ms: p99.parse::<f64>()? * 1e3 })
}

fn value_of<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(key))?;
    line.split_whitespace().next()
}

fn wrk_milliseconds(text: &str) -> Result<f64> {
    for (unit, factor) in [("us", 1e-3), ("ms", 1.0), ("s", 1e3)] {
        if let Some(number) = text.strip_suffix(unit) {
            return Ok(number.parse::<f64>()? * factor);
        }
    }
    anyhow::bail!("no time: {text:?}")
}
