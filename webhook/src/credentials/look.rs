//! One look: which Secrets a namespace has for what it runs on a node, and what is in them for one repository.

use std::cmp::Reverse;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use kuik_crd::control::CREDENTIALS_MAX;
use kuik_crd::credentials::{CredentialsAnswer, Given, Precision};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::cluster::{Cluster, ClusterError, Named, Seen, add};
use super::helpers::{Clouds, Identities};
use super::secret::shortened;
use super::{Found, Refused, Wanted};
use crate::telemetry;
use crate::words::Name;

/// Looks at one time.
const LOOKS_AT_ONCE: usize = 16;

/// Questions of one look at one time.
const QUESTIONS_AT_ONCE: usize = 4;

/// A look is over after this, the wait for a turn included.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// What is looked at for one answer.
const SERVICE_ACCOUNTS_MAX: usize = 20;
const SECRETS_MAX: usize = 50;

/// Lines about problems in one answer.
const PROBLEMS_MAX: usize = 20;

/// An answer is remembered for so long: a Secret that was changed or deleted counts soon.
const REMEMBERED_FOR: Duration = Duration::from_secs(10);

/// One without credentials, or with a helper still running: somebody may be waiting for the Secret that was just made.
const POOR_REMEMBERED_FOR: Duration = Duration::from_secs(2);

/// No answer: the pod may have been scheduled just now.
const REFUSED_REMEMBERED_FOR: Duration = Duration::from_secs(1);

/// What came of a look.
pub(super) type Outcome = Result<Arc<Found>, Refused>;

/// Looks.
#[derive(Debug)]
pub(super) struct Looker {
    cluster: Cluster,
    clouds: Clouds,
    turns: Semaphore,
}

/// What was gathered, before it becomes an answer.
#[derive(Debug, Default)]
struct Gathered {
    credentials: Vec<(Precision, Given)>,
    tried: Vec<String>,
    problems: Vec<String>,
    /// We may not read something that may hold a login. What is missing, malformed or beyond a bound does not count: a namespace could keep
    /// a right by it that it has lost.
    incomplete: bool,
}

/// What one Secret holds for the repository.
#[derive(Debug)]
struct Held {
    credentials: Vec<(Precision, Given)>,
    problems: Vec<String>,
}

/// Why something that a namespace names is of no use.
#[derive(Debug)]
struct Problem {
    line: String,
    /// It says nothing of the namespace: the right to read is ours.
    is_ours: bool,
}

impl Looker {
    pub(super) fn new(cluster: Cluster, clouds: Clouds) -> Self {
        Self { cluster, clouds, turns: Semaphore::new(LOOKS_AT_ONCE) }
    }

    /// What came of it, and for how long that is to be remembered.
    pub(super) async fn look(self: Arc<Self>, wanted: Wanted) -> (Outcome, Duration) {
        let look = async {
            let _turn = self.turns.acquire().await.expect("the semaphore must never be closed");
            self.gather(&wanted).await
        };
        let seconds = LOOK_TIMEOUT.as_secs();
        let late = |_| Err(Refused::Later(format!("the pull secrets were not found within {seconds} s")));
        match timeout(LOOK_TIMEOUT, look).await.unwrap_or_else(late) {
            Ok((found, is_late)) => {
                let is_poor = is_late || found.credentials == 0;
                (Ok(Arc::new(found)), if is_poor { POOR_REMEMBERED_FOR } else { REMEMBERED_FOR })
            }
            Err(refused) => (Err(refused), REFUSED_REMEMBERED_FOR),
        }
    }

    /// What was found, and whether a helper is still running.
    async fn gather(&self, wanted: &Wanted) -> Result<(Found, bool), Refused> {
        let Wanted { namespace, repository, node } = wanted;
        let Some(named) = self.cluster.pods(namespace, node).await.map_err(|error| later(&error))? else {
            return Err(Refused::NoPod { namespace: namespace.clone(), node: Arc::clone(node) });
        };
        let (gathered, identities) = tokio::join!(self.secrets(wanted, named), self.clouds.ask(repository));
        let is_late = identities.is_late;
        Ok((found(gathered.map_err(|error| later(&error))?, identities), is_late))
    }

