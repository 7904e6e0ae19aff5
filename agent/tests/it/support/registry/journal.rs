//! What an upstream was asked, and how much of each answer went out.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    status: Arc<AtomicU16>,
    sent: Arc<AtomicU64>,
}

impl Seen {
    pub(crate) fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn range(&self) -> Option<&str> {
        self.header(header::RANGE)
    }

    pub(crate) fn authorization(&self) -> Option<&str> {
        self.header(header::AUTHORIZATION)
    }

    /// The status it was answered with; 0 while it is not.
    pub(crate) fn status(&self) -> u16 {
        self.status.load(Ordering::SeqCst)
    }

    /// Bytes of the body that were handed to the connection so far.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    pub(super) fn answered(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    pub(super) fn count_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::SeqCst);
    }
}

/// All requests, in the order of their arrival.
#[derive(Debug, Default)]
pub(super) struct Journal(Mutex<Vec<Seen>>);

impl Journal {
    /// A form that was posted counts as the query.
    pub(super) fn write(&self, parts: &Parts, form: &[u8]) -> Seen {
        let seen = Seen {
            method: parts.method.clone(),
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().map_or_else(|| String::from_utf8_lossy(form).into_owned(), str::to_owned),
            headers: parts.headers.clone(),
            status: Arc::default(),
            sent: Arc::default(),
        };
        self.0.lock().unwrap().push(seen.clone());
        seen
    }

    pub(super) fn read(&self) -> Vec<Seen> {
        self.0.lock().unwrap().clone()
    }

    pub(super) fn clear(&self) {
        self.0.lock().unwrap().clear();
    }
}
