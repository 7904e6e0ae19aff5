//! Figures of a row: printed, kept as JSON, and rendered with all others into BENCHMARKS.md.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::lab::Lab;
use crate::rows::Row;

/// What was aimed at, and what was seen.
#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) what: String,
    pub(crate) figure: String,
    pub(crate) target: String,
    pub(crate) met: bool,
}

/// All that a row has to say.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) header: Vec<String>,
    pub(crate) lines: Vec<Vec<String>>,
    pub(crate) checks: Vec<Check>,
    pub(crate) notes: Vec<String>,
    pub(crate) commands: Vec<String>,
}

impl Report {
    pub(crate) fn table(header: &[&str]) -> Self {
        Self { header: header.iter().map(|&cell| cell.to_owned()).collect(), ..Self::default() }
    }

    pub(crate) fn line(&mut self, cells: impl IntoIterator<Item = String>) {
        self.lines.push(cells.into_iter().collect());
    }

    pub(crate) fn check(&mut self, what: impl Into<String>, figure: String, target: &str, met: bool) {
        self.checks.push(Check { what: what.into(), figure, target: target.to_owned(), met });
    }

    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    pub(crate) fn command(&mut self, text: impl Into<String>) {
        self.commands.push(text.into());
    }

    /// Takes this run's folder out of the commands.
    pub(crate) fn scrub(&mut self, lab: &Lab) {
        let tools = lab.distribution.parent().and_then(std::path::Path::parent).unwrap_or(&lab.distribution);
        let webhook = lab.webhook.as_deref().unwrap_or(&lab.work);
        let ours = (webhook, "./target/release/kuik-webhook");
        for (folder, name) in [(lab.work.as_path(), "$WORK"), ours, (lab.repository.as_path(), "."), (tools, "$KUIK_TOOLS")] {
            for command in &mut self.commands {
                *command = command.replace(&folder.display().to_string(), name);
            }
        }
    }

    fn json(&self, row: Row, facts: &[String], when: &str, load: &str) -> Value {
        let checks: Vec<Value> = self
            .checks
            .iter()
            .map(|check| json!([check.what, check.figure, check.target, if check.met { "yes" } else { "**no**" }]))
            .collect();
        json!({
            "row": row.name(), "title": row.title(), "when": when, "load": load, "facts": facts,
            "header": self.header, "lines": self.lines, "checks": checks,
            "notes": self.notes, "commands": self.commands,
        })
    }

    /// The row as Markdown, for the terminal and for the file.
    pub(crate) fn print(&self, row: Row, when: &str, load: &str) -> Result<String> {
        section(&self.json(row, &[], when, load))
    }

    /// Keeps the row for `render`.
    pub(crate) fn keep(&self, lab: &Lab, row: Row, facts: &[String], when: &str, load: &str) -> Result<()> {
        let file = lab.results.join(format!("{}.json", row.name()));
        let text = serde_json::to_string_pretty(&self.json(row, facts, when, load))?;
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    }
}

const INTRODUCTION: &str = "\
# Benchmarks

Written by `make bench` (`bench --help` says how to measure one row again); not by hand.
All contenders of a row run side by side in one run on one machine, their rounds interleaved and turned by one each round; figures are medians, with the lowest and the highest in brackets.
Ratios are what counts: the machine is small and shared, and its absolute speed moves from hour to hour.
`load` is the one-minute load average when the row began; the row before it shows there too. Of the first row, more than 0.5 means that somebody else was at work.
Under each table is what was done, with the commands where a program of its own puts the load on; everything else is in `e2e/src/bin/bench/rows/`, a file a row.

The contenders, as `e2e/src/bin/bench/contenders/` starts them:

