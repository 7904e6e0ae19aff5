//! `cluster`: a Kubernetes of several nodes from the command line, to look around in or to run tests against again and again.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

use std::io::{self, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Error, Result};
use kuik_e2e::cluster::{Cluster, Layout, Place, default_dir};

const HELP: &str = "\
Usage: cluster [--dir DIR] [--prefix PREFIX] COMMAND

  up [--nodes N] [ARCHIVE...]  start it, unless it runs, and import these OCI archives into every node
  down                         end it, and whatever a killed `up` left of it
  on PLACE COMMAND...          run a command on `hub`, `node1`...
  kubectl ARGUMENT...          run kubectl, helm or crane against it
  helm ARGUMENT...
  crane ARGUMENT...
  import ARCHIVE...            import OCI archives into every node
  stop SERVICE, start SERVICE  one process, such as kube-apiserver, registry-5000, node1/kubelet, node2/containerd
  watch                        end it when standard input ends: for a program that wants it to go down with itself

The prefix is `kuik`, the folder $TMPDIR/PREFIX-cluster, and N is 3, unless told otherwise. Root is needed.";

/// The command line, as far as all commands share it.
struct Options {
    dir: Option<PathBuf>,
    prefix: String,
    nodes: u8,
    command: String,
    arguments: Vec<String>,
}

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("cluster: {error:#}; see cluster --help");
            return ExitCode::from(64);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Options>> {
    let mut options = Options { dir: None, prefix: "kuik".to_owned(), nodes: 3, command: String::new(), arguments: Vec::new() };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "-h" | "--help" => return Ok(None),
            "--dir" => options.dir = Some(std::path::absolute(value()?)?),
            "--prefix" => options.prefix = value()?,
            "--nodes" => options.nodes = value()?.parse().context("--nodes")?,
            // What follows belongs to the program that is run.
            "on" | "kubectl" | "helm" | "crane" => {
                options.command = argument;
                options.arguments.extend(arguments.by_ref());
            }
            option if option.starts_with('-') => anyhow::bail!("unknown option {option}"),
            _ if options.command.is_empty() => options.command = argument,
            _ => options.arguments.push(argument),
        }
    }
    anyhow::ensure!(!options.command.is_empty(), "no command");
    Ok(Some(options))
}

fn run(options: &Options) -> Result<()> {
    let layout = layout(options)?;
    let attach = || Cluster::attach(layout.dir());
    let arguments: Vec<&str> = options.arguments.iter().map(String::as_str).collect();
    match (options.command.as_str(), arguments.as_slice()) {
        ("up", archives) => up(&layout, archives),
        ("down", []) => Cluster::remove(&layout),
        ("watch", []) => watch(&layout),
        ("import", archives) => archives.iter().try_for_each(|archive| attach()?.import(archive.as_ref())),
        ("on", [place, program, rest @ ..]) => Err(exec(&attach()?, place.parse()?, program, rest)?),
        (program @ ("kubectl" | "helm" | "crane"), rest) => {
            let program = kuik_e2e::tools::built(program)?;
            Err(exec(&attach()?, Place::Hub, program.to_str().context("the tools' path must be UTF-8")?, rest)?)
        }
        ("stop", [service]) => attach()?.service(service)?.stop(),
        ("start", [service]) => attach()?.service(service)?.start(),
        (command, _) => anyhow::bail!("{command}: no such command, or not with these arguments; see cluster --help"),
    }
}

/// A cluster that exists knows its own prefix and size.
fn layout(options: &Options) -> Result<Layout> {
    let dir = options.dir.clone().unwrap_or_else(|| default_dir(&options.prefix));
    match Layout::read(&dir) {
        Ok(layout) if options.command != "up" || Cluster::attach(&dir).is_ok() => Ok(layout),
        _ => Layout::new(&dir, &options.prefix, options.nodes),
    }
}

fn up(layout: &Layout, archives: &[&str]) -> Result<()> {
    let start = Instant::now();
    let cluster = match Cluster::attach(layout.dir()) {
        Ok(cluster) => {
            println!("the cluster in {} is up already", layout.dir().display());
            cluster
        }
        Err(_) => {
            let cluster = Cluster::up(layout.clone())?;
            cluster.trust_upstream()?;
            println!("the cluster in {} is up after {:.1} s", layout.dir().display(), start.elapsed().as_secs_f64());
            cluster
        }
    };
    for archive in archives {
        cluster.import(archive.as_ref())?;
        println!("imported {archive}");
    }
    println!("{}", cluster.kube().kubectl(&["get", "nodes", "-L", "topology.kubernetes.io/zone", "-o", "wide"])?);
    println!("upstream registry: {}, without TLS, and nodes know that", cluster.upstream().host());
    println!("KUBECONFIG={}, in the network namespace {}-hub, that is:", layout.kubeconfig().display(), layout.prefix());
    let program = std::env::current_exe().context("the name of this program")?;
    println!("  kubectl() {{ {} --dir {} kubectl \"$@\"; }}", program.display(), layout.dir().display());
    Ok(())
}

fn exec(cluster: &Cluster, place: Place, program: &str, arguments: &[&str]) -> Result<Error> {
    let error = cluster.command(place, program)?.args(arguments).exec();
    Ok(Error::new(error).context(format!("run {program}")))
}

/// Holds the lock that keeps two test runs from taking down each other's cluster, says so, and waits for the end of its owner.
fn watch(layout: &Layout) -> Result<()> {
    let path = layout.dir().with_extension("owner");
    let file = std::fs::File::create(&path).with_context(|| format!("make {}", path.display()))?;
    if file.try_lock().is_err() {
        eprintln!("waiting: another program uses the cluster in {}", layout.dir().display());
        file.lock().context("lock the cluster")?;
    }
    println!("mine");
    io::stdin().read_to_end(&mut Vec::new()).context("wait for the end of standard input")?;
    Cluster::remove(layout)
}
