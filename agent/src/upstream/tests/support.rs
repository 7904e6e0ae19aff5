//! A registry that does as it is told, and what to ask it with.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, Method, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::config::{Endpoint, RegistryConfig, UpstreamConfig};
use crate::oci::{Algorithm, Digest, Hasher, Registry, Repository, Target};
use crate::requester::Requester;
use crate::upstream::{BlobStream, Errand, Observer, Upstream, UpstreamError};

/// A request that arrived.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
    pub(crate) version: http::Version,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn authorization(&self) -> &str {
        self.header("authorization")
    }
}

/// A part of an answer's body.
#[derive(Debug, Clone)]
pub(crate) enum Piece {
    Bytes(Bytes),
    /// What follows comes at this time.
    At(Instant),
    /// Nothing more comes, and the connection stays open.
    Hang,
    /// The connection breaks, once everything before has been sent.
    Break,
    /// The connection breaks.
    BreakNow,
}

/// What is answered.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    pieces: VecDeque<Piece>,
    after: Duration,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), pieces: VecDeque::new(), after: Duration::ZERO }
    }

    pub(crate) fn ok(body: impl Into<Bytes>) -> Self {
        let body = body.into();
        Self::status(200).header("content-length", &body.len().to_string()).bytes(body)
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn bytes(mut self, bytes: impl Into<Bytes>) -> Self {
        self.pieces.push_back(Piece::Bytes(bytes.into()));
        self
    }

    pub(crate) fn then(mut self, piece: Piece) -> Self {
        self.pieces.push_back(piece);
        self
    }

    /// The whole answer waits.
    pub(crate) fn after(mut self, after: Duration) -> Self {
        self.after = after;
        self
    }

    /// Never answers.
    pub(crate) fn never() -> Self {
        Self::status(200).after(Duration::from_secs(1 << 30))
    }
}

impl http_body::Body for Reply {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        match self.pieces.pop_front() {
            None => Poll::Ready(None),
            Some(Piece::Bytes(bytes)) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Some(Piece::At(time)) => {
                if Instant::now() < time {
                    self.pieces.push_front(Piece::At(time));
                }
                let waker = cx.waker().clone();
                tokio::spawn(async move {
                    tokio::time::sleep_until(time).await;
                    waker.wake();
                });
                Poll::Pending
            }
            Some(Piece::Hang) => {
                self.pieces.push_front(Piece::Hang);
                Poll::Pending
            }
            Some(Piece::Break) => {
                self.pieces.push_front(Piece::BreakNow);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Piece::BreakNow) => Poll::Ready(Some(Err(std::io::Error::other("told to break")))),
        }
    }
}

type Handler = dyn Fn(&Seen) -> Reply + Send + Sync;

/// A server on loopback. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) registry: Registry,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(crate) async fn http(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start(None, Arc::new(handler)).await
    }

    pub(crate) async fn https(tls: rustls::ServerConfig, handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start(Some(TlsAcceptor::from(Arc::new(tls))), Arc::new(handler)).await
    }

    async fn start(tls: Option<TlsAcceptor>, handler: Arc<Handler>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let registry = listener.local_addr().unwrap().to_string().parse().unwrap();
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let task = tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (tls, seen, handler) = (tls.clone(), Arc::clone(&seen), Arc::clone(&handler));
                    tokio::spawn(async move {
                        match tls {
                            None => serve(stream, false, seen, handler).await,
                            Some(tls) => {
                                if let Ok(stream) = tls.accept(stream).await {
                                    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                                    serve(stream, http2, seen, handler).await;
                                }
                            }
                        }
                    });
                }
            }
        });
        Self { registry, seen, task }
    }

    /// `host:port`.
    pub(crate) fn host(&self) -> String {
        self.registry.to_string()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    pub(crate) fn last(&self) -> Seen {
        self.seen().pop().unwrap()
    }
}