- **agent**: as it comes, no tuning flags, but for a budget in the rows that are about one;
- **nginx-sendfile**, **nginx-buffers**: static files at exact locations, `worker_processes auto`, `access_log off`, `open_file_cache` on, and `sendfile on`, or `sendfile off; output_buffers 2 512k`;
- **nginx proxy_cache**: `sendfile on`, `proxy_cache_lock on` without a time limit, kept connections to the upstream, `use_temp_path=off`, default buffers (larger ones made no difference);
- **docker-registry**, **distribution v3**: file system storage, `blobdescriptor: inmemory`, log level `error`, no access log, no tracing; as a cache with `proxy.remoteurl`;
- **webhook**: as it comes, alone, on a real kube-apiserver with its etcd, which `e2e/src/bin/bench/control_plane.rs` starts;
- **direct**: the client at the upstream itself. The upstream is part of `bench`: it serves from the page cache with sendfile, paces each response if its rate is held, and counts what it sent.
";

/// Writes BENCHMARKS.md of all rows that are kept.
pub(crate) fn render(lab: &Lab) -> Result<()> {
    let mut kept = Vec::new();
    for row in Row::ALL {
        let file = lab.results.join(format!("{}.json", row.name()));
        if let Ok(text) = fs::read_to_string(&file) {
            kept.push(serde_json::from_str::<Value>(&text).with_context(|| format!("bad {}", file.display()))?);
        }
    }
    let mut text = INTRODUCTION.to_owned();
    text += "\n## In short\n\n";
    let mut summary = Vec::new();
    for row in &kept {
        for check in array(row, "checks") {
            summary.push(strings(check).collect::<Vec<_>>());
        }
    }
    text += &table(&["what", "seen", "to reach", "reached"].map(str::to_owned), &summary)?;
    for row in &kept {
        text += &section(row)?;
    }
    text += "\n## The machine, and versions\n";
    let mut said = Vec::new();
    for row in &kept {
        let facts: Vec<String> = strings(row.get("facts").unwrap_or(&Value::Null)).collect();
        if !said.contains(&facts) {
            writeln!(text, "\n{} and after:\n", row.get("when").and_then(Value::as_str).unwrap_or_default())?;
            facts.iter().try_for_each(|fact| writeln!(text, "- {fact}"))?;
            said.push(facts);
        }
    }
    let file = lab.repository.join("BENCHMARKS.md");
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
}

fn section(row: &Value) -> Result<String> {
    let word = |key: &str| row.get(key).and_then(Value::as_str).unwrap_or_default();
    let mut text = String::new();
    writeln!(text, "\n## {}\n\n`bench --only {}`, {}, load {}\n", word("title"), word("row"), word("when"), word("load"))?;
    let header: Vec<String> = strings(row.get("header").unwrap_or(&Value::Null)).collect();
    let lines: Vec<Vec<String>> = array(row, "lines").map(|line| strings(line).collect()).collect();
    text += &table(&header, &lines)?;
    let checks: Vec<Vec<String>> = array(row, "checks").map(|check| strings(check).collect()).collect();
    if !checks.is_empty() {
        text += "\n";
        text += &table(&["what", "seen", "to reach", "reached"].map(str::to_owned), &checks)?;
    }
    let notes: Vec<String> = strings(row.get("notes").unwrap_or(&Value::Null)).collect();
    if !notes.is_empty() {
        text += "\n";
        notes.iter().try_for_each(|note| writeln!(text, "- {note}"))?;
    }
    let commands: Vec<String> = strings(row.get("commands").unwrap_or(&Value::Null)).collect();
    if !commands.is_empty() {
        writeln!(text, "\n```sh\n{}\n```", commands.join("\n"))?;
    }
    Ok(text)
}

fn array<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn strings(list: &Value) -> impl Iterator<Item = String> + '_ {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned)
}

fn table(header: &[String], lines: &[Vec<String>]) -> Result<String> {
    let mut text = String::new();
    let dashes: Vec<&str> = header.iter().map(|_| "---").collect();
    writeln!(text, "| {} |\n| {} |", header.join(" | "), dashes.join(" | "))?;
    lines.iter().try_for_each(|line| writeln!(text, "| {} |", line.join(" | ")))?;
    Ok(text)
}
