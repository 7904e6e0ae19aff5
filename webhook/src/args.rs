//! The command line. Every flag of `serve` has a twin in the environment.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{ArgAction, Args as ClapArgs, Parser, Subcommand};

use crate::telemetry::{LogFilter, LogFormat};
use crate::words::{Address, HostPort, Lifetime, Name, Span};

/// kube-image-keeper's admission webhook, lifecycle of cached images, and control API for agents.
#[derive(Debug, Parser)]
#[command(name = "kuik-webhook", version, subcommand_required = true)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the servers, and take part in the election of a leader, until SIGTERM or SIGINT
    Serve(Box<ServeArgs>),
    /// Ask a server once, and say whether it answered as it should: what `helm test` runs
    Probe(ProbeArgs),
}

/// The flags of `serve`.
#[derive(Debug, Clone, ClapArgs)]
pub struct ServeArgs {
    /// Answer admission reviews at this address, by HTTPS; the default is every address, of IPv4 too
    #[arg(long, value_name = "IP:PORT", env = "KUIK_ADMISSION_LISTEN", default_value = "[::]:8443")]
    pub admission_listen: Address,

    /// Answer agents at this address, by HTTPS
    #[arg(long, value_name = "IP:PORT", env = "KUIK_CONTROL_LISTEN", default_value = "[::]:9443")]
    pub control_listen: Address,

    /// Answer /livez, /readyz and /metrics at this address, by HTTP
    #[arg(long, value_name = "IP:PORT", env = "KUIK_METRICS_LISTEN", default_value = "[::]:8080")]
    pub metrics_listen: Address,

    /// Read the settings of the release from this YAML file
    #[arg(long, value_name = "FILE", env = "KUIK_CONFIG")]
    pub config: Option<PathBuf>,

    /// What the names of the release's objects begin with
    #[arg(long, value_name = "FULLNAME", env = "KUIK_NAME", default_value = "kube-image-keeper")]
    pub name: Name,

    /// The Helm release, the value of app.kubernetes.io/instance [default: that of --name]
    #[arg(long, value_name = "NAME", env = "KUIK_RELEASE")]
    pub release: Option<Name>,

    /// The namespace of the release
    #[arg(long, value_name = "NAMESPACE", env = "KUIK_NAMESPACE")]
    pub namespace: Name,

    /// The name of the pod that this runs in
    #[arg(long, value_name = "NAME", env = "KUIK_POD_NAME")]
    pub pod_name: Name,

    /// The address of the pod that this runs in, at which other replicas reach this one
    #[arg(long, value_name = "IP", env = "KUIK_POD_IP")]
    pub pod_ip: IpAddr,

    /// The service account whose tokens are taken from agents [default: that of --name, and -agent]
    #[arg(long, value_name = "NAME", env = "KUIK_AGENT_SERVICE_ACCOUNT")]
    pub agent_service_account: Option<Name>,

    /// Serve with tls.crt and tls.key of this directory, which ca.crt signed, instead of own certificates; they are read anew when they change
    #[arg(long, value_name = "DIR", env = "KUIK_TLS_DIR")]
    pub tls_dir: Option<PathBuf>,

    /// How long an own serving certificate is valid; it is replaced well before: 12h, 90d
    #[arg(long, value_name = "DURATION", env = "KUIK_CERTIFICATE_LIFETIME", default_value = "90d")]
    pub certificate_lifetime: Lifetime,

    /// How long the own authority is valid, in the same units
    #[arg(long, value_name = "DURATION", env = "KUIK_CA_LIFETIME", default_value = "3650d")]
    pub ca_lifetime: Lifetime,

    /// Whether the leader brings the release's custom resource definitions up to date, true or false
    #[arg(long, value_name = "BOOL", env = "KUIK_INSTALL_CRDS", default_value = "true", action = ArgAction::Set, hide_possible_values = true)]
    pub install_crds: bool,

    /// Go on serving for so long after SIGTERM, until nobody sends requests here any more: 500ms, 5s, 1m
    #[arg(long, value_name = "DURATION", env = "KUIK_SHUTDOWN_DELAY", default_value = "5s")]
    pub shutdown_delay: Span,

    /// Then let running answers finish for so long, in the same units
    #[arg(long, value_name = "DURATION", env = "KUIK_DRAIN_TIMEOUT", default_value = "10s")]
    pub drain_timeout: Span,

    /// Write the log as text or json
    #[arg(long, value_name = "FORMAT", env = "KUIK_LOG_FORMAT", value_enum, default_value_t, hide_possible_values = true)]
    pub log_format: LogFormat,

    /// Log from this level on.
    #[arg(long, value_name = "FILTER", env = "KUIK_LOG_FILTER", default_value = "info")]
    #[arg(help = "Log from this level on: off, error, warn, info, debug, trace, or by target: info,kuik_webhook::control=debug")]
    pub log_filter: LogFilter,
}

/// The flags of `probe`.
#[derive(Debug, Clone, ClapArgs)]
pub struct ProbeArgs {
    /// What to ask for
    #[arg(long, value_name = "URL")]
    pub url: String,

    /// Connect here instead of to the URL's host; the certificate must be the URL's host's all the same
    #[arg(long, value_name = "HOST:PORT")]
    pub address: Option<HostPort>,

    /// Trust the authorities in this PEM file, and no other
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,

    /// Send what this file holds as a bearer token
    #[arg(long, value_name = "FILE")]
    pub token: Option<PathBuf>,

    /// POST what this file holds as JSON instead of asking by GET
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,

    /// The answer must contain this text
    #[arg(long, value_name = "TEXT")]
    pub contains: Option<String>,

    /// Ask again for so long, until the answer is as it should be: 500ms, 5s, 1m
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    pub timeout: Span,
}
