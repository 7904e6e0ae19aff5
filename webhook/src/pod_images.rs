//! The images of a pod: where they are written, and which image a rewritten one stands for. Pure.
//!
//! A rewritten image is `HOST:PORT/PATH`, and `PATH` alone says which image it is: `docker.io/library/nginx:1.25`. Two things blur that.
//! kuik v1 wrote a registry's `host:port` as `host-port`, which may also be a host's name; and `localhost:5000/app` may be an image of a
//! registry on the node. So the annotation with the original is believed first, where it is the image that the path stands for; and
//! an address other than the agent's counts only where the path begins with a registry, or the annotation says so.

use k8s_openapi::api::core::v1::Pod;
use kuik_crd::{Image, names};
use sha1::{Digest as _, Sha1};

/// Below this, what follows the last hyphen of a host is taken for a part of its name and not for v1's way to write a port.
const V1_PORT_MIN: u16 = 80;

/// The three lists of containers that a pod has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `spec.initContainers`, sidecars among them.
    Init,
    /// `spec.containers`.
    Container,
    /// `spec.ephemeralContainers`.
    Ephemeral,
}

impl Kind {
    /// The list's name in a pod's spec.
    #[must_use]
    pub fn field(self) -> &'static str {
        match self {
            Self::Init => "initContainers",
            Self::Container => "containers",
            Self::Ephemeral => "ephemeralContainers",
        }
    }

    /// What the container is called in a sentence.
    #[must_use]
    pub fn noun(self) -> &'static str {
        match self {
            Self::Init => "init container",
            Self::Container => "container",
            Self::Ephemeral => "ephemeral container",
        }
    }

    /// The key of the annotation that keeps the original image of the container with this name. Where it would be too long for a key,
    /// the SHA-1 of the name stands for the name, as kuik v1 had it; what is too long even then is cut.
    #[must_use]
    pub fn annotation_key(self, container: &str) -> String {
        let prefix = match self {
            Self::Init => names::ORIGINAL_INIT_IMAGE_PREFIX,
            Self::Container => names::ORIGINAL_IMAGE_PREFIX,
            Self::Ephemeral => names::ORIGINAL_EPHEMERAL_IMAGE_PREFIX,
        };
        let key = format!("{prefix}{container}");
        if key.len() <= names::LABEL_MAX_CHARS {
            return key;
        }
        let hash = Sha1::digest(container.as_bytes());
        let mut key = hash.iter().fold(prefix.to_owned(), |key, byte| format!("{key}{byte:02x}"));
        key.truncate(names::LABEL_MAX_CHARS);
        key
    }
}

/// A container's image, and where it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot<'a> {
    /// The list.
    pub kind: Kind,
    /// The place in the list.
    pub index: usize,
    /// The container's name.
    pub name: &'a str,
    /// The image as it is written.
    pub image: &'a str,
    /// `imagePullPolicy`, where there is one.
    pub pull_policy: Option<&'a str>,
}

/// The images of a pod. Containers without one are left out.
#[must_use]
pub fn slots(pod: &Pod) -> Vec<Slot<'_>> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let mut slots = Vec::new();
    let plain = [(Kind::Init, spec.init_containers.as_deref().unwrap_or_default()), (Kind::Container, &spec.containers)];
    for (kind, containers) in plain {
        for (index, c) in containers.iter().enumerate() {
            slots.extend(slot(kind, index, &c.name, c.image.as_deref(), c.image_pull_policy.as_deref()));
        }
    }
    for (index, c) in spec.ephemeral_containers.iter().flatten().enumerate() {
        slots.extend(slot(Kind::Ephemeral, index, &c.name, c.image.as_deref(), c.image_pull_policy.as_deref()));
    }
    slots
}

fn slot<'a>(kind: Kind, index: usize, name: &'a str, image: Option<&'a str>, pull_policy: Option<&'a str>) -> Option<Slot<'a>> {
    let image = image.filter(|image| !image.is_empty())?;
    Some(Slot { kind, index, name, image, pull_policy })
}

/// How certain it is which image a rewritten one stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The annotation says it, and the path agrees.
    Annotation,
    /// The path says it.
    Path,
    /// The path says it, if kuik v1 wrote it.
    PathOfV1,
}

