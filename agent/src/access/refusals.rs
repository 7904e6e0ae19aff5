//! Who was refused what: the newest of each image and namespace, until somebody has taken note.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kuik_crd::control::{REFUSALS_MAX, Refused};
use tokio::sync::watch;

/// The longest message that is kept, in bytes.
const MESSAGE_BYTES_MAX: usize = 500;

/// Refusals that wait to be told.
#[derive(Debug, Default)]
pub struct Refusals {
    /// Held for an insertion or a copy, never across an await.
    waiting: Mutex<BTreeMap<(String, String), Refused>>,
    /// Counts refusals.
    count: watch::Sender<u64>,
}

impl Refusals {
    pub(super) fn note(&self, mut refused: Refused) {
        let mut end = refused.message.len().min(MESSAGE_BYTES_MAX);
        while !refused.message.is_char_boundary(end) {
            end -= 1;
        }
        refused.message.truncate(end);
        tracing::warn!(
            image = refused.image,
            namespace = refused.namespace,
            reason = refused.reason,
            message = refused.message,
            "refused a private image"
        );
        let mut waiting = self.lock();
        waiting.insert((refused.image.clone(), refused.namespace.clone()), refused);
        if waiting.len() > REFUSALS_MAX
            && let Some(oldest) = waiting.iter().min_by_key(|(_, refused)| refused.at).map(|(key, _)| key.clone())
        {
            waiting.remove(&oldest);
        }
        drop(waiting);
        self.count.send_modify(|count| *count += 1);
    }

    /// All that wait.
    #[must_use]
    pub fn waiting(&self) -> Vec<Refused> {
        self.lock().values().cloned().collect()
    }

    /// These have been told: they go, but for those that are newer.
    pub fn told(&self, told: &[Refused]) {
        let mut waiting = self.lock();
        for refused in told {
            let key = (refused.image.clone(), refused.namespace.clone());
            if waiting.get(&key) == Some(refused) {
                waiting.remove(&key);
            }
        }
    }

    /// Counts refusals.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.count.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), Refused>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_of_each_waits_until_it_was_told() {
        let refusals = Refusals::default();
        let of = |image: &str, at: u64| Refused { image: image.to_owned(), at, message: "é".repeat(400), ..Refused::default() };
        refusals.note(of("a", 1));
        let told = refusals.waiting();
        assert_eq!(told[0].message.len(), MESSAGE_BYTES_MAX);
        refusals.note(of("a", 2));
        refusals.note(of("b", 3));
        refusals.told(&told);
        assert_eq!(refusals.waiting().iter().map(|refused| refused.at).collect::<Vec<_>>(), [2, 3]);
        refusals.told(&refusals.waiting());
        assert!(refusals.waiting().is_empty());
        (0..REFUSALS_MAX + 5).for_each(|n| refusals.note(of(&n.to_string(), n as u64)));
        assert_eq!(refusals.waiting().len(), REFUSALS_MAX);
        assert!(refusals.waiting().iter().all(|refused| refused.at >= 5));
    }
}
