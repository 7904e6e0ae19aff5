//! A point that nothing passes until the test says so.

use tokio::sync::watch;

use crate::support::wait::soon;

/// Holds whoever arrives until it is opened; once open it stays open.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    open: watch::Sender<bool>,
    arrived: watch::Sender<usize>,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self { open: watch::Sender::new(false), arrived: watch::Sender::new(0) }
    }

    pub(crate) fn open(&self) {
        self.open.send_replace(true);
    }

    /// Returns when somebody stands before the gate, or passed it.
    pub(crate) async fn reached(&self) {
        self.reached_by(1).await;
    }

    /// Returns when so many have arrived.
    pub(crate) async fn reached_by(&self, count: usize) {
        let mut arrived = self.arrived.subscribe();
        soon("an answer to reach its gate", arrived.wait_for(|arrived| *arrived >= count)).await.unwrap();
    }

    pub(super) async fn pass(&self) {
        self.arrived.send_modify(|arrived| *arrived += 1);
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
    }
}
