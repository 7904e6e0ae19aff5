//! The registries that the cluster's images come from: Debian's docker-registry in the hub, which can fail in several ways, and which asks
//! nobody who they are, for a name and a password, or for the token of a token server.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::enter;
use super::layout::{HUB, Layout, Place};
use super::service::Service;
use crate::http::{self, Reply};
use crate::images::{Destination, Image};
use crate::process::run;
use crate::token_server::{ISSUER, TokenServer};
use crate::tools;

const START_LIMIT: Duration = Duration::from_secs(15);
const OPEN_PORT: u16 = 5000;
const PRIVATE_PORT: u16 = 5001;
const GUARDED_PORT: u16 = 5002;
const TOKEN_PORT: u16 = 5003;

/// Who may pull from the private registry, and push to it.
pub const USER: &str = "puller";
/// The password of [`USER`].
pub const PASSWORD: &str = "open-sesame";
const BASIC: &str = "Basic cHVsbGVyOm9wZW4tc2VzYW1l";
const HTPASSWD: &str = "$2y$04$5HH86VjFOzJo4fuMTl4vF.JxQqr3CKcSc1VftJgdcVMmZMC/RSKne";

/// An upstream registry, on plain HTTP at an address that all nodes and pods reach.
#[derive(Clone, Debug)]
pub struct Upstream {
    layout: Layout,
    port: u16,
    tokens: Option<Arc<TokenServer>>,
}

impl Upstream {
    /// The registry that everybody may pull from.
    pub(super) fn open(layout: &Layout) -> Self {
        Self { layout: layout.clone(), port: OPEN_PORT, tokens: None }
    }

    /// The registry that wants a name and a password.
    pub(super) fn private(layout: &Layout) -> Self {
        Self { layout: layout.clone(), port: PRIVATE_PORT, tokens: None }
    }

    /// The registry that wants tokens of this server.
    pub(super) fn guarded(layout: &Layout, tokens: &Arc<TokenServer>) -> Self {
        Self { layout: layout.clone(), port: GUARDED_PORT, tokens: Some(Arc::clone(tokens)) }
    }

    /// `address:port`, its name in image references.
    pub fn host(&self) -> String {
        format!("{HUB}:{}", self.port)
    }

    /// The full name of an image here; `suffix` is `:tag` or `@digest`.
    pub fn image(&self, repository: &str, suffix: &str) -> String {
        format!("{}/{repository}{suffix}", self.host())
    }

    /// Starts it, again or for the first time, and waits until it answers. No error if it runs.
    pub fn start(&self) -> Result<()> {
        let service = self.service();
        if service.running().is_none() {
            let config = self.write_files()?;
            let program = tools::debian("docker-registry")?.display().to_string();
            service.define("/usr/bin:/bin", &[program, "serve".to_owned(), config])?;
            service.start()?;
        }
        service.wait_ready(START_LIMIT, || Ok(matches!(self.get("/v2/")?.status, 200 | 401)))
    }

    /// Stops it: connections are refused from now on.
    pub fn stop(&self) -> Result<()> {
        self.service().stop()
    }

    /// Has the private registry know [`USER`], or nobody of that name. It notices at once.
    pub fn know_user(&self, known: bool) -> Result<()> {
        let user = if known { USER } else { "somebody-else" };
        fs::write(self.dir().join("htpasswd"), format!("{user}:{HTPASSWD}\n")).context("write the registry's passwords")
    }

    /// Makes it vanish: packets to it are dropped, so that connections to it neither succeed nor fail. The API server, which
    /// has the same address, is not touched.
    pub fn cut(&self) -> Result<()> {
        self.drop_packets("-I")
    }

    /// Ends what [`Upstream::cut`] began.
    pub fn restore(&self) -> Result<()> {
        self.drop_packets("-D")
    }

    /// Pushes an image with everything below it, under `tag`.
    pub fn push(&self, repository: &str, tag: &str, image: &Image) -> Result<()> {
        self.reach(|| self.destination(repository)?.push(repository, tag, image))
    }

