//! The registry that the cluster's images come from: Debian's docker-registry in the hub, which can fail in several ways.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::enter;
use super::layout::{HUB, Layout, Place};
use super::service::Service;
use crate::http::{self, Reply};
use crate::images::{Destination, Image};
use crate::process::run;
use crate::tools;

const START_LIMIT: Duration = Duration::from_secs(15);
const OPEN_PORT: u16 = 5000;
const PRIVATE_PORT: u16 = 5001;

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
}

impl Upstream {
    /// The registry that everybody may pull from.
    pub(super) fn open(layout: &Layout) -> Self {
        Self { layout: layout.clone(), port: OPEN_PORT }
    }

    /// The registry that wants a name and a password.
    pub(super) fn private(layout: &Layout) -> Self {
        Self { layout: layout.clone(), port: PRIVATE_PORT }
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
        self.reach(|| self.destination().push(repository, tag, image))
    }

    /// Deletes the manifest with this digest, and with it all tags that point at it.
    pub fn delete_manifest(&self, repository: &str, digest: &str) -> Result<()> {
        self.reach(|| self.destination().delete_manifest(repository, digest))
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

    fn is_private(&self) -> bool {
        self.port == PRIVATE_PORT
    }

    fn destination(&self) -> Destination {
        Destination { host: self.host(), authorization: self.is_private().then(|| BASIC.to_owned()) }
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
        let dir = self.layout.path(&format!("registry-{}", self.port));
        fs::create_dir_all(&dir).context("make the registry's folder")?;
        let dir = dir.to_str().context("the registry's folder must be UTF-8")?.to_owned();
        let mut config = format!(
            "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: false}}}}\n\
             storage:\n  filesystem: {{rootdirectory: {dir}/data}}\n  delete: {{enabled: true}}\n\
             http: {{addr: '{}'}}\n",
            self.host()
        );
        if self.is_private() {
            config.push_str(&format!("auth:\n  htpasswd: {{realm: upstream, path: {dir}/htpasswd}}\n"));
            fs::write(format!("{dir}/htpasswd"), format!("{USER}:{HTPASSWD}\n")).context("write the registry's passwords")?;
        }
        let path = format!("{dir}/config.yml");
        fs::write(&path, config).context("write the registry's configuration")?;
        Ok(path)
    }
}
