//! Readiness: a latch for each step of start-up. The process is ready when every step has dropped its own.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// The steps that are not done yet. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    /// Held for an insertion, a removal or a copy, never across an await.
    pending: Arc<Mutex<BTreeSet<&'static str>>>,
}

/// Held by a step until it is done.
#[derive(Debug)]
pub struct Latch {
    readiness: Readiness,
    step: &'static str,
}

impl Readiness {
    /// A step that must be done before the process is ready.
    #[must_use]
    pub fn latch(&self, step: &'static str) -> Latch {
        self.lock().insert(step);
        Latch { readiness: self.clone(), step }
    }

    /// The steps that are not done yet.
    #[must_use]
    pub fn pending(&self) -> Vec<&'static str> {
        self.lock().iter().copied().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<&'static str>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Latch {
    fn drop(&mut self) {
        self.readiness.lock().remove(self.step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_when_every_step_is_done() {
        let readiness = Readiness::default();
        let (one, two) = (readiness.latch("one"), readiness.latch("two"));
        assert_eq!(readiness.pending(), ["one", "two"]);
        drop(one);
        assert_eq!(readiness.pending(), ["two"]);
        drop(two);
        assert!(readiness.pending().is_empty());
    }
}
