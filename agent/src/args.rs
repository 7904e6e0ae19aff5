//! The command line. Every flag has a twin in the environment, but for those that are about one call: `pull`'s platforms, `gc --dry-run`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use crate::cli::{AdminAddress, ImageRef, Platform};
use crate::config::{Address, Amount, AuthMode, ControlAddress, ControlUrl, Host, OnUpstreamDown, Span, Timeout, Watermark};
use crate::telemetry::{LogFilter, LogFormat};

/// kube-image-keeper's node agent: a pull-through OCI registry in one process.
#[derive(Debug, Parser)]
#[command(name = "kuik-agent", version, subcommand_required = true)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the registry until SIGTERM or SIGINT
    Serve(Box<ServeArgs>),
    /// Fill the cache of the running agent with an image
    Pull(PullArgs),
    /// List the images that the running agent holds
    Ls(LsArgs),
    /// Show one image that the running agent holds: its manifests and blobs
    Inspect(InspectArgs),
    /// Hash everything that the running agent holds, and quarantine what is wrong
    Verify(VerifyArgs),
    /// Make room now: evict images down to the low watermark, and delete blobs that nothing references
    Gc(GcArgs),
    /// Have the running agent never evict an image
    Pin(PinArgs),
    /// Let the running agent evict an image again
    Unpin(PinArgs),
}

/// The flags of `serve`. They overrule the configuration file.
#[derive(Debug, Clone, ClapArgs)]
pub struct ServeArgs {
    /// Answer pulls at this address; may be repeated.
    #[arg(long, value_name = "IP:PORT", env = "KUIK_LISTEN", value_delimiter = ',')]
    #[arg(help = "Answer pulls at this address; may be repeated [default: 127.0.0.1:7439 and [::1]:7439]")]
    pub listen: Vec<Address>,

    /// Answer probes, metrics and the other commands at this address [default: 127.0.0.1:7441]
    #[arg(long, value_name = "IP:PORT", env = "KUIK_ADMIN_LISTEN")]
    pub admin_listen: Option<Address>,

    /// Answer probes and metrics, and nothing else, at this address too [default: nowhere]
    #[arg(long, value_name = "IP:PORT", env = "KUIK_METRICS_LISTEN")]
    pub metrics_listen: Option<Address>,

    /// Where the cluster's control API is.
    #[command(flatten)]
    pub control: ControlArgs,

    /// The node that this agent runs on, for its log
    #[arg(long, value_name = "NAME", env = "KUIK_NODE_NAME")]
    pub node_name: Option<String>,

    /// Keep blobs and index in this directory; it is made if missing [default: /var/lib/kuik]
    #[arg(long, value_name = "DIR", env = "KUIK_DATA_DIR")]
    pub data_dir: Option<PathBuf>,

    /// Read further settings from this YAML file; flags and environment overrule it
    #[arg(long, value_name = "FILE", env = "KUIK_CONFIG")]
    pub config: Option<PathBuf>,

    /// Ask this registry by HTTP instead of HTTPS; may be repeated
    #[arg(long, value_name = "HOST[:PORT]", env = "KUIK_PLAIN_HTTP", value_delimiter = ',')]
    pub plain_http: Vec<Host>,

    /// Take credentials for registries from this docker config.json; credHelpers are asked too
    #[arg(long, value_name = "FILE", env = "KUIK_REGISTRY_AUTH")]
    pub registry_auth: Option<PathBuf>,

    /// Serve a tag for so long without asking upstream again: 500ms, 10s, 5m, 12h, 7d, 1h30m; 0s asks always [default: 60s]
    #[arg(long, value_name = "DURATION", env = "KUIK_TAG_FRESH_FOR")]
    pub tag_fresh_for: Option<Span>,

    /// Let downloads go on for so long after SIGTERM, in the same units [default: 30s]
    #[arg(long, value_name = "DURATION", env = "KUIK_DRAIN_TIMEOUT")]
    pub drain_timeout: Option<Span>,

    /// Who may have private images.
    #[command(flatten)]
    pub auth: AuthArgs,

    /// What the cache may take of the disk.
    #[command(flatten)]
    pub cache: CacheArgs,

    /// Write the log as text or json
    #[arg(long, value_name = "FORMAT", env = "KUIK_LOG_FORMAT", value_enum, default_value_t, hide_possible_values = true)]
    pub log_format: LogFormat,

    /// Log from this level on.
    #[arg(long, value_name = "FILTER", env = "KUIK_LOG", default_value = "info")]
    #[arg(help = "Log from this level on: off, error, warn, info, debug, trace, or by target: info,kuik_agent::store=debug")]
    pub log_level: LogFilter,
}

/// The flags of `serve` that say who may have private images.
#[derive(Debug, Clone, Copy, Default, ClapArgs)]
pub struct AuthArgs {
    /// Whose rights are looked at: none (everybody gets every image) or namespace (pods show a pull token, and their namespace must have
    /// proven with its own pull secrets that it may pull; needs --control-url) [default: none]
    #[arg(long, value_name = "MODE", env = "KUIK_AUTH_MODE", value_enum, hide_possible_values = true)]
    pub auth_mode: Option<AuthMode>,

    /// Have a namespace prove its right to a repository again after so long, and upstream confirm that others are open [default: 12h]
    #[arg(long, value_name = "DURATION", env = "KUIK_AUTH_PROOF_TTL")]
    pub auth_proof_ttl: Option<Timeout>,

    /// What counts when that is due and upstream cannot be asked: lastProven or deny [default: lastProven]
    #[arg(long, value_name = "WHAT", env = "KUIK_AUTH_ON_UPSTREAM_DOWN", value_enum, hide_possible_values = true)]
    pub auth_on_upstream_down: Option<OnUpstreamDown>,

