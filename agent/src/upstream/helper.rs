//! Credential helpers: `docker-credential-<name> get`, the server on stdin, JSON on stdout.

use std::ffi::{OsStr, OsString};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::warn;

use super::credentials::Credential;
use super::docker_config::basic;

/// A helper must have answered after this.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Its answer is good for so long.
const ANSWER_TTL: Duration = Duration::from_secs(300);
/// After a failure it is asked again after this.
const FAILURE_TTL: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: u64 = 64 << 10;
const SERVERS_MAX: u64 = 1024;
/// What every helper says when it has nothing, by the protocol's reference implementation.
const NOT_FOUND: &str = "credentials not found in native keychain";

/// What a helper said: a credential, that it has none, or what went wrong.
pub(super) type HelperAnswer = Result<Option<Credential>, String>;

#[derive(Debug, Clone)]
struct Kept {
    answer: HelperAnswer,
    until: Instant,
}

/// Asks helpers and remembers what they said.
#[derive(Debug)]
pub(super) struct Helpers {
    /// By helper and server. The lock is held while the helper runs, so that it runs once for all who wait.
    answers: Cache<(String, String), Arc<Mutex<Option<Kept>>>>,
    /// Where the programs are, if not where `PATH` says.
    path: Option<OsString>,
}

impl Helpers {
    pub(super) fn new(path: Option<OsString>) -> Self {
        Self { answers: Cache::new(SERVERS_MAX), path }
    }

    /// The credential for `server`, from memory or from the helper.
    ///
    /// # Cancel safety
    /// A caller that goes away ends the helper; the next who waits starts it again.
    pub(super) async fn get(&self, helper: &str, server: &str) -> HelperAnswer {
        let slot = self.answers.get_with((helper.to_owned(), server.to_owned()), Arc::default);
        let mut slot = slot.lock().await;
        if let Some(kept) = slot.as_ref().filter(|kept| kept.until > Instant::now()) {
            return kept.answer.clone();
        }
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, run(helper, server, self.path.as_deref()))
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())));
        if let Err(detail) = &answer {
            warn!("no credentials from docker-credential-{helper} for {server}, going on without: {detail}");
        }
        let ttl = if answer.is_ok() { ANSWER_TTL } else { FAILURE_TTL };
        *slot = Some(Kept { answer: answer.clone(), until: Instant::now() + ttl });
        answer
    }

    /// The configuration has changed.
    pub(super) fn forget(&self) {
        self.answers.invalidate_all();
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

async fn run(helper: &str, server: &str, path: Option<&OsStr>) -> HelperAnswer {
    let mut child = Command::new(format!("docker-credential-{helper}"))
        .arg("get")
        .envs(path.map(|path| ("PATH", path)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("it cannot be started: {error}"))?;
    let mut stdin = child.stdin.take().expect("stdin must be there: it was asked for");
    let stdout = child.stdout.take().expect("stdout must be there: it was asked for");
    // A helper that does not read its input is no failure by itself.
    let _ = stdin.write_all(server.as_bytes()).await;
    drop(stdin);
    let mut output = Vec::new();
    stdout.take(ANSWER_BYTES_MAX).read_to_end(&mut output).await.map_err(|error| format!("its answer cannot be read: {error}"))?;
    let status = child.wait().await.map_err(|error| format!("it cannot be awaited: {error}"))?;
    if !status.success() {
        let said = String::from_utf8_lossy(&output);
        return if said.trim() == NOT_FOUND { Ok(None) } else { Err(format!("it ended with {status}")) };
    }
    // The parser's own text may quote a secret.
    let answer: Answer = serde_json::from_slice(&output).map_err(|_| "its answer is not the JSON of the protocol".to_owned())?;
    if answer.username.is_empty() && answer.secret.is_empty() {
        return Ok(None);
    }
    Ok(Some(basic(&answer.username, &answer.secret)))
}
