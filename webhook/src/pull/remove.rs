//! What mode `none` does: removes what mode `namespace` has left, once for each time that this replica leads.

use std::time::Duration;

use futures_util::stream::iter;
use futures_util::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ListParams, Preconditions};
use kube::{Api, Client, ResourceExt as _};
use kuik_crd::pull_token::SECRET_NAME;
use tokio::time::sleep;

use super::secret::read;
use crate::naming::Names;

/// Secrets of one answer.
const PAGE: u32 = 500;

/// Requests at the same time.
const CONCURRENT_MAX: usize = 4;

/// How often it is tried,
const ATTEMPTS: u32 = 8;

/// with this pause at first, and twice that each time.
const PAUSE: Duration = Duration::from_secs(1);

/// Removes the Secrets of namespaces and of the keys. What cannot be removed stays: it does no harm, since nobody asks for tokens.
pub(super) async fn remove_all(client: &Client, names: &Names) {
    for attempt in 0..ATTEMPTS {
        match remove(client, names).await {
            Ok(0) => return tracing::debug!("there are no pull tokens to remove"),
            Ok(count) => return tracing::info!(count, "removed {count} Secrets of pull tokens: auth.mode is none"),
            Err(kube::Error::Api(status)) if status.code == 403 => {
                return tracing::info!("pull tokens that mode namespace may have left stay: there is no right to look for them");
            }
            Err(error) => {
                tracing::warn!(%error, attempt, "the pull tokens that mode namespace has left cannot be removed");
                sleep(PAUSE * 2_u32.pow(attempt)).await;
            }
        }
    }
}

async fn remove(client: &Client, names: &Names) -> Result<usize, kube::Error> {
    let mut removed = 0;
    let mut page = ListParams::default().fields(&format!("metadata.name={SECRET_NAME}")).limit(PAGE);
    loop {
        let found = Api::<Secret>::all(client.clone()).list(&page).await?;
        // The host is of no matter for whose a Secret is.
        let ours = found.items.iter().filter(|secret| read(secret, "").1.is_some_and(|secret| secret.is_ours));
        let ours: Vec<(String, Preconditions)> = ours
            .map(|secret| (secret.namespace().unwrap_or_default(), Preconditions { uid: secret.uid(), resource_version: None }))
            .collect();
        removed += ours.len();
        iter(ours)
            .map(|(namespace, only)| async move { delete(client, &namespace, SECRET_NAME, Some(only)).await })
            .buffer_unordered(CONCURRENT_MAX)
            .try_collect::<Vec<bool>>()
            .await?;
        match found.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => break,
        }
    }
    Ok(removed + usize::from(delete(client, &names.namespace, &names.pull_keys_secret(), None).await?))
}

/// `false` if it is not there, or not the one that is meant.
async fn delete(client: &Client, namespace: &str, name: &str, only: Option<Preconditions>) -> Result<bool, kube::Error> {
    let params = DeleteParams { preconditions: only, ..DeleteParams::default() };
    match Api::<Secret>::namespaced(client.clone(), namespace).delete(name, &params).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
        Err(error) => Err(error),
    }
}
