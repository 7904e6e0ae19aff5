//! What `helm test` runs: asks a server until it answers as it should, or the time is over.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Certificate, Client, Response, Url};
use tokio::time::Instant;

use crate::args::ProbeArgs;
use crate::telemetry;
use crate::words::{HostPort, Span};

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// What is looked at of an answer.
const BODY_BYTES_MAX: usize = 8 << 20;

/// Why an answer was not looked at, or is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The URL is none.
    #[error("--url: not a URL: {url:?}: expected http://HOST[:PORT]/PATH or https://HOST[:PORT]/PATH")]
    Url {
        /// As it was given.
        url: String,
    },
    /// A file that a flag names.
    #[error("{flag}: {}: cannot be read", path.display())]
    File {
        /// The flag.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The authorities' file holds none.
    #[error("--ca: {}: not a certificate file: expected certificates in PEM", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
    },
    /// `--address` has no address.
    #[error("--address: {host} is not known")]
    Address {
        /// The host.
        host: String,
        /// What the resolver said.
        source: Option<io::Error>,
    },
    /// There was no answer.
    #[error("{url}: no answer")]
    Request {
        /// What was asked for.
        url: String,
        /// Why.
        source: reqwest::Error,
    },
    /// The answer says no.
    #[error("{url}: answered {status}: {line}")]
    Status {
        /// What was asked for.
        url: String,
        /// The status.
        status: u16,
        /// The first line of the answer.
        line: String,
    },
    /// The answer says something else.
    #[error("{url}: answered {status} without {expected:?}: {line}")]
    Content {
        /// What was asked for.
        url: String,
        /// The status.
        status: u16,
        /// What it should contain.
        expected: String,
        /// The first line of the answer.
        line: String,
    },
    /// The answer cannot be printed.
    #[error("standard output cannot be written")]
    Output(#[source] io::Error),
}

impl ProbeError {
    fn is_timeout(&self) -> bool {
        matches!(self, Self::Request { source, .. } if source.is_timeout())
    }
}

/// Asks, and prints the status and the first line of an answer that is as it should be.
///
/// # Errors
/// When there was none in time.
pub async fn run(args: ProbeArgs, out: &mut impl Write) -> Result<(), ProbeError> {
    let ProbeArgs { url, address, ca, token, data, contains, timeout: Span(timeout) } = args;
    let deadline = Instant::now() + timeout;
    let mut url =
        Url::parse(&url).ok().filter(|url| url.has_host() && matches!(url.scheme(), "http" | "https")).ok_or(ProbeError::Url { url })?;
    let client = client(&mut url, address, ca).await?;
    let token = token.map(|path| read("--token", &path)).transpose()?;
    let data = data.map(|path| read("--data", &path)).transpose()?;
    let mut last = None;
    loop {
        let request = match &data {
            Some(data) => client.post(url.clone()).header("content-type", "application/json").body(data.clone()),
            None => client.get(url.clone()),
        };
        let request = match &token {
            Some(token) => request.bearer_auth(String::from_utf8_lossy(token).trim()),
            None => request,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        match ask(&url, request.timeout(left), contains.as_deref()).await {
            Ok((status, line)) => return writeln!(out, "{status} {line}").map_err(ProbeError::Output),
            // The end of the time cut it off: what was said before tells more.
            Err(error) if error.is_timeout() => return Err(last.unwrap_or(error)),
            Err(error) if deadline <= Instant::now() + PAUSE => return Err(error),
            Err(error) => {
                tracing::debug!(error = telemetry::chain(&error), "asking again");
                last = Some(error);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// A client that trusts `ca` alone, and connects to `address`: the port is then that of the URL, which needs no other than this one.
async fn client(url: &mut Url, address: Option<HostPort>, ca: Option<PathBuf>) -> Result<Client, ProbeError> {
    let mut builder = Client::builder().no_proxy();
    if let Some(HostPort { host, port }) = address {
        let found = tokio::net::lookup_host((host.as_str(), port)).await.map(|mut found| found.next());
        let address = match found {
            Ok(Some(address)) => address,
            Ok(None) => return Err(ProbeError::Address { host, source: None }),
            Err(source) => return Err(ProbeError::Address { host, source: Some(source) }),
        };
        builder = builder.resolve(url.host_str().unwrap_or_default(), address);
        url.set_port(Some(port)).expect("a URL with a host must take a port");
    }
    if let Some(path) = ca {
        let certificates = Certificate::from_pem_bundle(&read("--ca", &path)?).ok().filter(|found| !found.is_empty());
        builder = builder.tls_certs_only(certificates.ok_or(ProbeError::Authority { path })?);
    }
    builder.build().map_err(|source| ProbeError::Request { url: url.to_string(), source })
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, ProbeError> {
    std::fs::read(path).map_err(|source| ProbeError::File { flag, path: path.to_owned(), source })
}

async fn ask(url: &Url, request: reqwest::RequestBuilder, contains: Option<&str>) -> Result<(u16, String), ProbeError> {
    let failed = |source: reqwest::Error| ProbeError::Request { url: url.to_string(), source: source.without_url() };
    let response = request.send().await.map_err(failed)?;
    let status = response.status();
    let text = text(response).await.map_err(failed)?;
    let line = text.lines().next().unwrap_or_default().chars().take(500).collect();
    match contains {
        _ if !status.is_success() => Err(ProbeError::Status { url: url.to_string(), status: status.as_u16(), line }),
        Some(expected) if !text.contains(expected) => {
            Err(ProbeError::Content { url: url.to_string(), status: status.as_u16(), expected: expected.to_owned(), line })
        }
        _ => Ok((status.as_u16(), line)),
    }
}

async fn text(mut response: Response) -> Result<String, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk[..chunk.len().min(BODY_BYTES_MAX - body.len())]);
    }
    Ok(String::from_utf8_lossy(&body).into_owned())
}
