//! Credential helpers, and the line in the log when one fails.

use std::ffi::OsString;
use std::sync::Arc;

use kuik_crd::credentials::{HelperAnswer, Helpers, Observer};
use tracing::warn;

/// Helpers that run at one time.
const AT_ONCE: usize = 16;

/// Helpers, looked for where `path` or else `PATH` says.
pub(super) fn helpers(path: Option<OsString>) -> Helpers {
    Helpers::new(path, AT_ONCE, Arc::new(Log))
}

/// Tells of failures.
#[derive(Debug)]
struct Log;

impl Observer for Log {
    fn ran(&self, program: &str, server: &str, answer: &HelperAnswer) {
        if let Err(detail) = answer {
            warn!("no credentials from {program} for {server}, going on without: {detail}");
        }
    }
}
