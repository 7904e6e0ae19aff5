//! Accepting connections: plain or TLS, HTTP/1.1 or HTTP/2, on a port that is kept over stops.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

/// A port that nobody else gets while this lives. Bound and not listening: connections to it are refused.
#[derive(Debug)]
pub(crate) struct Port {
    _reservation: Socket,
    pub(crate) address: SocketAddr,
}

impl Port {
    pub(crate) fn reserve(host: IpAddr) -> io::Result<Self> {
        let socket = bind(SocketAddr::new(host, 0))?;
        let address = socket.local_addr()?.as_socket().expect("a TCP socket must have a socket address");
        Ok(Self { _reservation: socket, address })
    }

    /// A listener on the port. The reservation is no hindrance: both may be reused, and only one listens.
    pub(crate) fn listen(&self) -> io::Result<std::net::TcpListener> {
        let socket = bind(self.address)?;
        socket.listen(1024)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    }
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// How connections are spoken on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Protocol {
    pub(crate) tls: Option<Arc<ServerConfig>>,
}

/// Serves until `stop`; then closes all connections.
pub(crate) async fn serve(listener: std::net::TcpListener, protocol: Protocol, router: Router, stop: CancellationToken) {
    let listener = TcpListener::from_std(listener).expect("a listener must register with the runtime");
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(speak(stream, protocol.clone(), router.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    connections.shutdown().await;
}

async fn speak(stream: TcpStream, protocol: Protocol, router: Router) {
    stream.set_nodelay(true).ok();
    match protocol.tls {
        None => http1(stream, router).await,
        Some(config) => {
            let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else { return };
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") { http2(stream, router).await } else { http1(stream, router).await }
        }
    }
}

async fn http1(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router) {
    let flush = Flush::default();
    let stream = TokioIo::new(Watched { stream, flush: flush.clone() });
    let service = hyper::service::service_fn(move |request| respond(router.clone(), flush.clone(), request));
    hyper::server::conn::http1::Builder::new().max_buf_size(1 << 20).serve_connection(stream, service).await.ok();
}

async fn http2(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router) {
    let service = hyper::service::service_fn(move |request| respond(router.clone(), Flush::never_waits(), request));
    hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await.ok();
}

/// An answer with this extension is not sent; the connection closes instead.
#[derive(Debug, Clone, Copy)]
pub(super) struct HangUp;

async fn respond(mut router: Router, flush: Flush, mut request: Request<Incoming>) -> io::Result<Response> {
    request.extensions_mut().insert(flush);
    let response = match router.call(request.map(axum::body::Body::new)).await {
        Ok(response) => response,
        Err(never) => match never as Infallible {},
    };
    if response.extensions().get::<HangUp>().is_some() {
        return Err(io::Error::other("the connection closes on command"));
    }
    Ok(response)
}

/// Knows whether everything written has left for the socket, so that a break comes after the bytes before it.
#[derive(Debug, Clone, Default)]
pub(super) struct Flush(Arc<AtomicBool>, bool);

impl Flush {
    fn never_waits() -> Self {
        Self(Arc::default(), true)
    }

    pub(super) async fn flushed(&self) {
        self.0.store(self.1, Ordering::SeqCst);
        while !self.0.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// A stream that tells its `Flush` when it has been flushed.
struct Watched<S> {
    stream: S,
    flush: Flush,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_ready() {
            self.flush.0.store(true, Ordering::SeqCst);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
