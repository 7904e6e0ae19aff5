//! What the release's values say about rewriting. Pure.

use kuik_crd::{Image, ImageError, MAX_REPOSITORY_CHARS, Registry};
use regex::Regex;

use super::mutate::Skip;
use crate::config::{AuthMode, Settings};
use crate::pod_images::Slot;

/// What Istio's injector puts into a template to say: the image that the injector chooses. Whoever sees it first must leave it.
const INJECTED_LATER: &str = "auto";

/// Which images are rewritten, and into what.
#[derive(Debug, Clone)]
pub struct Rules {
    agent_address: String,
    ignored_images: Vec<Regex>,
    accepted_images: Vec<Regex>,
    ignore_pull_policy_always: bool,
    agents_have_credentials: bool,
    auth_mode: AuthMode,
}

impl Rules {
    /// The rules that follow from the settings.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self {
            agent_address: settings.agent_address.clone(),
            ignored_images: settings.ignored_images.clone(),
            accepted_images: settings.accepted_images.clone(),
            ignore_pull_policy_always: settings.ignore_pull_policy_always,
            agents_have_credentials: settings.agents_have_credentials,
            auth_mode: settings.auth.mode,
        }
    }

    /// Agents can pull what a pod's own secrets are for: with those secrets, which they get by the token that the pod shows, or with
    /// credentials of their own.
    pub(super) fn agents_can_pull_private_images(&self) -> bool {
        self.pods_show_tokens() || self.agents_have_credentials
    }

    /// Pods show agents which namespace they are of.
    pub(super) fn pods_show_tokens(&self) -> bool {
        self.auth_mode == AuthMode::Namespace
    }

    /// What rewritten references begin with.
    #[must_use]
    pub fn agent_address(&self) -> &str {
        &self.agent_address
    }

    /// Why a container is not looked at, whatever its image is.
    pub(super) fn skips_policy(slot: &Slot<'_>) -> Option<Skip> {
        (slot.pull_policy == Some("Never")).then_some(Skip::PolicyNever)
    }

    /// Why a text is no reference that a registry could be asked for.
    pub(super) fn skips_text(text: &str) -> Option<Skip> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let id = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        (id || text == INJECTED_LATER).then_some(Skip::NoReference)
    }

    /// Why an image is left alone.
    pub(super) fn skips_image(&self, slot: &Slot<'_>, image: &Image) -> Option<Skip> {
        if is_loopback(&image.repository().registry) {
            return Some(Skip::LocalRegistry);
        }
        if self.ignore_pull_policy_always && is_always_pulled(slot, image) {
            return Some(Skip::PolicyAlways);
        }
        // As it is written too: that is what kuik v1 looked at.
        let text = image.to_string();
        let matches = |pattern: &Regex| pattern.is_match(&text) || pattern.is_match(slot.image);
        if self.ignored_images.iter().any(matches) {
            return Some(Skip::Ignored);
        }
        let accepted = self.accepted_images.is_empty() || self.accepted_images.iter().any(matches);
        (!accepted).then_some(Skip::NotAccepted)
    }

    /// What to write for an image.
    pub(super) fn at_agent(&self, image: &Image) -> Result<String, ImageError> {
        within_limit(image.to_local(&self.agent_address)?)
    }

    /// What to write for an image whose path form is known.
    pub(super) fn at_agent_verbatim(&self, path: &str) -> Result<String, ImageError> {
        within_limit(format!("{}/{path}", self.agent_address))
    }
}

/// The distribution grammar counts the path; containerd before 2.0 counts the host with it.
fn within_limit(text: String) -> Result<String, ImageError> {
    let name = text.split('@').next().unwrap_or_default();
    let slash = name.rfind('/').unwrap_or(0);
    let end = name[slash..].find(':').map_or(name.len(), |colon| slash + colon);
    if end > MAX_REPOSITORY_CHARS { Err(ImageError::TooLong) } else { Ok(text) }
}

/// A registry on the node itself: the agent, in a network of its own, would look for it at its own address.
fn is_loopback(registry: &Registry) -> bool {
    let host = registry.host();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

/// kuik v1's rule: pulled anew each time, by policy or by the policy's default.
fn is_always_pulled(slot: &Slot<'_>, image: &Image) -> bool {
    match slot.pull_policy {
        Some(policy) => policy == "Always",
        None => image.digest().is_none() && image.tag().is_none_or(|tag| tag.as_str() == "latest"),
    }
}