    /// Whether everybody may have what --registry-auth opens, true or false [default: false]
    #[arg(long, value_name = "BOOL", env = "KUIK_AUTH_SHARE_REGISTRY_AUTH")]
    pub auth_share_registry_auth: Option<bool>,
}

/// The flags of `serve` that say what the cache may take of the disk.
#[derive(Debug, Clone, Copy, Default, ClapArgs)]
pub struct CacheArgs {
    /// Let the data directory take so much: 20Gi, 500M, bytes, or a share of its file system such as 30% [default: no limit]
    #[arg(long, value_name = "AMOUNT", env = "KUIK_CACHE_MAX_SIZE")]
    pub cache_max_size: Option<Amount>,

    /// Begin to evict at this share of what the cache may take; above 0, up to 1 [default: 0.9]
    #[arg(long, value_name = "SHARE", env = "KUIK_CACHE_HIGH_WATERMARK")]
    pub cache_high_watermark: Option<Watermark>,

    /// Stop to evict at this share, which is below the other [default: 0.8]
    #[arg(long, value_name = "SHARE", env = "KUIK_CACHE_LOW_WATERMARK")]
    pub cache_low_watermark: Option<Watermark>,

    /// Leave so much of the file system free, whoever takes the rest: an amount as above [default: 10%]
    #[arg(long, value_name = "AMOUNT", env = "KUIK_CACHE_MIN_FREE")]
    pub cache_min_free: Option<Amount>,

    /// Delete blobs that no manifest references when they were not used for so long [default: 1h]
    #[arg(long, value_name = "DURATION", env = "KUIK_CACHE_ORPHAN_GRACE")]
    pub cache_orphan_grace: Option<Span>,

    /// Hash every stored blob anew once in so long; 0s never does [default: 7d]
    #[arg(long, value_name = "DURATION", env = "KUIK_CACHE_SCRUB_INTERVAL")]
    pub cache_scrub_interval: Option<Span>,

    /// Read at most so many bytes in a second for that [default: 20Mi]
    #[arg(long, value_name = "BYTES", env = "KUIK_CACHE_SCRUB_RATE")]
    pub cache_scrub_rate: Option<Amount>,
}

/// The flags of `serve` that name the control API.
#[derive(Debug, Clone, Default, ClapArgs)]
pub struct ControlArgs {
    /// Ask the cluster's control API here what to keep and what to drop, and report to it [default: on its own]
    #[arg(long, value_name = "URL", env = "KUIK_CONTROL_URL")]
    pub control_url: Option<ControlUrl>,

    /// Connect here instead of looking up the host of --control-url, which the certificate must still bear
    #[arg(long, value_name = "HOST:PORT", env = "KUIK_CONTROL_ADDRESS")]
    pub control_address: Option<ControlAddress>,

    /// Trust these authorities (PEM) of the control API and no others; read again when they change, and waited for if missing
    #[arg(long, value_name = "FILE", env = "KUIK_CONTROL_CA")]
    pub control_ca: Option<PathBuf>,

    /// Show the control API this token; read again for each request
    #[arg(long, value_name = "FILE", env = "KUIK_CONTROL_TOKEN")]
    pub control_token: Option<PathBuf>,
}

/// The flags of every command that talks to a running agent.
#[derive(Debug, Clone, ClapArgs)]
pub struct ClientArgs {
    /// The running agent's --admin-listen
    #[arg(long, value_name = "HOST:PORT", env = "KUIK_ADMIN", default_value = "127.0.0.1:7441")]
    pub admin: AdminAddress,

    /// Print a table for people or json for programs
    #[arg(long, value_name = "FORMAT", env = "KUIK_OUTPUT", value_enum, default_value_t, hide_possible_values = true)]
    pub output: Output,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Tables and progress bars.
    #[default]
    Table,
    /// JSON; a command that takes its time prints one object per line.
    Json,
}

/// The flags of `pull`.
#[derive(Debug, ClapArgs)]
pub struct PullArgs {
    /// The image: nginx, ghcr.io/org/app:1.0, name@sha256:…, or localhost:7439/docker.io/library/nginx
    #[arg(value_name = "REF")]
    pub image: ImageRef,

    /// Of an image with several platforms take this one [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", conflicts_with = "all_platforms")]
    pub platform: Option<Platform>,

    /// Of an image with several platforms take all
    #[arg(long)]
    pub all_platforms: bool,

    /// Which agent, and how to print.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// The flags of `ls`.
#[derive(Debug, ClapArgs)]
pub struct LsArgs {
    /// Which agent, and how to print.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// The flags of `inspect`.
#[derive(Debug, ClapArgs)]
pub struct InspectArgs {
    /// The image, as for pull
    #[arg(value_name = "REF")]
    pub image: ImageRef,

    /// Which agent, and how to print.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// The flags of `verify`.
#[derive(Debug, ClapArgs)]
pub struct VerifyArgs {
    /// Which agent, and how to print.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// The flags of `gc`.
#[derive(Debug, ClapArgs)]
pub struct GcArgs {
    /// Only say what would go, what would stay, and why
    #[arg(long)]
    pub dry_run: bool,

    /// Which agent, and how to print.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// The flags of `pin` and `unpin`.
#[derive(Debug, ClapArgs)]
pub struct PinArgs {
    /// The image, as for pull; pin it before or after it is pulled
    #[arg(value_name = "REF")]
    pub image: ImageRef,

    /// Which agent, and how to print.
    #[command(flatten)]
    pub client: ClientArgs,
}
