//! nginx: as a static file server (how fast this machine can serve bytes), and as a caching proxy.

use std::fmt::Write;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};

use super::Server;
use crate::lab::{Lab, free_port, which};
use crate::library::Library;
use crate::process::Process;
use crate::upstream::Upstream;

pub(crate) const PROXY_CACHE: &str = "nginx proxy_cache";

/// Two ways for nginx to send a file; which one is faster depends on the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sendfile {
    On,
    /// With buffers of a size that makes it worthwhile.
    Off,
}

impl Sendfile {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::On => "nginx-sendfile",
            Self::Off => "nginx-buffers",
        }
    }

    fn directives(self) -> &'static str {
        match self {
            Self::On => "sendfile on;",
            Self::Off => "sendfile off; output_buffers 2 512k;",
        }
    }
}

/// Serves the library's files under their paths, with the headers of a registry.
pub(crate) fn static_files(lab: &Lab, library: &Library, sendfile: Sendfile) -> Result<Server> {
    let mut locations = String::from("location = /v2/ { default_type application/json; return 200 '{}'; }\n");
    for object in &library.objects {
        writeln!(
            locations,
            "location = /v2/{} {{ alias {}; default_type {}; add_header Docker-Content-Digest sha256:{}; }}",
            object.path,
            object.file.display(),
            object.media_type,
            object.hex
        )?;
    }
    let port = free_port()?;
    let server = format!("server {{ listen 127.0.0.1:{port} backlog=1024;\n{locations}}}");
    let folder = lab.folder(sendfile.name())?;
    start(sendfile.name(), port, &folder, &config_text(&folder, sendfile.directives(), &server))
}

/// Caches what it proxies. Connections to the upstream are kept; one request fetches, the others wait for it.
/// Larger `proxy_buffers` (16 64k to 16 512k) changed nothing here beyond the noise.
pub(crate) fn proxy_cache(lab: &Lab, upstream: &Upstream) -> Result<Server> {
    let port = free_port()?;
    let folder = lab.folder("nginx-proxy")?;
    let server = format!(
        "proxy_cache_path {cache} levels=1:2 keys_zone=one:10m max_size=100g inactive=1d use_temp_path=off;
upstream registry {{ server {upstream}; keepalive 64; }}
server {{
  listen 127.0.0.1:{port} backlog=1024;
  location / {{
    proxy_pass http://registry; proxy_http_version 1.1; proxy_set_header Connection '';
    proxy_cache one; proxy_cache_valid 200 1d;
    proxy_cache_lock on; proxy_cache_lock_timeout 1h; proxy_cache_lock_age 1h;
  }}
}}",
        cache = folder.join("cache").display(),
        upstream = upstream.addr,
    );
    start(PROXY_CACHE, port, &folder, &config_text(&folder, Sendfile::On.directives(), &server))
}

/// A whole configuration around one `server`.
fn config_text(folder: &Path, sendfile: &str, server: &str) -> String {
    let folder = folder.display();
    format!(
        "daemon off; user root; worker_processes auto; pid {folder}/pid; error_log {folder}/error.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off; server_tokens off; keepalive_requests 100000000; keepalive_timeout 1h;
  {sendfile} tcp_nodelay on;
  open_file_cache max=10000 inactive=1h; open_file_cache_valid 1h;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  {server}
}}
"
    )
}

fn start(name: &'static str, port: u16, folder: &Path, config: &str) -> Result<Server> {
    let program = which("nginx").context("nginx is not installed")?;
    let file = folder.join("nginx.conf");
    fs::write(&file, config)?;
    let arguments = ["-p".to_owned(), folder.display().to_string(), "-c".to_owned(), file.display().to_string()];
    let process = Process::start(&program, &arguments, &[], &folder.join("log"))?;
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut server = Server { name, addr, prefix: String::new(), process, data: None };
    server.wait(addr, "/v2/")?;
    Ok(server.owning(folder))
}