    /// Deletes the manifest with this digest, and with it all tags that point at it.
    pub fn delete_manifest(&self, repository: &str, digest: &str) -> Result<()> {
        self.reach(|| self.destination(repository)?.delete_manifest(repository, digest))
    }

    /// `GET path`, such as `/v2/team/app/tags/list`, without credentials.
    pub fn get(&self, path: &str) -> Result<Reply> {
        self.reach(|| http::get(&format!("http://{}{path}", self.host())))
    }

    /// How many requests for paths that contain `part` it has logged so far.
    pub fn requests(&self, part: &str) -> Result<usize> {
        let log = fs::read_to_string(self.service().log()).context("read the registry's log")?;
        Ok(log.lines().filter(|line| line.contains("\"GET /") || line.contains("\"HEAD /")).filter(|line| line.contains(part)).count())
    }

    /// Its process.
    pub fn service(&self) -> Service {
        Service::new(&self.layout, Place::Hub, &format!("registry-{}", self.port))
    }

    fn dir(&self) -> PathBuf {
        self.layout.path(&format!("registry-{}", self.port))
    }

    fn is_private(&self) -> bool {
        self.port == PRIVATE_PORT
    }

    fn destination(&self, repository: &str) -> Result<Destination> {
        let authorization = match &self.tokens {
            Some(tokens) => Some(tokens.owner(repository)?),
            None => self.is_private().then(|| BASIC.to_owned()),
        };
        Ok(Destination { host: self.host(), authorization })
    }

    fn reach<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        enter::in_netns(&self.layout.netns(Place::Hub), work)
    }

    fn drop_packets(&self, how: &str) -> Result<()> {
        let mut iptables = enter::command(&self.layout, Place::Hub, &tools::debian("iptables")?);
        let rule = ["INPUT", "-p", "tcp", "--dport", &self.port.to_string(), "-i", "br0", "-j", "DROP"].map(str::to_owned);
        run(iptables.args(["-w", how]).args(rule)).map(drop)
    }

    fn write_files(&self) -> Result<String> {
        let folder = self.dir();
        fs::create_dir_all(&folder).context("make the registry's folder")?;
        let dir = folder.to_str().context("the registry's folder must be UTF-8")?;
        let mut config = format!(
            "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: false}}}}\n\
             storage:\n  filesystem: {{rootdirectory: {dir}/data}}\n  delete: {{enabled: true}}\n\
             http: {{addr: '{}'}}\n",
            self.host()
        );
        if self.is_private() {
            self.know_user(true)?;
            config.push_str(&format!("auth:\n  htpasswd: {{realm: upstream, path: {dir}/htpasswd}}\n"));
        }
        if let Some(tokens) = &self.tokens {
            fs::write(folder.join("tokens.pem"), tokens.certificate()).context("write the token server's certificate")?;
            let realm = tokens.realm();
            config.push_str(&format!(
                "auth:\n  token: {{realm: '{realm}', service: {ISSUER}, issuer: {ISSUER}, rootcertbundle: {dir}/tokens.pem}}\n"
            ));
        }
        let path = format!("{dir}/config.yml");
        fs::write(&path, config).context("write the registry's configuration")?;
        Ok(path)
    }
}

/// `address:port` of all of them.
pub(super) fn hosts() -> [String; 3] {
    [OPEN_PORT, PRIVATE_PORT, GUARDED_PORT].map(|port| format!("{HUB}:{port}"))
}

/// Starts a token server in the hub, for as long as this process lives.
pub(super) fn start_token_server(layout: &Layout) -> Result<TokenServer> {
    let listen = || TcpListener::bind((HUB, TOKEN_PORT)).with_context(|| format!("listen at {HUB}:{TOKEN_PORT}"));
    TokenServer::start(enter::in_netns(&layout.netns(Place::Hub), listen)?)
}
