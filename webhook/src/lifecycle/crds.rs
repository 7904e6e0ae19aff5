//! Brings the definitions of our objects up to date: Helm installs them once and never updates them, and kuik v1 may have left its own.
//!
//! They are not created here, which would take a role over all definitions: that is Helm's part.

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use kuik_crd::crds;
use kuik_crd::names::SCHEMA_ANNOTATION;
use serde_json::json;
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

/// Who applies.
const MANAGER: &str = "kube-image-keeper";

/// The most that one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Waits between attempts: the first, and the longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What became of a definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    UpToDate,
    Updated,
    Missing,
}

/// Returns when every definition is as it is here, or is none of our business; tries until then.
pub(super) async fn bring_up_to_date(client: &Client) {
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    for ours in crds() {
        let name = ours.name_any();
        let mut wait = BACK_OFF.0;
        loop {
            match timeout(REQUEST_TIMEOUT, update(&definitions, &name, &ours)).await {
                Ok(Ok(Found::UpToDate)) => break,
                Ok(Ok(Found::Updated)) => {
                    info!(definition = name, "updated to the schema of this release");
                    break;
                }
                Ok(Ok(Found::Missing)) => {
                    error!(
                        definition = name,
                        "missing, and nothing can be kept without it: install the CRDs of the chart (installCRD: true)"
                    );
                }
                Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
                    let why = &status.message;
                    error!(definition = name, why, "may not be read or updated by us: going on with the one that is there");
                    break;
                }
                Ok(Err(error)) => warn!(definition = name, %error, "cannot be read or updated: trying again"),
                Err(_) => warn!(definition = name, "cannot be read or updated: no answer in {REQUEST_TIMEOUT:?}"),
            }
            sleep(wait).await;
            wait = (wait * 2).min(BACK_OFF.1);
        }
    }
}

async fn update(definitions: &Api<CustomResourceDefinition>, name: &str, ours: &CustomResourceDefinition) -> kube::Result<Found> {
    let Some(theirs) = definitions.get_opt(name).await? else { return Ok(Found::Missing) };
    if is_up_to_date(&theirs, ours) {
        return Ok(Found::UpToDate);
    }
    // Not by server-side apply: before Kubernetes 1.23 that refuses the CEL rules, which a merge leaves out. Lists are replaced as a whole.
    let patch = json!({ "metadata": { "labels": ours.labels(), "annotations": ours.annotations() }, "spec": ours.spec });
    definitions
        .patch(name, &PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() }, &Patch::Merge(patch))
        .await?;
    Ok(Found::Updated)
}

fn is_up_to_date(theirs: &CustomResourceDefinition, ours: &CustomResourceDefinition) -> bool {
    theirs.annotations().get(SCHEMA_ANNOTATION) == ours.annotations().get(SCHEMA_ANNOTATION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_without_our_annotation_or_with_another_hash_is_old() {
        for ours in crds() {
            assert!(is_up_to_date(&ours.clone(), &ours));
            let mut theirs = ours.clone();
            theirs.annotations_mut().insert(SCHEMA_ANNOTATION.to_owned(), "another".to_owned());
            assert!(!is_up_to_date(&theirs, &ours));
            theirs.annotations_mut().remove(SCHEMA_ANNOTATION);
            assert!(!is_up_to_date(&theirs, &ours), "kuik v1's");
        }
    }
}
