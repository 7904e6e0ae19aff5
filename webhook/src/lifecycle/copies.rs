//! Which node holds what: the agents' reports, looked up by image.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use kuik_crd::Image;
use kuik_crd::control::{Finding, Held, Refused, UpstreamState};

use super::world::Reference;
use crate::board::NodeState;

/// Below this, what follows the last hyphen of a host is a part of its name: what [`crate::pod_images`] takes for it.
const V1_PORT_MIN: u16 = 80;

/// An image on a node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copy<'a> {
    pub(super) node: &'a str,
    pub(super) held: &'a Held,
}

/// What all nodes that count have reported.
#[derive(Debug, Default)]
pub(super) struct Copies<'a> {
    by_text: HashMap<Cow<'a, str>, Vec<Copy<'a>>>,
    by_digest: HashMap<(Cow<'a, str>, &'a str), Vec<Copy<'a>>>,
    findings: HashMap<&'a str, Vec<(&'a str, &'a Finding)>>,
    /// The latest of each image, in the form that is meant.
    refusals: HashMap<Cow<'a, str>, &'a Refused>,
}

impl<'a> Copies<'a> {
    /// Indexes the reports of nodes.
    pub(super) fn new(states: &BTreeMap<&'a str, &'a NodeState>) -> Self {
        let mut copies = Self::default();
        for (node, state) in states {
            for held in state.images.values() {
                let (text, copy) = (meant(&held.image), Copy { node, held });
                copies.by_digest.entry((repository(&text), &held.digest)).or_default().push(copy);
                copies.by_text.entry(text).or_default().push(copy);
            }
            for (image, finding) in &state.findings {
                copies.findings.entry(image).or_default().push((node, finding));
            }
            for refused in state.refusals.values() {
                let latest = copies.refusals.entry(meant(&refused.image)).or_insert(refused);
                *latest = if latest.at < refused.at { refused } else { latest };
            }
        }
        copies
    }

    /// The copies of an image, at most one of a node: for a digest, whatever has it in that repository; for a tag, what has the tag.
    pub(super) fn of(&self, reference: &Reference) -> Vec<Copy<'a>> {
        let Some(digest) = &reference.digest else {
            return self.by_text.get(reference.text.as_str()).cloned().unwrap_or_default();
        };
        let key = (Cow::Borrowed(reference.repository.as_str()), digest.as_str());
        let all = self.by_digest.get(&key).map(Vec::as_slice).unwrap_or_default();
        let mut best: Vec<Copy<'a>> = Vec::with_capacity(all.len());
        for copy in all {
            match best.last_mut() {
                Some(last) if last.node == copy.node => {
                    if (copy.held.complete, copy.held.size_bytes) > (last.held.complete, last.held.size_bytes) {
                        *last = *copy;
                    }
                }
                _ => best.push(*copy),
            }
        }
        best
    }

    /// The latest finding about an image, and the node that made it.
    pub(super) fn finding(&self, reference: &Reference) -> Option<(&'a str, &'a Finding)> {
        let all = |text: &str| self.findings.get(text).map(Vec::as_slice).unwrap_or_default();
        let by_digest = reference.digest.as_ref().map(|digest| format!("{}@{digest}", reference.repository));
        let by_digest = by_digest.filter(|text| *text != reference.text);
        let found = all(&reference.text).iter().chain(by_digest.iter().flat_map(|text| all(text)));
        found.max_by_key(|(_, finding)| finding.at).copied()
    }

    /// The latest refusal of an image; of one with tag and digest, by which of them whatsoever it was asked for.
    pub(super) fn refusal(&self, reference: &Reference) -> Option<&'a Refused> {
        let by_digest = reference.digest.as_ref().map(|digest| format!("{}@{digest}", reference.repository));
        let texts = [Some(&reference.text), by_digest.as_ref()];
        texts.into_iter().flatten().filter_map(|text| self.refusals.get(text.as_str()).copied()).max_by_key(|refused| refused.at)
    }

    /// The nodes that hold `digest` as a whole under a reference, each once. Under the same reference, since a tag whose last copy goes
    /// cannot be told from its digest.
    pub(super) fn whole(&self, text: &str, digest: &str) -> Vec<&'a str> {
        let same = self.by_text.get(text).map(Vec::as_slice).unwrap_or_default();
        let mut nodes: Vec<&str> =
            same.iter().filter(|copy| copy.held.complete && copy.held.digest == digest).map(|copy| copy.node).collect();
        nodes.dedup();
        nodes
    }
}

/// The reference that is meant: kuik v1's pods name `host:port` as `host-port`, and so do the agents that they ask.
pub(super) fn meant(image: &str) -> Cow<'_, str> {
    let v1 = |(registry, _): (&str, &str)| {
        let (host, port) = registry.rsplit_once('-')?;
        let looks_like_it = host.contains('.') && !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let parsed: Image = looks_like_it.then(|| image.parse().ok())??;
        let registry = parsed.repository().registry.v1_host_port().filter(|registry| registry.port() >= Some(V1_PORT_MIN))?;
        let repository = kuik_crd::Repository { registry, name: parsed.repository().name.clone() };
        Some(Image::new(repository, parsed.tag().cloned(), parsed.digest().copied()).to_string())
    };
    image.split_once('/').and_then(v1).map_or(Cow::Borrowed(image), Cow::Owned)
}

