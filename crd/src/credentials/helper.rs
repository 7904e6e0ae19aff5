//! Credential helpers: `docker-credential-<name> get`, the server on stdin, JSON on stdout.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use moka::sync::Cache;
use secrecy::ExposeSecret as _;
use secrecy::zeroize::Zeroizing;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, timeout};

use super::expiry::expires_at;
use super::login::{Hidden, Login};

/// A helper must have answered after this; a turn to run must have come after this, too.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Its answer is good for so long, if it does not say itself for how long.
const ANSWER_TTL: Duration = Duration::from_secs(300);
/// The longest that an answer is believed to be good.
const ANSWER_TTL_MAX: Duration = Duration::from_secs(3600);
/// An answer is not used in its last moments.
const EXPIRY_MARGIN: Duration = Duration::from_secs(60);
/// After a failure, and an answer that has expired already, it is asked again after this.
const FAILURE_TTL: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 64 << 10;
const SERVERS_MAX: u64 = 1024;
/// What every helper says when it has nothing, by the protocol's reference implementation.
const NOT_FOUND: &[u8] = b"credentials not found in native keychain";

/// What a helper said: a login, that it has none, or what went wrong, without any of its words.
pub type HelperAnswer = Result<Option<Login>, String>;

/// Is told what helpers did. For the log and metrics.
pub trait Observer: Send + Sync + fmt::Debug {
    /// A helper ran, or could not.
    fn ran(&self, program: &str, server: &str, answer: &HelperAnswer);
}

#[derive(Debug, Clone)]
struct Kept {
    answer: HelperAnswer,
    until: Instant,
}

/// The lock is held while the helper runs, so that it runs once for all who wait.
type Slot = Arc<Mutex<Option<Kept>>>;

/// Asks helpers and remembers what they said.
#[derive(Debug)]
pub struct Helpers {
    /// By command and server.
    answers: Cache<(Vec<String>, String), Slot>,
    turns: Semaphore,
    /// Where the programs are, if not where `PATH` says.
    path: Option<OsString>,
    observer: Arc<dyn Observer>,
}

impl Helpers {
    /// At most `at_once` run at one time. `path` is where they are, if not where `PATH` says.
    #[must_use]
    pub fn new(path: Option<OsString>, at_once: usize, observer: Arc<dyn Observer>) -> Self {
        Self { answers: Cache::new(SERVERS_MAX), turns: Semaphore::new(at_once), path, observer }
    }

    /// The login for `server`, from memory or from the helper. `command` is the program and what it is given before the word `get`.
    ///
    /// # Cancel safety
    /// A caller that goes away ends the helper; the next who waits starts it again.
    ///
    /// # Errors
    /// Why there is no answer, for people.
    pub async fn get(&self, command: &[String], server: &str) -> HelperAnswer {
        let slot = self.answers.get_with((command.to_vec(), server.to_owned()), Arc::default);
        let mut slot = slot.lock().await;
        if let Some(kept) = slot.as_ref().filter(|kept| kept.until > Instant::now()) {
            return kept.answer.clone();
        }
        let answer = self.ask(command, server).await;
        let program = command.first().map_or("", String::as_str);
        self.observer.ran(program, server, &answer);
        *slot = Some(Kept { answer: answer.clone(), until: Instant::now() + good_for(&answer, SystemTime::now()) });
        answer
    }

    /// The configuration has changed.
    pub fn forget(&self) {
        self.answers.invalidate_all();
    }

    async fn ask(&self, command: &[String], server: &str) -> HelperAnswer {
        let seconds = ANSWER_TIMEOUT.as_secs();
        let Ok(turn) = timeout(ANSWER_TIMEOUT, self.turns.acquire()).await else {
            return Err(format!("too many helpers ran for {seconds} s"));
        };
        let _turn = turn.expect("the semaphore must never be closed");
        let answer = timeout(ANSWER_TIMEOUT, run(command, server, self.path.as_deref())).await;
        answer.unwrap_or_else(|_| Err(format!("no answer within {seconds} s")))
    }
}

/// How long what a helper said is used.
fn good_for(answer: &HelperAnswer, now: SystemTime) -> Duration {
    let secret = match answer {
        Ok(Some(Login::Password { password: secret, .. } | Login::Identity(secret))) => secret.expose_secret(),
        Ok(None) => return ANSWER_TTL,
        Err(_) => return FAILURE_TTL,
    };
    expires_at(secret).map_or(ANSWER_TTL, |at| {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        Duration::from_secs(at).saturating_sub(now + EXPIRY_MARGIN).clamp(FAILURE_TTL, ANSWER_TTL_MAX)
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: Hidden,
}

async fn run(command: &[String], server: &str, path: Option<&OsStr>) -> HelperAnswer {
    let (program, arguments) = command.split_first().ok_or("no program is named")?;
    let mut child = Command::new(program)
        .args(arguments)
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
    // With room for all of it from the start, no copy is left behind in memory that was given back.
    let mut output = Zeroizing::new(Vec::with_capacity(2 * ANSWER_BYTES_MAX));
    stdout.take(ANSWER_BYTES_MAX as u64).read_to_end(&mut output).await.map_err(|error| format!("its answer cannot be read: {error}"))?;
    let status = child.wait().await.map_err(|error| format!("it cannot be awaited: {error}"))?;
    if !status.success() {
        return if output.trim_ascii() == NOT_FOUND { Ok(None) } else { Err(format!("it ended with {status}")) };
    }
    // The parser's own text may quote a secret.
    let answer: Answer = serde_json::from_slice(&output).map_err(|_| "its answer is not the JSON of the protocol".to_owned())?;
    let Answer { username, secret: Hidden(secret) } = answer;
    if username.is_empty() && secret.expose_secret().is_empty() {
        return Ok(None);
    }
    Ok(Some(Login::new(username, secret)))
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    #[test]
    fn an_answer_is_used_until_shortly_before_it_expires() {
        let now = 1_700_000_000;
        let check = |secret: &str, seconds: u64| {
            let answer = Ok(Some(Login::new("u".to_owned(), secret.into())));
            let found = good_for(&answer, UNIX_EPOCH + Duration::from_secs(now));
            assert_eq!(found, Duration::from_secs(seconds), "{secret}");
        };
        let until = |at: u64| STANDARD.encode(format!("{{\"expiration\":{at}}}"));
        check("password", 300);
        check(&until(now + 1000), 940);
        check(&until(now + 12 * 3600), 3600);
        check(&until(now + 61), 10);
        check(&until(now - 1), 10);
        check(&until(u64::MAX), 3600);
        assert_eq!(good_for(&Ok(None), UNIX_EPOCH), ANSWER_TTL);
        assert_eq!(good_for(&Err(String::new()), UNIX_EPOCH), FAILURE_TTL);
    }
}
