//! Who owns what the leader makes in other namespaces: a cluster-scoped object of the release, so that the garbage collector removes
//! the Secrets when the release is uninstalled, whether or not any of our programs still runs.

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::{Client, Resource};

use crate::naming::Names;

/// The owner: our `ClusterRole`, which goes with the release alone. People delete a webhook's configuration to stop it, and that must not
/// take tokens from running pods; it is the owner only where the roles are not the chart's.
pub(super) async fn owner(client: &Client, names: &Names) -> Result<OwnerReference, kube::Error> {
    match reference::<ClusterRole>(client, &names.cluster_role()).await {
        Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => {
            reference::<MutatingWebhookConfiguration>(client, &names.webhook_configuration()).await
        }
        found => found,
    }
}

async fn reference<K>(client: &Client, name: &str) -> Result<OwnerReference, kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let found: PartialObjectMeta<K> = Api::<K>::all(client.clone()).get_metadata(name).await?;
    Ok(OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: name.to_owned(),
        uid: found.metadata.uid.unwrap_or_default(),
        ..OwnerReference::default()
    })
}
