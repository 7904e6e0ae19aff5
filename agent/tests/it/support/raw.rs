//! A client without manners: bytes over TCP.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::wait::soon;

/// A connection on which anything may be sent.
#[derive(Debug)]
pub(crate) struct Raw(TcpStream);

impl Raw {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self(soon("a connection", TcpStream::connect(address)).await.unwrap())
    }

    /// Sends bytes; a peer that does not take them any more is no failure.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.ok();
    }

    /// Everything until the peer closes, by a reset too.
    pub(crate) async fn read_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        soon("the peer to close", async { while self.0.read_buf(&mut bytes).await.is_ok_and(|count| count > 0) {} }).await;
        bytes
    }

    /// Everything until the text `end` was read; panics if the peer closes before.
    pub(crate) async fn read_until(&mut self, end: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        soon(end, async {
            while !bytes.windows(end.len()).any(|window| window == end.as_bytes()) {
                let count = self.0.read_buf(&mut bytes).await.unwrap();
                assert!(count > 0, "the peer closed after {:?}", String::from_utf8_lossy(&bytes));
            }
        })
        .await;
        bytes
    }

    /// Says that nothing more comes.
    pub(crate) async fn finish(&mut self) {
        self.0.shutdown().await.ok();
    }
}

/// What comes back when `bytes` are sent on a connection of their own, until the peer closes.
pub(crate) async fn exchange(address: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    let mut raw = Raw::connect(address).await;
    raw.send(bytes).await;
    String::from_utf8_lossy(&raw.read_to_end().await).into_owned()
}

/// The status of an answer as it came; 0 for none.
pub(crate) fn status_of(answer: &str) -> u16 {
    answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|status| status.parse().ok()).unwrap_or(0)
}