/// What a rewritten image stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewritten<'a> {
    /// The original image as its author wrote it, or else normalised.
    pub original: String,
    /// The original image.
    pub image: Image,
    /// How that is known.
    pub source: Source,
    /// The path to pull it by: what follows the address.
    pub path: &'a str,
    /// The address is the agent's present one.
    pub ours: bool,
    /// An agent reads the path as this very image.
    pub exact: bool,
}

/// Reads a container's image as a rewritten one. `None` when it is not.
#[must_use]
pub fn rewritten<'a>(pod: &Pod, slot: &Slot<'a>, agent_address: &str) -> Option<Rewritten<'a>> {
    let (address, path) = split_local(slot.image, agent_address)?;
    let image = Image::from_local(address, slot.image).ok()?;
    let ours = address == agent_address;
    let annotation = pod.metadata.annotations.as_ref().and_then(|all| all.get(&slot.kind.annotation_key(slot.name)));
    if let Some(original) = annotation
        && let Ok(noted) = original.parse::<Image>()
        && (noted == image || is_v1_path_of(path, &image, &noted))
    {
        let exact = noted == image;
        return Some(Rewritten { original: original.clone(), image: noted, source: Source::Annotation, path, ours, exact });
    }
    // A mirror on the node may use the same form: at another port only the annotation tells.
    if !ours {
        return None;
    }
    let (image, source) = match image_of_v1(&image) {
        // v1 left ephemeral containers alone.
        Some(image) if slot.kind != Kind::Ephemeral => (image, Source::PathOfV1),
        _ => (image, Source::Path),
    };
    Some(Rewritten { original: image.to_string(), image, source, path, ours, exact: source == Source::Path })
}

/// The original image of a container whose image was rewritten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Original {
    /// The list that the container is in.
    pub kind: Kind,
    /// The container's name.
    pub container: String,
    /// The image that was asked for.
    pub image: Image,
}

/// The original images of all containers whose images were rewritten, in the order of the pod's lists.
#[must_use]
pub fn originals(pod: &Pod, agent_address: &str) -> Vec<Original> {
    let original = |slot: Slot<'_>| {
        let image = rewritten(pod, &slot, agent_address)?.image;
        Some(Original { kind: slot.kind, container: slot.name.to_owned(), image })
    };
    slots(pod).into_iter().filter_map(original).collect()
}

/// Splits `ADDRESS/PATH`, where the address is the agent's, or the agent's host (or `localhost`) with another port.
fn split_local<'a>(text: &'a str, agent_address: &str) -> Option<(&'a str, &'a str)> {
    let (address, path) = text.split_once('/')?;
    if address == agent_address {
        return Some((address, path));
    }
    let (host, port) = address.rsplit_once(':')?;
    let local = host == "localhost" || agent_address.rsplit_once(':').is_some_and(|(agent, _)| agent == host);
    (local && !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())).then_some((address, path))
}

/// The image that the path of `image` stands for if kuik v1 wrote it, where that is another one.
fn image_of_v1(image: &Image) -> Option<Image> {
    let registry = image.repository().registry.v1_host_port().filter(|v1| v1.port() >= Some(V1_PORT_MIN))?;
    let repository = kuik_crd::Repository { registry, name: image.repository().name.clone() };
    Some(Image::new(repository, image.tag().cloned(), image.digest().copied()))
}

