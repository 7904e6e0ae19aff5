//! A client that asks as containerd does, and keeps the whole answer.

use std::fmt;

use bytes::Bytes;
use reqwest::header::{self, HeaderMap};
use reqwest::{Client, Method, RequestBuilder, Response};

use super::wait::soon;

/// A complete answer.
#[derive(Clone)]
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Not the whole body: it may be megabytes.
impl fmt::Debug for Got {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let begin = String::from_utf8_lossy(&self.body[..self.body.len().min(400)]);
        write!(f, "{} {:?} {} bytes: {begin:?}", self.status, self.headers, self.body.len())
    }
}

impl Got {
    pub(crate) fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    /// The code of the first error in an error body.
    pub(crate) fn error_code(&self) -> String {
        self.json()["errors"][0]["code"].as_str().unwrap_or_else(|| panic!("no error code in {:?}", self.body)).to_owned()
    }

    /// Itself, if the status is `status`.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    /// Whether these are exactly the bytes: without printing megabytes when they are not.
    #[track_caller]
    pub(crate) fn expect_bytes(self, bytes: &[u8]) -> Self {
        same_bytes(&self.body, bytes);
        self
    }
}

/// Panics with the first difference.
#[track_caller]
pub(crate) fn same_bytes(got: &[u8], want: &[u8]) {
    let at = got.iter().zip(want).position(|(got, want)| got != want);
    assert!(at.is_none(), "bytes differ from byte {at:?} on, of {} and {}", got.len(), want.len());
    assert_eq!(got.len(), want.len(), "lengths differ");
}

/// One client for all tests would share connections between their runtimes; each test has its own.
pub(crate) fn new() -> Client {
    super::install_crypto();
    Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().expect("a client must build")
}

/// Sends a request and reads the whole answer; `Err` when the answer breaks off.
pub(crate) async fn try_send(request: RequestBuilder) -> Result<Got, reqwest::Error> {
    soon("an answer", async {
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Got { status, headers, body: response.bytes().await? })
    })
    .await
}

/// Sends a request and reads the whole answer.
pub(crate) async fn send(request: RequestBuilder) -> Got {
    try_send(request).await.expect("an answer must be complete")
}

pub(crate) fn request(client: &Client, method: Method, url: &str, headers: &[(&'static str, &str)]) -> RequestBuilder {
    headers.iter().fold(client.request(method, url), |request, (name, value)| request.header(*name, *value))
}

/// Reads what is left of an answer that must break off; how many bytes that was.
pub(crate) async fn read_to_break(response: &mut Response) -> usize {
    soon("the answer to break off", async {
        let mut count = 0;
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => count += chunk.len(),
                Ok(None) => panic!("the answer ended well after {count} more bytes"),
                Err(_) => break count,
            }
        }
    })
    .await
}

/// Reads a growing answer until at least `count` bytes are there.
pub(crate) async fn read_at_least(response: &mut Response, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    soon("the first bytes of an answer", async {
        while bytes.len() < count {
            match response.chunk().await {
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                Ok(None) => panic!("the answer ended after {} of {count} bytes", bytes.len()),
                Err(error) => panic!("the answer broke off after {} of {count} bytes: {error}", bytes.len()),
            }
        }
    })
    .await;
    bytes
}
