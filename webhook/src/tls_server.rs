//! One router behind TLS: bounded, with clients that dawdle cut off, and an end that loses no request.
//!
//! When it is told to stop, a server goes on for a while: endpoints leave a Service some time after the pod is told to end, and until
//! then clients still come. Each answer of that time closes its connection, so that clients find another replica.

use std::future::{Ready, ready};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum_server::Handle;
use axum_server::accept::Accept;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use http::HeaderValue;
use http::header::CONNECTION;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tower_service::Service;

/// The largest head of a request.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Connections that wait for `accept`.
const BACKLOG: i32 = 1024;

/// What clients may take, and how the server ends.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open connections; further ones are closed at once.
    pub connections: usize,
    /// The TLS handshake must be complete after this, and after as much again the head of the first request.
    pub handshake_timeout: Duration,
    /// Each further head must be complete after this, counted from the last answer: idle connections are closed after it. The API
    /// server closes its own after 90 s; to be later than that loses no request to a connection that is just being closed.
    pub header_timeout: Duration,
    /// A client that acknowledges no byte for so long is cut off.
    pub write_timeout: Duration,
    /// How long the server goes on when it is told to stop.
    pub shutdown_delay: Duration,
    /// How long answers may take after that.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(120),
            write_timeout: Duration::from_secs(30),
            shutdown_delay: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// Binds a socket. An unspecified IPv6 address takes IPv4 as well, and becomes the unspecified IPv4 address on a host without IPv6.
///
/// # Errors
/// When the address is taken, or not ours.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match bind_one(address) {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() && is_without_ipv6(&error) => {
            bind_one(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
        }
        bound => bound,
    }
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Kernels without IPv6 refuse the family; those that have it switched off have no such address.
fn is_without_ipv6(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.kind() == io::ErrorKind::Unsupported || error.raw_os_error() == Some(97)
}

/// Serves `router` until `stop`, and then until the delay is over and the running answers are given, or the time to drain is.
///
/// # Errors
/// When the listener cannot be used.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    config: Arc<ServerConfig>,
    limits: Limits,
    stop: CancellationToken,
) -> io::Result<()> {
    let handle = Handle::new();
    let slots = Arc::new(Semaphore::new(limits.connections));
    let tls = RustlsAcceptor::new(RustlsConfig::from_config(config)).handshake_timeout(limits.handshake_timeout);
    let acceptor = tls.acceptor(Bounded { slots, write_timeout: limits.write_timeout });
    let mut server = axum_server::from_tcp(listener)?.acceptor(acceptor).handle(handle.clone()).http1_only();
    server = server.first_request_timeout(limits.handshake_timeout);
    server.http_builder().http1().header_read_timeout(limits.header_timeout).max_buf_size(HEAD_BYTES_MAX);
    let router = router.layer(from_fn_with_state(stop.clone(), close_when_stopping));
    let ending = async {
        stop.cancelled().await;
        tokio::time::sleep(limits.shutdown_delay).await;
        handle.graceful_shutdown(Some(limits.drain_timeout));
        std::future::pending::<()>().await;
    };
    tokio::select! {
        served = server.serve(router.into_make_service()) => served,
        () = ending => Ok(()),
    }
}

async fn close_when_stopping(State(stop): State<CancellationToken>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if stop.is_cancelled() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Counts connections, and tunes their sockets.
#[derive(Debug, Clone)]
struct Bounded {
    slots: Arc<Semaphore>,
    write_timeout: Duration,
}

impl<S> Accept<TcpStream, S> for Bounded {
    type Stream = TcpStream;
    type Service = Counted<S>;
    type Future = Ready<io::Result<(TcpStream, Counted<S>)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        ready(self.admit(stream, service))
    }
}

impl Bounded {
    fn admit<S>(&self, stream: TcpStream, service: S) -> io::Result<(TcpStream, Counted<S>)> {
        let slot = Arc::clone(&self.slots).try_acquire_owned().map_err(io::Error::other)?;
        stream.set_nodelay(true)?;
        // The kernel drops a peer that takes no byte for so long; no timer of ours runs for it.
        socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(self.write_timeout))?;
        Ok((stream, Counted { service, _slot: Arc::new(slot) }))
    }
}

/// A connection's service, which holds the connection's slot.
#[derive(Debug, Clone)]
struct Counted<S> {
    service: S,
    _slot: Arc<OwnedSemaphorePermit>,
}

