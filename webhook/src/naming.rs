//! The names of the objects that this release is made of; all derive from one, as they do in the chart.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kuik_crd::names;

/// Who we are.
#[derive(Debug, Clone)]
pub struct Names {
    /// What all object names begin with.
    pub fullname: String,
    /// The Helm release: the value of `app.kubernetes.io/instance`.
    pub release: String,
    /// Where we run.
    pub namespace: String,
    /// Our own pod's name.
    pub pod_name: String,
    /// Our own pod's address.
    pub pod_ip: String,
    /// Whose tokens the control API takes.
    pub agent_service_account: String,
}

impl Names {
    /// The Secret of the authority and the serving certificate.
    #[must_use]
    pub fn tls_secret(&self) -> String {
        format!("{}-tls", self.fullname)
    }

    /// The Secret of the keys that pull tokens are signed with.
    #[must_use]
    pub fn pull_keys_secret(&self) -> String {
        format!("{}-pull-keys", self.fullname)
    }

    /// The `ClusterRole` of the webhook.
    #[must_use]
    pub fn cluster_role(&self) -> String {
        format!("{}-webhook", self.fullname)
    }

    /// The `ConfigMap` of the authority's certificate, for agents.
    #[must_use]
    pub fn ca_config_map(&self) -> String {
        format!("{}-ca", self.fullname)
    }

    /// The Lease that the leader holds.
    #[must_use]
    pub fn lease(&self) -> String {
        format!("{}-leader", self.fullname)
    }

    /// The `MutatingWebhookConfiguration`.
    #[must_use]
    pub fn webhook_configuration(&self) -> String {
        self.fullname.clone()
    }

    /// The host that agents (and followers) know the control API by.
    #[must_use]
    pub fn control_host(&self) -> String {
        format!("{}-control.{}.svc", self.fullname, self.namespace)
    }

    /// Every host name that the serving certificate is for.
    #[must_use]
    pub fn hosts(&self) -> Vec<String> {
        let services = ["webhook", "control"].map(|service| format!("{}-{service}.{}.svc", self.fullname, self.namespace));
        services.into_iter().flat_map(|service| [format!("{service}.cluster.local"), service]).collect()
    }

    /// Name and labels of an object that this program makes for itself, in its own namespace.
    #[must_use]
    pub fn metadata(&self, name: String) -> ObjectMeta {
        let labels = [
            ("app.kubernetes.io/name", "kube-image-keeper"),
            ("app.kubernetes.io/instance", &self.release),
            ("app.kubernetes.io/component", "webhook"),
            (names::MANAGED_BY_LABEL, names::MANAGED_BY),
        ];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        ObjectMeta { name: Some(name), namespace: Some(self.namespace.clone()), labels: Some(labels.into()), ..ObjectMeta::default() }
    }

    /// The user that an agent's token belongs to.
    #[must_use]
    pub fn agent_user(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.agent_service_account)
    }

    /// Selects the agents' pods in our namespace.
    #[must_use]
    pub fn agent_selector(&self) -> String {
        format!("app.kubernetes.io/instance={},app.kubernetes.io/component=agent", self.release)
    }
}
