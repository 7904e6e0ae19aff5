//! Which requests go wrong, and how.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::Method;
use kuik_crd::Digest;

use super::gate::Gate;
use super::journal::Seen;

/// Picks requests: to be counted, or to go wrong.
#[derive(Debug, Clone)]
pub(crate) struct On {
    method: Option<Method>,
    path: Path,
}

#[derive(Debug, Clone)]
enum Path {
    Any,
    Is(String),
    Begins(String),
    Ends(String),
    Contains(&'static str),
}

impl On {
    fn new(path: Path) -> Self {
        Self { method: None, path }
    }

    pub(crate) fn any() -> Self {
        Self::new(Path::Any)
    }

    pub(crate) fn path(path: impl Into<String>) -> Self {
        Self::new(Path::Is(path.into()))
    }

    /// Everything about one repository.
    pub(crate) fn repository(name: &str) -> Self {
        Self::new(Path::Begins(format!("/v2/{name}/")))
    }

    /// A manifest by what it is asked for by.
    pub(crate) fn manifest(repository: &str, reference: impl std::fmt::Display) -> Self {
        Self::path(format!("/v2/{repository}/manifests/{reference}"))
    }

    pub(crate) fn manifests() -> Self {
        Self::new(Path::Contains("/manifests/"))
    }

    /// A blob, in whatever repository.
    pub(crate) fn blob(digest: &Digest) -> Self {
        Self::new(Path::Ends(format!("/blobs/{digest}")))
    }

    pub(crate) fn blobs() -> Self {
        Self::new(Path::Contains("/blobs/"))
    }

    /// What redirects point to; see `FakeRegistry::cdn_url`.
    pub(crate) fn cdn() -> Self {
        Self::new(Path::Begins("/cdn/".to_owned()))
    }

    pub(crate) fn token() -> Self {
        Self::path("/token")
    }

    pub(crate) fn get(mut self) -> Self {
        self.method = Some(Method::GET);
        self
    }

    pub(crate) fn head(mut self) -> Self {
        self.method = Some(Method::HEAD);
        self
    }

    pub(super) fn picks(&self, seen: &Seen) -> bool {
        let path = seen.path.as_str();
        self.method.as_ref().is_none_or(|method| *method == seen.method)
            && match &self.path {
                Path::Any => true,
                Path::Is(text) => path == text,
                Path::Begins(text) => path.starts_with(text),
                Path::Ends(text) => path.ends_with(text),
                Path::Contains(text) => path.contains(text),
            }
    }
}

/// One way to misbehave. Several for one request add up; byte positions are those of the answer that is sent.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Answers with the status and an error body.
    Status(u16),
    /// Answers with the status and this header.
    StatusWith(u16, &'static str, String),
    /// Answers `200` with this type and text, whatever was asked for.
    Body(&'static str, String),
    /// Answers `307` with this `Location`.
    Redirect(String),
    /// Answers with the status and this `Location`.
    RedirectWith(u16, String),
    /// Never answers.
    Hang,
    /// Answers when the gate is opened.
    HoldHead(Gate),
    /// Closes the connection instead of answering.
    BreakHead,

    /// Sends so many bytes, then goes on when the gate is opened.
    HoldBody(usize, Gate),
    /// Sends so many bytes, then nothing any more.
    StallAfter(usize),
    /// Sends so many bytes, then closes the connection.
    BreakAfter(usize),
    /// Sends so many bytes at a time and pauses in between.
    Trickle(usize, Duration),
    /// Sends another first byte.
    FlipFirst,
    /// Sends another last byte.
    FlipLast,
    /// Sends less than there is, and says so.
    CutLast(usize),
    /// Sends more than there is, and says so.
    Append(usize),

    /// Sends the whole whatever range is asked for.
    NoRange,
    /// Answers a range with one that begins so many bytes later.
    ShiftRange(usize),
    /// Does not say how much will come.
    NoLength,
    /// Leaves `Docker-Content-Digest` out.
    NoDigest,
    /// Sends this `Docker-Content-Digest`.
    SayDigest(String),
    /// Leaves `Content-Type` out.
    NoType,
    /// Adds a header.
    Header(&'static str, String),
}

#[derive(Debug)]
struct Rule {
    id: u64,
    on: On,
    fault: Fault,
    left: Option<usize>,
}

/// The faults in force.
#[derive(Debug, Default)]
pub(super) struct Faults {
    rules: Mutex<Vec<Rule>>,
    next_id: AtomicU64,
}

impl Faults {
    pub(super) fn add(&self, on: On, fault: Fault, times: Option<usize>) -> u64 {
        let id = self.next_id.fetch_add(1, Ordering::SeqCst);
        self.rules.lock().unwrap().push(Rule { id, on, fault, left: times });
        id
    }

    pub(super) fn remove(&self, id: u64) {
        self.rules.lock().unwrap().retain(|rule| rule.id != id);
    }

    pub(super) fn clear(&self) {
        self.rules.lock().unwrap().clear();
    }

    /// The faults for a request; those that were for so many requests are used up by it.
    pub(super) fn take(&self, seen: &Seen) -> Vec<Fault> {
        let mut rules = self.rules.lock().unwrap();
        let mut taken = Vec::new();
        for rule in rules.iter_mut().filter(|rule| rule.on.picks(seen)) {
            if let Some(left) = &mut rule.left {
                *left -= 1;
            }
            taken.push(rule.fault.clone());
        }
        rules.retain(|rule| rule.left != Some(0));
        taken
    }
}