/// Whether kuik v1 wrote `noted` as `path`, which reads as `image`.
fn is_v1_path_of(path: &str, image: &Image, noted: &Image) -> bool {
    let repository = noted.repository();
    let Some(port) = repository.registry.port() else {
        return false;
    };
    let v1 = format!("{}-{port}/{}", repository.registry.host(), repository.name);
    let rest = path.strip_prefix(v1.as_str());
    let whole = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '@']));
    whole && (image.tag(), image.digest()) == (noted.tag(), noted.digest())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(annotations: &[(&str, &str)], image: &str) -> Pod {
        let annotations: std::collections::BTreeMap<_, _> = annotations.iter().copied().collect();
        serde_json::from_value(serde_json::json!({
            "metadata": { "name": "p", "annotations": annotations },
            "spec": { "containers": [{ "name": "c", "image": image }] },
        }))
        .unwrap()
    }

    fn original(annotations: &[(&str, &str)], image: &str) -> Option<(String, Source)> {
        let pod = pod(annotations, image);
        let slots = slots(&pod);
        rewritten(&pod, &slots[0], "localhost:7439").map(|found| (found.image.to_string(), found.source))
    }

    #[test]
    fn the_path_says_which_image_it_is() {
        for (image, expected) in [
            ("localhost:7439/docker.io/library/nginx:1.25", Some("docker.io/library/nginx:1.25")),
            ("localhost:7439/registry.local__5000/app", Some("registry.local:5000/app:latest")),
            ("localhost:7439/ip6-20010db8000000000000000000000001__5000/app:1", Some("[2001:db8::1]:5000/app:1")),
            ("localhost:7439/nginx", Some("docker.io/library/nginx:latest")),
            ("localhost:9999/quay.io/enix/app:1", None),
            ("localhost:5000/app:1", None),
            ("localhost:5000/team/app:1", None),
            ("localhost/app:1", None),
            ("localhost:x/quay.io/app:1", None),
            ("nginx", None),
            ("quay.io/docker.io/library/nginx", None),
            ("localhost:7439/UPPER", None),
            ("localhost:7439/", None),
        ] {
            let expected = expected.map(|image| (image.to_owned(), Source::Path));
            assert_eq!(original(&[], image), expected, "{image}");
        }
    }

    #[test]
    fn the_annotation_is_believed_where_the_path_agrees() {
        let noted = |image: &str, original_image: &str| original(&[("original-image-c", original_image)], image);
        for (image, annotation, expected, source) in [
            ("localhost:7439/docker.io/library/nginx:latest", "nginx", "docker.io/library/nginx:latest", Source::Annotation),
            ("localhost:7439/registry.local-5000/app:1", "registry.local:5000/app:1", "registry.local:5000/app:1", Source::Annotation),
            ("localhost:7439/registry-5000/app:1", "registry:5000/app:1", "registry:5000/app:1", Source::Annotation),
            ("localhost:5000/app:1", "app:1", "docker.io/library/app:1", Source::Annotation),
            ("localhost:7439/quay.io/a:1", "quay.io/b:1", "quay.io/a:1", Source::Path),
            ("localhost:7439/quay.io/a:1", "not an image", "quay.io/a:1", Source::Path),
            ("localhost:7439/registry.local-5000/apps:1", "registry.local:5000/app:1", "registry.local:5000/apps:1", Source::PathOfV1),
            ("localhost:7439/10.0.0.1-5000/app:1", "", "10.0.0.1:5000/app:1", Source::PathOfV1),
            ("localhost:7439/registry.prod-1/app:1", "", "registry.prod-1/app:1", Source::Path),
        ] {
            assert_eq!(noted(image, annotation), Some((expected.to_owned(), source)), "{image} with {annotation}");
        }
        assert_eq!(noted("localhost:5000/app:1", "other:1"), None);
    }

    #[test]
    fn ephemeral_containers_are_none_of_v1s() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "p" },
            "spec": { "containers": [], "ephemeralContainers": [{ "name": "d", "image": "localhost:7439/registry.prod-8080/app:1" }] },
        }))
        .unwrap();
        assert_eq!(originals(&pod, "localhost:7439")[0].image.to_string(), "registry.prod-8080/app:1");
    }

    #[test]
    fn keys_are_kuik_v1s() {
        assert_eq!(Kind::Container.annotation_key("app"), "original-image-app");
        assert_eq!(Kind::Init.annotation_key("app"), "original-init-image-app");
        assert_eq!(Kind::Ephemeral.annotation_key("app"), "original-ephemeral-image-app");
        let fits = "a".repeat(48);
        assert_eq!(Kind::Container.annotation_key(&fits), format!("original-image-{fits}"));
        // echo -n aaa… | sha1sum
        let long = "a".repeat(49);
        assert_eq!(Kind::Container.annotation_key(&long), format!("original-image-{LONG_SHA1}"));
        assert_eq!(Kind::Init.annotation_key(&long), format!("original-init-image-{LONG_SHA1}"));
        assert_eq!(Kind::Ephemeral.annotation_key(&long), format!("original-ephemeral-image-{}", &LONG_SHA1[..38]));
    }

    const LONG_SHA1: &str = "1e666934c5a35f509aa31bbd9af8a37a1ed13ba6";
}