impl<R, S: Service<R>> Service<R> for Counted<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.service.call(request)
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use rcgen::CertifiedKey;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::{mpsc, oneshot};
    use tokio::task::JoinHandle;

    use super::*;

    struct Server {
        address: SocketAddr,
        client: reqwest::Client,
        stop: CancellationToken,
        task: JoinHandle<io::Result<()>>,
    }

    fn mk_server(router: Router, limits: Limits) -> Server {
        // Another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap();
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let trusted = reqwest::Certificate::from_der(cert.der()).unwrap();
        let client = reqwest::Client::builder().resolve("localhost", address).tls_certs_only([trusted]).build().unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve(listener, router, Arc::new(config), limits, stop.clone()));
        Server { address, client, stop, task }
    }

    impl Server {
        async fn get(&self) -> reqwest::Result<reqwest::Response> {
            self.client.get(format!("https://localhost:{}/", self.address.port())).send().await
        }
    }

    #[tokio::test]
    async fn it_goes_on_for_a_while_and_finishes_what_it_began() {
        let (began, mut begins) = mpsc::channel::<oneshot::Sender<()>>(1);
        let slow = get(async move || {
            let (end, ended) = oneshot::channel();
            began.send(end).await.unwrap();
            ended.await.unwrap();
            "slow"
        });
        let limits = Limits { shutdown_delay: Duration::from_secs(5), ..Limits::default() };
        let server = mk_server(Router::new().route("/slow", slow).route("/", get(|| async { "quick" })), limits);
        assert_eq!(server.get().await.unwrap().headers().get(CONNECTION), None);
        let url = format!("https://localhost:{}/slow", server.address.port());
        let asked = tokio::spawn(server.client.get(url).send());
        let end = begins.recv().await.unwrap();
        server.stop.cancel();
        let answer = server.get().await.unwrap();
        assert_eq!(answer.headers().get(CONNECTION).unwrap(), "close");
        assert_eq!(answer.text().await.unwrap(), "quick");
        // Until the delay is over, connections are taken; then no more.
        while tokio::net::TcpStream::connect(server.address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(!server.task.is_finished());
        end.send(()).unwrap();
        assert_eq!(asked.await.unwrap().unwrap().text().await.unwrap(), "slow");
        server.task.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_answer_that_never_ends_is_cut_off() {
        let limits = Limits { shutdown_delay: Duration::ZERO, drain_timeout: Duration::from_millis(100), ..Limits::default() };
        let (began, mut begins) = mpsc::channel(1);
        let endless = get(async move || {
            began.send(()).await.unwrap();
            std::future::pending::<&str>().await
        });
        let server = mk_server(Router::new().route("/", endless), limits);
        let url = format!("https://localhost:{}/", server.address.port());
        let asked = tokio::spawn(server.client.get(url).send());
        begins.recv().await.unwrap();
        server.stop.cancel();
        server.task.await.unwrap().unwrap();
        assert!(asked.await.unwrap().is_err());
    }

    #[tokio::test]
    async fn clients_that_dawdle_are_cut_off() {
        let limits = Limits { handshake_timeout: Duration::from_millis(100), ..Limits::default() };
        let server = mk_server(Router::new().route("/", get(|| async { "hello" })), limits);
        let mut silent = tokio::net::TcpStream::connect(server.address).await.unwrap();
        silent.write_all(b"\x16\x03\x01").await.unwrap();
        assert_eq!(silent.read(&mut [0; 16]).await.unwrap_or(0), 0);
        server.stop.cancel();
    }

    #[tokio::test]
    async fn connections_beyond_the_limit_are_closed() {
        let limits = Limits { connections: 1, ..Limits::default() };
        let server = mk_server(Router::new().route("/", get(|| async { "hello" })), limits);
        // It stays open in the client's pool.
        assert_eq!(server.get().await.unwrap().text().await.unwrap(), "hello");
        let mut second = tokio::net::TcpStream::connect(server.address).await.unwrap();
        assert_eq!(second.read(&mut [0; 16]).await.unwrap_or(0), 0);
        assert_eq!(server.get().await.unwrap().text().await.unwrap(), "hello");
        server.stop.cancel();
    }

    #[test]
    fn an_unspecified_ipv6_address_takes_ipv4_too() {
        let listener = bind("[::]:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    }
}
