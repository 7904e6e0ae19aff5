//! Pull secrets of namespaces, asked for when they are needed. They are in memory only.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use kuik_crd::control::CredentialsRequest;
use kuik_crd::credentials::CredentialsAnswer;

use super::Parts;
use crate::access::{NoSecrets, Secrets, Wallet};
use crate::oci::Repository;
use crate::telemetry;

/// The control API, as the one who has pull secrets.
#[derive(Debug)]
pub(super) struct Purse {
    pub(super) parts: Arc<Parts>,
}

impl Wallet for Purse {
    fn fetch(&self, namespace: Arc<str>, repository: Repository) -> BoxFuture<'_, Result<Secrets, NoSecrets>> {
        Box::pin(async move {
            let request = CredentialsRequest { namespace: namespace.to_string(), repository: repository.to_string() };
            match self.parts.client.credentials(&request).await {
                Ok(answer) => {
                    self.parts.link.succeeded("credentials");
                    let CredentialsAnswer { credentials, tried, problems, incomplete } = answer;
                    let (shown, logins) = credentials.into_iter().map(|credential| (credential.from, credential.login)).unzip();
                    Ok(Secrets { logins, shown, tried, problems, incomplete })
                }
                Err(error) => {
                    if !error.is_refusal() {
                        self.parts.link.failed("credentials", &error);
                    }
                    let why = telemetry::chain(&error);
                    Err(if error.is_forbidden() { NoSecrets::Refused(why) } else { NoSecrets::Away(why) })
                }
            }
        })
    }
}
