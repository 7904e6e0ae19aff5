//! Credential helpers: who we are at registries of clouds, for every namespace alike.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use kuik_crd::Repository;
use kuik_crd::credentials::{Given, HelperAnswer, Helpers, Observer, server_of};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::Metrics;
use super::metrics::ResultLabels;
use crate::config::CredentialHelper;

/// Helpers that run at one time.
const AT_ONCE: usize = 4;

/// Helpers that are asked for one repository.
const MATCHED_MAX: usize = 4;

/// What was found is not held up by a helper for longer than this. The helper runs on, and is heard by who asks next.
const WAIT_MAX: Duration = Duration::from_secs(3);

/// The helpers of the settings.
#[derive(Debug)]
pub(super) struct Clouds {
    /// The most precise first.
    list: Vec<CredentialHelper>,
    helpers: Arc<Helpers>,
    /// Helpers that are being asked. Each ends by itself: a helper has a time-out.
    tasks: TaskTracker,
}

/// What helpers gave for a repository.
#[derive(Debug, Default)]
pub(super) struct Identities {
    pub(super) credentials: Vec<Given>,
    pub(super) problems: Vec<String>,
    /// One of them has not answered yet.
    pub(super) is_late: bool,
    /// One of them failed or has not answered yet: it may know a login all the same.
    pub(super) incomplete: bool,
}

impl Clouds {
    /// Programs are looked for in `path`, or where the environment's `PATH` says.
    pub(super) fn new(mut list: Vec<CredentialHelper>, path: Option<OsString>, metrics: Metrics) -> Self {
        list.sort_by_key(|helper| std::cmp::Reverse(helper.scope.precision()));
        Self { list, helpers: Arc::new(Helpers::new(path, AT_ONCE, Arc::new(Told(metrics)))), tasks: TaskTracker::new() }
    }

    /// Asks the helpers that are for a repository, all at once.
    pub(super) async fn ask(&self, repository: &Repository) -> Identities {
        let matching = self.list.iter().filter(|helper| helper.scope.covers(&repository.registry, &repository.name));
        let answers = join_all(matching.take(MATCHED_MAX).map(|helper| self.one(helper, server_of(&repository.registry)))).await;
        let mut given = Identities::default();
        for (program, answer) in answers {
            match answer {
                Some(Ok(login)) => {
                    given.credentials.extend(login.map(|login| Given { from: format!("credential helper {program}"), login }));
                }
                Some(Err(detail)) => {
                    given.incomplete = true;
                    given.problems.push(format!("{program}: {detail}"));
                }
                None => {
                    (given.is_late, given.incomplete) = (true, true);
                    given.problems.push(format!("{program}: it has not answered within {} s yet", WAIT_MAX.as_secs()));
                }
            }
        }
        given
    }

    /// The program's name, and what it says; nothing if that takes too long.
    async fn one(&self, helper: &CredentialHelper, server: String) -> (String, Option<HelperAnswer>) {
        let (helpers, command) = (Arc::clone(&self.helpers), helper.command.clone());
        let asked = self.tasks.spawn(async move { helpers.get(&command, &server).await });
        let answer = match timeout(WAIT_MAX, asked).await {
            Ok(answer) => Some(answer.unwrap_or_else(|_| Err("asking it failed, which is a defect of the webhook".to_owned()))),
            Err(_) => None,
        };
        (name(&helper.command), answer)
    }
}

/// The name of a command's program, without where it is.
fn name(command: &[String]) -> String {
    let program = command.first().map_or("", String::as_str);
    Path::new(program).file_name().map_or_else(|| program.to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Counts, and logs failures.
#[derive(Debug)]
struct Told(Metrics);

impl Observer for Told {
    fn ran(&self, program: &str, server: &str, answer: &HelperAnswer) {
        let result = match answer {
            Ok(Some(_)) => "answered",
            Ok(None) => "none",
            Err(reason) => {
                tracing::warn!(program, server, reason, "a credential helper failed");
                "failed"
            }
        };
        self.0.helper_runs.get_or_create(&ResultLabels { result }).inc();
    }
}