/// The repository of a normalised reference.
pub(super) fn repository<'a>(text: &Cow<'a, str>) -> Cow<'a, str> {
    let of = |text: &str| {
        let end = text.find('@').unwrap_or(text.len());
        let slash = text[..end].rfind('/').unwrap_or(0);
        text[slash..end].find(':').map_or(end, |colon| slash + colon)
    };
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(&text[..of(text)]),
        Cow::Owned(text) => Cow::Owned(text[..of(text)].to_owned()),
    }
}

/// What the copies together say about upstream: the latest answer counts, and of two of the same time the worse.
pub(super) fn upstream(copies: &[Copy<'_>]) -> UpstreamState {
    let said = copies.iter().filter(|copy| copy.held.upstream != UpstreamState::Unknown);
    said.max_by_key(|copy| (copy.held.checked_at, copy.held.upstream)).map_or(UpstreamState::Unknown, |copy| copy.held.upstream)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(image: &str, digest: &str, complete: bool) -> Held {
        Held { image: image.to_owned(), digest: digest.to_owned(), complete, ..Held::default() }
    }

    fn state(images: &[Held]) -> NodeState {
        NodeState { images: images.iter().map(|held| (held.image.clone(), held.clone())).collect(), ..NodeState::default() }
    }

    fn nodes(copies: &[Copy<'_>]) -> Vec<String> {
        copies.iter().map(|copy| format!("{} {}", copy.node, copy.held.image)).collect()
    }

    fn reference(text: &str) -> Reference {
        Reference::new(text.parse().unwrap())
    }

    #[test]
    fn a_tag_matches_the_tag_and_a_digest_whatever_has_it_in_its_repository() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let one = state(&[held("quay.io/a/b:1", &digest, true), held(&format!("quay.io/a/b@{digest}"), &digest, false)]);
        let two = state(&[held("quay.io/a/b:2", &digest, true), held("quay.io/a/c:1", &digest, true)]);
        let states = BTreeMap::from([("n1", &one), ("n2", &two)]);
        let copies = Copies::new(&states);
        assert_eq!(nodes(&copies.of(&reference("quay.io/a/b:1"))), ["n1 quay.io/a/b:1"]);
        let expected = ["n1 quay.io/a/b:1", "n2 quay.io/a/b:2"];
        assert_eq!(nodes(&copies.of(&reference(&format!("quay.io/a/b@{digest}")))), expected);
        assert_eq!(nodes(&copies.of(&reference(&format!("quay.io/a/b:9@{digest}")))), expected);
    }

    #[test]
    fn a_node_that_holds_an_image_under_two_names_holds_it_once() {
        let one = state(&[held("registry.local-5000/a:1", "d", true), held("registry.local:5000/a:1", "d", true)]);
        let two = state(&[held("registry.local:5000/a:1", "d", true), held("registry.local:5000/a:2", "d", true)]);
        let (part, other) = (state(&[held("registry.local:5000/a:1", "d", false)]), state(&[held("registry.local:5000/a:1", "e", true)]));
        let states = BTreeMap::from([("n1", &one), ("n2", &two), ("n3", &part), ("n4", &other)]);
        assert_eq!(Copies::new(&states).whole("registry.local:5000/a:1", "d"), ["n1", "n2"]);
    }

    #[test]
    fn what_kuik_v1_called_host_port_is_host_and_port() {
        for (image, expected) in [
            ("registry.local-5000/team/app:1", "registry.local:5000/team/app:1"),
            ("docker.io/library/nginx:1", "docker.io/library/nginx:1"),
            ("my-host.io/app-5000:1", "my-host.io/app-5000:1"),
        ] {
            assert_eq!(meant(image), expected);
        }
    }

    #[test]
    fn the_repository_is_what_stands_before_tag_and_digest() {
        for (text, expected) in [
            ("docker.io/library/nginx:1", "docker.io/library/nginx"),
            ("r.io:5000/a/b@sha256:ab", "r.io:5000/a/b"),
            ("r.io:5000/a/b:1@sha256:ab", "r.io:5000/a/b"),
        ] {
            assert_eq!(repository(&Cow::Borrowed(text)), expected);
        }
    }

    #[test]
    fn the_latest_answer_of_upstream_counts() {
        let mut old = held("x", "d", true);
        (old.upstream, old.checked_at) = (UpstreamState::Available, 10);
        let mut new = old.clone();
        (new.upstream, new.checked_at) = (UpstreamState::NotFound, 20);
        let unknown = Held { checked_at: 30, ..held("x", "d", true) };
        let copies = [&old, &new, &unknown].map(|held| Copy { node: "n", held });
        assert_eq!(upstream(&copies), UpstreamState::NotFound);
        assert_eq!(upstream(&copies[2..]), UpstreamState::Unknown);
    }
}
