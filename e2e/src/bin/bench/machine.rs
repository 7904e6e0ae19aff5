//! What was measured on, and with which versions.

use std::fs;
use std::path::Path;
use std::process::Command;

use kuik_e2e::tools::built;

use crate::lab::{Lab, first_line, which};

/// Facts and versions, as lines of Markdown.
pub(crate) fn facts(lab: &Lab) -> Vec<String> {
    let mut lines = vec![
        format!("{} × {}, {} MiB of memory", cores(), processor(), memory_mib()),
        format!("Linux {}", read("/proc/sys/kernel/osrelease")),
        format!("all data of all contenders on {}", file_system(&lab.work)),
        format!("repository at {}", revision(lab)),
    ];
    let named = |name: &str, program: Option<&Path>, arguments: &[&str]| {
        let version = program.and_then(|program| first_line(program, arguments));
        format!("{name}: {}", version.unwrap_or_else(|| "not there".to_owned()))
    };
    lines.push(named("agent", lab.agent.as_deref(), &["--version"]));
    lines.push(named("webhook", lab.webhook.as_deref(), &["--version"]));
    lines.push(named("kube-apiserver", built("kube-apiserver").ok().as_deref(), &["--version"]));
    lines.push(named("etcd", which("etcd").as_deref(), &["--version"]));
    lines.push(named("nginx", which("nginx").as_deref(), &["-v"]));
    lines.push(named("docker-registry", which("docker-registry").as_deref(), &["--version"]));
    lines.push(named("distribution", Some(&lab.distribution), &["--version"]).replace(&lab.distribution.display().to_string(), ""));
    lines.push(named("wrk", which("wrk").as_deref(), &["-v"]));
    lines
}

/// Others at work on the machine show here.
pub(crate) fn load_average() -> String {
    read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned()
}

/// Now, in UTC.
pub(crate) fn now() -> String {
    first_line(Path::new("date"), &["-u", "+%Y-%m-%d %H:%M UTC"]).unwrap_or_default()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, Into::into)
}

fn value_in(path: &str, key: &str) -> String {
    let text = read(path);
    let line = text.lines().find(|line| line.starts_with(key));
    line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
}

fn processor() -> String {
    value_in("/proc/cpuinfo", "model name")
}

fn memory_mib() -> u64 {
    let value = value_in("/proc/meminfo", "MemTotal");
    value.trim_end_matches(" kB").parse::<u64>().unwrap_or_default() / 1024
}

fn file_system(folder: &Path) -> String {
    let output = Command::new("df").arg("--output=fstype,source").arg(folder).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let line = text.lines().nth(1).unwrap_or_default();
    line.split_whitespace().collect::<Vec<_>>().join(" on ")
}

fn revision(lab: &Lab) -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(&lab.repository).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let revision = git(&["rev-parse", "--short", "HEAD"]).unwrap_or_else(|| "no commit".to_owned());
    let changed = git(&["status", "--porcelain", "--", "agent", "crd", "webhook", "Cargo.lock"]).is_some_and(|text| !text.is_empty());
    if changed { format!("{revision}, with changes") } else { revision }
}
