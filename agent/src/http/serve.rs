//! Sockets: accepting within bounds, cutting off slow clients, and an orderly end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The largest head of a request. Longer ones get 431.
const HEAD_BYTES_MAX: usize = 64 << 10;
const HEADERS_MAX: usize = 100;

/// How long accepting pauses when the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a client may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open connections of all listeners of a server together.
    pub connections: usize,
    /// A head must be complete after this; an idle connection is closed after it.
    pub header_timeout: Duration,
    /// A client that acknowledges no byte for so long is cut off.
    pub write_timeout: Duration,
}

/// One router on some sockets.
#[derive(Debug)]
pub struct Server {
    tasks: TaskTracker,
    /// No new connection and no new request.
    stop: CancellationToken,
    /// No further byte.
    abort: CancellationToken,
}

impl Server {
    /// Serves `router` on each of the listeners.
    pub fn start(listeners: Vec<TcpListener>, router: &Router, limits: &Limits, open: &Gauge) -> Self {
        let server = Self { tasks: TaskTracker::new(), stop: CancellationToken::new(), abort: CancellationToken::new() };
        let slots = Arc::new(Semaphore::new(limits.connections));
        for listener in listeners {
            let accept = Accept {
                router: router.clone(),
                limits: limits.clone(),
                slots: Arc::clone(&slots),
                open: open.clone(),
                tasks: server.tasks.clone(),
                stop: server.stop.clone(),
                abort: server.abort.clone(),
            };
            server.tasks.spawn(accept.run(listener));
        }
        server.tasks.close();
        server
    }

    /// Stops accepting, lets running answers finish until the deadline, then cuts off the rest. `true` if nothing had to be cut off.
    pub async fn stop(self, deadline: tokio::time::Instant) -> bool {
        self.stop.cancel();
        let drained = tokio::time::timeout_at(deadline, self.tasks.wait()).await.is_ok();
        self.abort.cancel();
        self.tasks.wait().await;
        drained
    }
}

struct Accept {
    router: Router,
    limits: Limits,
    slots: Arc<Semaphore>,
    open: Gauge,
    tasks: TaskTracker,
    stop: CancellationToken,
    abort: CancellationToken,
}

impl Accept {
    async fn run(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = self.accept(&listener) => accepted,
            };
            match accepted {
                Ok((stream, peer, slot)) => {
                    let connection = self.connection(stream, peer);
                    self.tasks.spawn(async move {
                        connection.await;
                        drop(slot);
                    });
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "no connection can be accepted at the moment");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Waits for a free slot first: connections beyond the limit stay in the kernel's queue.
    async fn accept(&self, listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
        let slot = Arc::clone(&self.slots).acquire_owned().await.map_err(io::Error::other)?;
        let (stream, peer) = listener.accept().await?;
        Ok((stream, peer, slot))
    }

    fn connection(&self, stream: TcpStream, peer: SocketAddr) -> impl Future<Output = ()> + Send + 'static {
        if let Err(error) = self.tune(&stream) {
            tracing::debug!(%peer, %error, "a socket option cannot be set");
        }
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .half_close(false);
        let serving = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(self.router.clone()));
        let (stop, abort, open) = (self.stop.clone(), self.abort.clone(), self.open.clone());
        let open = OpenConnection::count(open);
        async move {
            let _open = open;
            tokio::pin!(serving);
            let mut stopping = false;
            let result = loop {
                tokio::select! {
                    result = serving.as_mut() => break result,
                    () = stop.cancelled(), if !stopping => {
                        stopping = true;
                        serving.as_mut().graceful_shutdown();
                    }
                    () = abort.cancelled() => {
                        tracing::warn!(%peer, "cut off a client that was not done when the time to drain was over");
                        break Ok(());
                    }
                }
            };
            if let Err(error) = result {
                tracing::debug!(%peer, error = %crate::telemetry::chain(&error), "a connection ended early");
            }
        }
    }

    /// `TCP_USER_TIMEOUT` makes the kernel drop a peer that takes no byte for so long; no timer of ours runs for it.
    fn tune(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        socket2::SockRef::from(stream).set_tcp_user_timeout(Some(self.limits.write_timeout))
    }
}

/// Counts a connection as long as it lives, however it ends.
struct OpenConnection(Gauge);

impl OpenConnection {
    fn count(open: Gauge) -> Self {
        open.inc();
        Self(open)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Errors of `accept` that concern the connection and not the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::ConnectionAborted | Kind::ConnectionReset | Kind::ConnectionRefused | Kind::Interrupted)
}
