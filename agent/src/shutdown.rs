//! The signal to stop.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// Ends at SIGTERM or SIGINT.
///
/// # Errors
/// When the signals cannot be listened to.
pub async fn requested() -> io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}
