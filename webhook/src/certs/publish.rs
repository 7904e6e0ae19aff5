//! Where the authority's certificate is told: the webhook configuration, for the API server, and a `ConfigMap`, for agents.
//! Both are looked at now and then, and written only where they differ: others may have taken it out.

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch as JsonPatch, PatchOperation, TestOperation};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::naming::Names;

/// The key in the `ConfigMap`.
const BUNDLE_KEY: &str = "ca.crt";

/// Writes the bundle into the `ConfigMap`. `true` if it was not there.
pub(super) async fn to_config_map(client: &Client, names: &Names, bundle: &str) -> Result<bool, kube::Error> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), &names.namespace);
    let name = names.ca_config_map();
    let Some(mut map) = api.get_opt(&name).await? else {
        let data = [(BUNDLE_KEY.to_owned(), bundle.to_owned())];
        let map = ConfigMap { metadata: names.metadata(name), data: Some(data.into()), ..ConfigMap::default() };
        api.create(&PostParams::default(), &map).await?;
        return Ok(true);
    };
    let data = map.data.get_or_insert_default();
    if data.get(BUNDLE_KEY).is_some_and(|kept| kept == bundle) {
        return Ok(false);
    }
    data.insert(BUNDLE_KEY.to_owned(), bundle.to_owned());
    api.replace(&name, &PostParams::default(), &map).await?;
    Ok(true)
}

/// What became of the webhook configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// It had the bundle.
    Before,
    /// It has the bundle now.
    Now,
    /// It has none yet, and no agent is ready: pods that were rewritten now would find nobody to pull from.
    NoAgents,
}

/// Writes the bundle into every webhook of the configuration; for the first time only when there is an agent that is ready.
pub(super) async fn to_webhook_configuration(client: &Client, names: &Names, bundle: &str) -> Result<Told, kube::Error> {
    let api: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let name = names.webhook_configuration();
    let configuration = api.get(&name).await?;
    let operations = operations(&configuration, bundle);
    if operations.is_empty() {
        return Ok(Told::Before);
    }
    let is_first = configuration.webhooks.iter().flatten().all(|webhook| webhook.client_config.ca_bundle.is_none());
    if is_first && !is_any_agent_ready(client, names).await? {
        return Ok(Told::NoAgents);
    }
    let patch = Patch::<()>::Json(JsonPatch(operations));
    api.patch(&name, &PatchParams::default(), &patch).await?;
    Ok(Told::Now)
}

async fn is_any_agent_ready(client: &Client, names: &Names) -> Result<bool, kube::Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &names.namespace);
    let agents = api.list(&ListParams::default().labels(&names.agent_selector())).await?;
    let conditions = agents.items.iter().filter_map(|pod| pod.status.as_ref()?.conditions.as_ref()).flatten();
    Ok(conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"))
}

/// Each place is tested for being the webhook that was looked at.
fn operations(configuration: &MutatingWebhookConfiguration, bundle: &str) -> Vec<PatchOperation> {
    let bundle = ByteString(bundle.as_bytes().to_vec());
    let webhooks = configuration.webhooks.iter().flatten().enumerate();
    let differing = webhooks.filter(|(_, webhook)| webhook.client_config.ca_bundle.as_ref() != Some(&bundle));
    let operations = |(index, webhook): (usize, &k8s_openapi::api::admissionregistration::v1::MutatingWebhook)| {
        let index = index.to_string();
        let path = |rest: &[&str]| PointerBuf::from_tokens(["webhooks", &index].into_iter().chain(rest.iter().copied()));
        let test = TestOperation { path: path(&["name"]), value: json!(webhook.name) };
        let add = AddOperation { path: path(&["clientConfig", "caBundle"]), value: json!(bundle) };
        [PatchOperation::Test(test), PatchOperation::Add(add)]
    };
    differing.flat_map(operations).collect()
}