    /// What the Secrets hold that pods and their service accounts name.
    async fn secrets(&self, wanted: &Wanted, Named { mut secrets, mut service_accounts }: Named) -> Result<Gathered, ClusterError> {
        let mut gathered = Gathered::default();
        bound("service accounts", &mut service_accounts, SERVICE_ACCOUNTS_MAX, &mut gathered.problems);
        for answer in in_order(service_accounts.iter().map(|name| self.service_account(wanted, name)).collect()).await {
            match answer? {
                Ok(names) => add(&mut secrets, names),
                Err(problem) => gathered.note(problem),
            }
        }
        bound("Secrets", &mut secrets, SECRETS_MAX, &mut gathered.problems);
        for answer in in_order(secrets.iter().map(|name| self.secret(wanted, name)).collect()).await {
            match answer? {
                Ok(Held { credentials, problems }) => {
                    gathered.credentials.extend(credentials);
                    gathered.problems.extend(problems);
                }
                Err(problem) => gathered.note(problem),
            }
        }
        gathered.tried = secrets.iter().map(|name| shortened(name)).collect();
        Ok(gathered)
    }

    /// The Secrets that a service account names, or why that is not known.
    async fn service_account(&self, wanted: &Wanted, name: &str) -> Result<Result<Vec<String>, Problem>, ClusterError> {
        let of = format!("service account {}", shortened(name));
        if name.parse::<Name>().is_err() {
            return Ok(Err(Problem::no_name(&of)));
        }
        Ok(match self.cluster.service_account(&wanted.namespace, name).await? {
            Seen::Object(names) => Ok(names),
            Seen::Missing => Err(Problem::missing(&of)),
            Seen::Denied => Err(Problem::denied(&of)),
        })
    }

    /// What one Secret holds, or why that is not known.
    async fn secret(&self, wanted: &Wanted, name: &str) -> Result<Result<Held, Problem>, ClusterError> {
        let from = format!("Secret {}", shortened(name));
        // Kubernetes takes any text in a pod; in a path it could be another namespace's.
        if name.parse::<Name>().is_err() {
            return Ok(Err(Problem::no_name(&from)));
        }
        Ok(match self.cluster.secret(&wanted.namespace, name).await? {
            Seen::Missing => Err(Problem::missing(&from)),
            Seen::Denied => Err(Problem::denied(&from)),
            Seen::Object(secret) => {
                let read = secret.logins(&wanted.repository);
                let given = |(precision, login)| (precision, Given { from: from.clone(), login });
                let problems = read.problems.iter().map(|what| format!("{from}: {what}")).collect();
                Ok(Held { credentials: read.logins.into_iter().map(given).collect(), problems })
            }
        })
    }
}

impl Gathered {
    fn note(&mut self, Problem { line, is_ours }: Problem) {
        self.problems.push(line);
        self.incomplete |= is_ours;
    }
}

impl Problem {
    fn no_name(of: &str) -> Self {
        Self { line: format!("{of}: this is no name of one"), is_ours: false }
    }

    fn missing(of: &str) -> Self {
        Self { line: format!("{of}: it does not exist"), is_ours: false }
    }

    fn denied(of: &str) -> Self {
        Self { line: format!("{of}: kube-image-keeper may not read it"), is_ours: true }
    }
}

/// The answers to some questions, in their order.
async fn in_order<T>(questions: Vec<impl Future<Output = T>>) -> Vec<T> {
    stream::iter(questions).buffered(QUESTIONS_AT_ONCE).collect().await
}

/// The answer: of all Secrets together the most precise entries first, then what helpers gave, each login once.
fn found(gathered: Gathered, identities: Identities) -> Found {
    let Gathered { credentials: mut ranked, tried, mut problems, incomplete } = gathered;
    ranked.sort_by_key(|(precision, _)| Reverse(*precision));
    let room = CREDENTIALS_MAX - identities.credentials.len().min(CREDENTIALS_MAX);
    let mut credentials: Vec<Given> = Vec::new();
    for (_, given) in ranked {
        if credentials.len() < room {
            push_new(&mut credentials, given);
        }
    }
    for given in identities.credentials {
        push_new(&mut credentials, given);
    }
    problems.extend(identities.problems);
    problems.truncate(PROBLEMS_MAX);
    let incomplete = incomplete || identities.incomplete;
    let answer = CredentialsAnswer { credentials, tried, problems, incomplete };
    let json = Bytes::from_owner(answer.to_json());
    let CredentialsAnswer { credentials, tried, problems, incomplete: _ } = answer;
    Found { json, credentials: credentials.len(), tried, problems }
}

fn push_new(credentials: &mut Vec<Given>, given: Given) {
    if credentials.iter().all(|known| known.login != given.login) {
        credentials.push(given);
    }
}

/// Leaves the first `max`, and says so.
fn bound(what: &str, names: &mut Vec<String>, max: usize, problems: &mut Vec<String>) {
    if names.len() > max {
        problems.push(format!("of {} {what} only the first {max} were looked at", names.len()));
        names.truncate(max);
    }
}

fn later(error: &ClusterError) -> Refused {
    Refused::Later(telemetry::chain(error))
}
