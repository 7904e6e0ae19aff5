//! What went wrong with images, and right again: the newest of each image, until somebody has taken note.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kuik_crd::control::Finding;
use tokio::sync::watch;

use crate::oci::{Image, Repository, Target};
use crate::store::now_seconds;

/// Images with a finding that waits; of more, the oldest go.
const WAITING_MAX: usize = 256;

/// The longest error that is kept, in bytes.
const ERROR_BYTES_MAX: usize = 500;

/// Findings that wait to be told.
#[derive(Debug, Default)]
pub struct Findings {
    /// Held for an insertion or a copy, never across an await.
    state: Mutex<State>,
    /// Counts findings.
    count: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<String, Finding>,
    /// Images whose newest finding is a failure, told or not.
    failing: BTreeSet<String>,
}

impl Findings {
    /// An image could not be fetched.
    pub fn failed(&self, repository: &Repository, target: &Target, error: &str) {
        self.tell(name(repository, target), Some(error));
    }

    /// An image was fetched. That is worth a finding where it failed before.
    pub fn succeeded(&self, repository: &Repository, target: &Target) {
        if self.lock().failing.is_empty() {
            // As good as always.
            return;
        }
        let image = name(repository, target);
        if self.lock().failing.contains(&image) {
            self.tell(image, None);
        }
    }

    /// What became of work on an image.
    pub fn tell(&self, image: String, error: Option<&str>) {
        let mut state = self.lock();
        if error.is_some() {
            if state.failing.len() < WAITING_MAX {
                state.failing.insert(image.clone());
            }
        } else {
            state.failing.remove(&image);
        }
        let error = error.map(|error| cut(error).to_owned());
        state.waiting.insert(image.clone(), Finding { image, at: now_seconds(), error });
        if state.waiting.len() > WAITING_MAX {
            let oldest = state.waiting.values().min_by_key(|finding| finding.at).map(|finding| finding.image.clone());
            oldest.and_then(|oldest| state.waiting.remove(&oldest));
        }
        drop(state);
        self.count.send_modify(|count| *count += 1);
    }

    /// All that wait.
    #[must_use]
    pub fn waiting(&self) -> Vec<Finding> {
        self.lock().waiting.values().cloned().collect()
    }

    /// These have been told; what was found since still waits.
    pub fn told(&self, findings: &[Finding]) {
        let mut state = self.lock();
        for finding in findings {
            if state.waiting.get(&finding.image) == Some(finding) {
                state.waiting.remove(&finding.image);
            }
        }
    }

    /// Ticks whenever something is found.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.count.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name(repository: &Repository, target: &Target) -> String {
    let (tag, digest) = match target {
        Target::Tag(tag) => (Some(tag.clone()), None),
        Target::Digest(digest) => (None, Some(*digest)),
    };
    Image::new(repository.clone(), tag, digest).to_string()
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(ERROR_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(text: &str) -> (Repository, Target) {
        let image: Image = text.parse().unwrap();
        (image.repository().clone(), image.target())
    }

    #[test]
    fn the_newest_of_each_image_waits_until_it_was_told() {
        let findings = Findings::default();
        let (repository, target) = image("nginx");
        findings.succeeded(&repository, &target);
        assert!(findings.waiting().is_empty(), "success alone is no news");
        findings.failed(&repository, &target, "down");
        let told = findings.waiting();
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].image.as_str(), told[0].error.as_deref()), ("docker.io/library/nginx:latest", Some("down")));
        findings.succeeded(&repository, &target);
        findings.told(&told);
        assert_eq!(findings.waiting().iter().map(|finding| finding.error.clone()).collect::<Vec<_>>(), [None]);
        findings.told(&findings.waiting());
        findings.succeeded(&repository, &target);
        assert!(findings.waiting().is_empty());
    }

    #[test]
    fn they_are_bounded() {
        let findings = Findings::default();
        for number in 0..WAITING_MAX + 10 {
            let (repository, target) = image(&format!("nginx:{number}"));
            findings.failed(&repository, &target, &"é".repeat(1000));
        }
        assert_eq!(findings.waiting().len(), WAITING_MAX);
        assert!(findings.waiting().iter().all(|finding| finding.error.as_ref().unwrap().len() <= ERROR_BYTES_MAX));
        assert!(findings.lock().failing.len() <= WAITING_MAX);
    }
}
