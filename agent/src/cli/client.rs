//! The client of the admin port. The only file of the command line that names reqwest.

use std::error::Error;
use std::time::Duration;

use kuik_crd::Image;
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response};
use serde::Deserialize;

use super::{AdminAddress, Platform};

/// A connection to the agent, which is mostly on this machine, must be made after this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// An answer that is no stream must be whole after this.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Deleting thousands of large files takes some time.
const GC_TIMEOUT: Duration = Duration::from_secs(600);

/// The longest line of a stream that is taken.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Why the running agent did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody there.
    #[error("no agent answers at {address} ({reason}): kuik-agent serve starts one there; --admin or KUIK_ADMIN names another address")]
    Unreachable {
        /// The address that was asked.
        address: String,
        /// What the system said.
        reason: String,
    },
    /// The agent answered with an error.
    #[error("{0}")]
    Refused(String),
    /// The answer is none of an agent's admin port.
    #[error("{address} answers, but not as an agent's admin port does ({reason}): --admin or KUIK_ADMIN names another address")]
    Foreign {
        /// The address that was asked.
        address: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The answer ended before its end.
    #[error("the agent at {address} broke off ({reason}): it may have been stopped")]
    Broken {
        /// The address that was asked.
        address: String,
        /// What the system said.
        reason: String,
    },
    /// No client could be made at all.
    #[error("the HTTP client cannot start: {0}")]
    Setup(String),
}

/// What the admin port answers when it does not do as asked.
#[derive(Debug, Deserialize)]
struct ErrorBody {
    error: String,
}

/// Asks one agent.
#[derive(Debug)]
pub(super) struct AdminClient {
    http: Client,
    address: String,
}

impl AdminClient {
    /// A client of the agent at `address`. Proxies of the environment are not for it, and there is no TLS.
    pub(super) fn new(address: &AdminAddress) -> Result<Self, ClientError> {
        let builder = Client::builder().no_proxy().redirect(Policy::none()).connect_timeout(CONNECT_TIMEOUT).tls_certs_only([]);
        let http = builder.build().map_err(|error| ClientError::Setup(root(&error)))?;
        Ok(Self { http, address: address.to_string() })
    }

    /// All images, as JSON.
    pub(super) async fn images(&self) -> Result<String, ClientError> {
        self.answer(Method::GET, "/v1/images", ANSWER_TIMEOUT).await
    }

    /// Has the agent make room, or say what would go, as JSON.
    pub(super) async fn gc(&self, dry_run: bool) -> Result<String, ClientError> {
        self.answer(Method::POST, &format!("/v1/gc?dryRun={dry_run}"), GC_TIMEOUT).await
    }

    /// Has the agent pin an image, or let it go; what changed, as JSON.
    pub(super) async fn pin(&self, image: &Image, pinned: bool) -> Result<String, ClientError> {
        let path = if pinned { "/v1/pin" } else { "/v1/unpin" };
        self.answer(Method::POST, &format!("{path}?{}", query(image, None)), ANSWER_TIMEOUT).await
    }

    /// One image, as JSON.
    pub(super) async fn image(&self, image: &Image) -> Result<String, ClientError> {
        self.answer(Method::GET, &format!("/v1/image?{}", query(image, None)), ANSWER_TIMEOUT).await
    }

    /// Has the agent fetch an image; without a platform, all of it.
    pub(super) async fn pull(&self, image: &Image, platform: Option<&Platform>) -> Result<Lines, ClientError> {
        self.lines(&format!("/v1/pull?{}", query(image, Some(platform)))).await
    }

    /// Has the agent hash everything.
    pub(super) async fn verify(&self) -> Result<Lines, ClientError> {
        self.lines("/v1/verify").await
    }

    /// An answer that parses as an image or a list of images, or the error that says otherwise.
    pub(super) fn parse<T: for<'de> Deserialize<'de>>(&self, json: &str) -> Result<T, ClientError> {
        serde_json::from_str(json).map_err(|error| self.foreign(error.to_string()))
    }

    async fn answer(&self, method: Method, path: &str, timeout: Duration) -> Result<String, ClientError> {
        let response = self.send(method, path, Some(timeout)).await?;
        response.text().await.map_err(|error| ClientError::Broken { address: self.address.clone(), reason: root(&error) })
    }

    async fn lines(&self, path: &str) -> Result<Lines, ClientError> {
        let response = self.send(Method::POST, path, None).await?;
        Ok(Lines { response, address: self.address.clone(), waiting: Vec::new() })
    }

    async fn send(&self, method: Method, path: &str, timeout: Option<Duration>) -> Result<Response, ClientError> {
        let mut request = self.http.request(method, format!("http://{}{path}", self.address));
        if let Some(timeout) = timeout {
            request = request.timeout(timeout);
        }
        let response = request.send().await.map_err(|error| self.not_sent(&error))?;
        if response.status().is_success() { Ok(response) } else { Err(self.refused(response).await) }
    }

    fn not_sent(&self, error: &reqwest::Error) -> ClientError {
        let (address, reason) = (self.address.clone(), root(error));
        if error.is_connect() { ClientError::Unreachable { address, reason } } else { ClientError::Broken { address, reason } }
    }

    async fn refused(&self, response: Response) -> ClientError {
        let status = response.status();
        let body = response.text().await.unwrap_or_default();
        match serde_json::from_str::<ErrorBody>(&body) {
            Ok(ErrorBody { error }) => ClientError::Refused(error),
            Err(_) => self.foreign(status.to_string()),
        }
    }

    fn foreign(&self, reason: String) -> ClientError {
        ClientError::Foreign { address: self.address.clone(), reason }
    }
}

/// A stream of lines.
#[derive(Debug)]
pub(super) struct Lines {
    response: Response,
    address: String,
    /// What came after the last line that was handed out.
    waiting: Vec<u8>,
}

impl Lines {
    /// The next line; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<String>, ClientError> {
        loop {
            if let Some(end) = self.waiting.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.waiting.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line[..end]).into_owned()));
            }
            if self.waiting.len() > LINE_BYTES_MAX {
                return Err(ClientError::Foreign { address: self.address.clone(), reason: "a line does not end".to_owned() });
            }
            match self.response.chunk().await {
                Ok(Some(bytes)) => self.waiting.extend_from_slice(&bytes),
                Ok(None) => return Ok(None),
                Err(error) => return Err(self.broken(root(&error))),
            }
        }
    }

    /// The error of a stream that ended without its last event.
    pub(super) fn unfinished(&self) -> ClientError {
        self.broken("the last event is missing".to_owned())
    }

    /// The error of a line that is no event.
    pub(super) fn no_event(&self, error: &serde_json::Error) -> ClientError {
        ClientError::Foreign { address: self.address.clone(), reason: error.to_string() }
    }

    fn broken(&self, reason: String) -> ClientError {
        ClientError::Broken { address: self.address.clone(), reason }
    }
}

/// `reference=…`, and for a pull which platforms.
fn query(image: &Image, platforms: Option<Option<&Platform>>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("reference", &image.to_string());
    match platforms {
        Some(Some(platform)) => query.append_pair("platform", platform.as_str()),
        Some(None) => query.append_pair("all", "true"),
        None => &mut query,
    };
    query.finish()
}

/// The innermost cause: what the system said. The layers around it repeat the address.
fn root(error: &dyn Error) -> String {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        reason = error.to_string();
        source = error.source();
    }
    reason
}