async fn serve<S>(stream: S, http2: bool, seen: Arc<Mutex<Vec<Seen>>>, handler: Arc<Handler>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let (seen, handler) = (Arc::clone(&seen), Arc::clone(&handler));
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let request = Seen {
                method: parts.method,
                path: parts.uri.path().to_owned(),
                query: parts.uri.query().unwrap_or_default().to_owned(),
                headers: parts.headers,
                body: String::from_utf8(body.to_vec()).unwrap(),
                version: parts.version,
            };
            seen.lock().unwrap().push(request.clone());
            let reply = handler(&request);
            tokio::time::sleep(reply.after).await;
            let mut response = Response::builder().status(reply.status);
            for (name, value) in &reply.headers {
                response = response.header(name, value);
            }
            Ok::<_, Infallible>(response.body(reply).unwrap())
        }
    });
    let _ = if http2 {
        hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await
    } else {
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
    };
}

/// Counts what it is told.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) requests: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) errors: Mutex<Vec<&'static str>>,
}

impl Observer for Counts {
    fn request(&self, _: &Registry) {
        self.requests.fetch_add(1, Ordering::SeqCst);
    }

    fn error(&self, _: &Registry, reason: &'static str) {
        self.errors.lock().unwrap().push(reason);
    }

    fn bytes(&self, _: &Registry, count: u64) {
        self.bytes.fetch_add(count, Ordering::SeqCst);
    }
}

/// How long servers may be silent: long for loopback, short for a test.
pub(crate) const STALL: Duration = Duration::from_secs(1);

/// Short time-outs; everything else as it is.
pub(crate) fn mk_config() -> UpstreamConfig {
    let _ = rustls::crypto::ring::default_provider().install_default();
    UpstreamConfig { stall_timeout: STALL, connect_timeout: STALL, ..UpstreamConfig::default() }
}

pub(crate) fn plain() -> RegistryConfig {
    RegistryConfig { plain_http: true, ..RegistryConfig::default() }
}

/// A configuration in which `server` is a registry without TLS.
pub(crate) fn mk_plain(server: &Server) -> UpstreamConfig {
    let mut config = mk_config();
    config.registries.insert(server.registry.clone(), plain());
    config
}

/// A configuration in which the servers are the endpoints of `registry.test`, in this order.
pub(crate) fn mk_mirrors(endpoints: &[&Registry]) -> UpstreamConfig {
    let mut config = mk_config();
    let endpoints = endpoints.iter().map(|&registry| mk_endpoint(registry)).collect();
    config.registries.insert("registry.test".parse().unwrap(), RegistryConfig { endpoints, ..plain() });
    config
}

pub(crate) fn mk_endpoint(registry: &Registry) -> Endpoint {
    Endpoint { registry: registry.clone(), plain_http: None, prefix: String::new() }
}

pub(crate) fn mk_upstream(config: UpstreamConfig) -> Errand {
    Upstream::new(config, Arc::new(())).unwrap().by(&Requester::Anyone)
}

/// Asks `server` without TLS.
pub(crate) fn mk_for(server: &Server) -> Errand {
    mk_upstream(mk_plain(server))
}

pub(crate) fn repo(registry: &Registry, name: &str) -> Repository {
    Repository::new(registry.clone(), name).unwrap()
}

/// `registry.test/app`.
pub(crate) fn mirrored() -> Repository {
    repo(&"registry.test".parse().unwrap(), "app")
}

pub(crate) fn tag(text: &str) -> Target {
    text.parse().unwrap()
}

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Hasher::digest(Algorithm::Sha256, bytes)
}

/// The rest of a blob, or what it ended with.
pub(crate) async fn read(mut blob: BlobStream) -> Result<Vec<u8>, UpstreamError> {
    let mut all = Vec::new();
    while let Some(chunk) = blob.body.next().await {
        all.extend_from_slice(&chunk?);
    }
    Ok(all)
}

/// Lets time pass at once.
pub(crate) async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// An address where nobody listens.
pub(crate) async fn nobody() -> Registry {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string().parse().unwrap()
}
