//! Asks the API server whose a token is: a `TokenReview`, and on clusters whose tokens do not name their node, the pod that they are bound to.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use kuik_crd::names::TOKEN_AUDIENCE;

use crate::naming::Names;

/// Kubernetes 1.30 and later say here on which node the token's pod is.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// The pod that a token is bound to.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// What is repeated of the API server's words.
const REASON_CHARS_MAX: usize = 300;

/// What the API server knows about a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is that of the agent on this node.
    Node(Arc<str>),
    /// It is not: why.
    Denied(Denied),
}

/// Why a token is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denied {
    #[error("the token is not valid for the audience {TOKEN_AUDIENCE}: {reason}: send the one that was made for it, before it expires")]
    Invalid { reason: String },
    #[error("the token is that of {user}: only agents are answered, and theirs is {agent_user}")]
    Stranger { user: String, agent_user: String },
    #[error("the token is bound to no pod, so it says nothing about its node: send the one that the kubelet puts into the agent's pod")]
    Unbound,
    #[error("the token's pod {pod} is not there (any more), or has no node yet")]
    Gone { pod: String },
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReviewError {
    #[error("the API server did not review the token")]
    Review(#[source] kube::Error),
    #[error("the API server did not say where the pod {pod} is")]
    Pod {
        pod: String,
        #[source]
        source: kube::Error,
    },
}

/// The two questions, to the API server that the client talks to.
pub struct Reviewer {
    client: kube::Client,
    names: Arc<Names>,
}

impl fmt::Debug for Reviewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reviewer").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Reviewer {
    /// Takes the tokens of the agents of this release.
    #[must_use]
    pub fn new(client: kube::Client, names: Arc<Names>) -> Self {
        Self { client, names }
    }

    pub(super) async fn review(&self, token: &str) -> Result<Verdict, ReviewError> {
        let spec = TokenReviewSpec { token: token.to_owned(), audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]) };
        let review = TokenReview { metadata: ObjectMeta::default(), spec, status: None };
        let api = Api::<TokenReview>::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await.map_err(ReviewError::Review)?;
        match self.agent(answer.status.unwrap_or_default()) {
            Ok(agent) => self.node(&agent).await,
            Err(denied) => Ok(Verdict::Denied(denied)),
        }
    }

    /// The user, if it is the agents'.
    fn agent(&self, status: TokenReviewStatus) -> Result<UserInfo, Denied> {
        let TokenReviewStatus { audiences, authenticated, error, user } = status;
        if authenticated != Some(true) {
            let reason = error.filter(|error| !error.is_empty()).unwrap_or_else(|| "it is unknown or has expired".to_owned());
            return Err(Denied::Invalid { reason: reason.chars().take(REASON_CHARS_MAX).collect() });
        }
        if !audiences.unwrap_or_default().iter().any(|audience| audience == TOKEN_AUDIENCE) {
            return Err(Denied::Invalid { reason: "the API server vouches for other audiences only".to_owned() });
        }
        let user = user.unwrap_or_default();
        let agent_user = self.names.agent_user();
        match user.username.as_deref() {
            Some(name) if name == agent_user => Ok(user),
            name => Err(Denied::Stranger { user: name.unwrap_or("nobody").to_owned(), agent_user }),
        }
    }

    async fn node(&self, agent: &UserInfo) -> Result<Verdict, ReviewError> {
        let said = |key: &str| agent.extra.as_ref()?.get(key)?.first().cloned();
        if let Some(node) = said(NODE_NAME) {
            return Ok(Verdict::Node(node.into()));
        }
        let (Some(pod), Some(uid)) = (said(POD_NAME), said(POD_UID)) else {
            return Ok(Verdict::Denied(Denied::Unbound));
        };
        let pods = Api::<Pod>::namespaced(self.client.clone(), &self.names.namespace);
        let found = match pods.get_opt(&pod).await {
            Ok(found) => found,
            Err(source) => return Err(ReviewError::Pod { pod, source }),
        };
        // Of the same name there may be another one by now.
        let same = found.filter(|found| found.metadata.uid.as_deref() == Some(&uid));
        let node = same.and_then(|found| found.spec?.node_name);
        Ok(node.map_or(Verdict::Denied(Denied::Gone { pod }), |node| Verdict::Node(node.into())))
    }
}
