//! What a login is for: hosts, and perhaps only the repositories below a path.

use std::str::FromStr;

use crate::{Registry, RepositoryName};

/// The names that Docker Hub goes by besides `docker.io`, which is what a [`Registry`] makes of them.
const DOCKER_HUB_ALIASES: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];

/// Where a registry listens that names no port.
const DEFAULT_PORT: u16 = 443;

/// A key of docker's `auths`, or a pattern of credential helpers: `host`, `host:port`, `host/path`, `https://host/v1/`.
///
/// In a host, `*` stands for any letters within one label, as the kubelet takes it: `*.example.com` is `a.example.com`, but neither
/// `example.com` nor `a.b.example.com`. There is none in a port, and ports must be equal. A path covers what is below it, part by part:
/// `a.b/team` covers `a.b/team/app`, and not `a.b/teams`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    host: Host,
    port: u16,
    path: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Exact(String),
    Pattern(String),
}

/// Larger for what is to be tried first: a longer path, a host without a star, a longer host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Precision {
    path_chars: usize,
    is_exact: bool,
    host_chars: usize,
}

/// A text that names no registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it names no registry: expected HOST[:PORT][/PATH], such as registry.example.com/team or *.example.com")]
pub struct ScopeError;

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(key: &str) -> Result<Self, ScopeError> {
        let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.trim_end_matches('/');
        // What clients of old wrote: the version of the API and not a repository.
        let path = match path.split_once('/').unwrap_or((path, "")) {
            ("v1" | "v2", rest) => rest,
            _ => path,
        };
        // A pattern is well-formed where a host with letters for its stars is; there are no letters in ports.
        let registry: Registry = host.replace('*', "x").parse().map_err(|_| ScopeError)?;
        let port = registry.port().unwrap_or(DEFAULT_PORT);
        let host = if host.contains('*') {
            let name = host.split_once(':').map_or(host, |(name, _)| name);
            Host::Pattern(name.to_ascii_lowercase())
        } else {
            Host::Exact(registry.host())
        };
        Ok(Self { host, port, path: path.to_owned() })
    }
}

impl Scope {
    /// Whether a repository is at this host and below this path.
    #[must_use]
    pub fn covers(&self, registry: &Registry, name: &RepositoryName) -> bool {
        registry.port().unwrap_or(DEFAULT_PORT) == self.port && self.host.is(registry) && is_below(&self.path, name.as_str())
    }

    /// How narrow it is.
    #[must_use]
    pub fn precision(&self) -> Precision {
        let (is_exact, host_chars) = match &self.host {
            Host::Exact(name) => (true, name.len()),
            Host::Pattern(name) => (false, name.len()),
        };
        Precision { path_chars: self.path.len(), is_exact, host_chars }
    }
}

impl Host {
    fn is(&self, registry: &Registry) -> bool {
        let host = registry.host();
        match self {
            Self::Exact(name) => *name == host,
            Self::Pattern(pattern) => {
                let aliases = if host == crate::DOCKER_HUB { &DOCKER_HUB_ALIASES[..] } else { &[] };
                matches(pattern, &host) || aliases.iter().any(|alias| matches(pattern, alias))
            }
        }
    }
}

/// Whether `path` is all of `name`, or its first parts.
fn is_below(path: &str, name: &str) -> bool {
    name.strip_prefix(path).is_some_and(|rest| path.is_empty() || rest.is_empty() || rest.starts_with('/'))
}

fn matches(pattern: &str, host: &str) -> bool {
    pattern.split('.').count() == host.split('.').count()
        && pattern.split('.').zip(host.split('.')).all(|(pattern, label)| label_matches(pattern, label))
}

fn label_matches(pattern: &str, label: &str) -> bool {
    let Some((first, further)) = pattern.split_once('*') else {
        return pattern == label;
    };
    let (middle, last) = further.rsplit_once('*').unwrap_or(("", further));
    let Some(mut rest) = label.strip_prefix(first).and_then(|rest| rest.strip_suffix(last)) else {
        return false;
    };
    // What stands between stars is taken where it comes first: that leaves the most for what follows.
    for part in middle.split('*') {
        let Some((_, after)) = rest.split_once(part) else {
            return false;
        };
        rest = after;
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(key: &str, image: &str, covered: bool) {
        let scope: Scope = key.parse().unwrap_or_else(|error| panic!("{key}: {error}"));
        let (host, name) = image.split_once('/').unwrap();
        assert_eq!(scope.covers(&host.parse().unwrap(), &name.parse().unwrap()), covered, "{key} for {image}");
    }

    #[test]
    fn a_star_is_any_letters_of_one_label() {
        check("*.example.com", "a.example.com/x", true);
        check("*.EXAMPLE.com", "A.example.com/x", true);
        check("*.example.com", "example.com/x", false);
        check("*.example.com", "a.b.example.com/x", false);
        check("*.*.example.com", "a.b.example.com/x", true);
        check("*.dkr.ecr.*.example.com", "123.dkr.ecr.eu-1.example.com/team/app", true);
        check("*.dkr.ecr.*.example.com", "123.dkr.s3.eu-1.example.com/team/app", false);
        check("reg-*.example.com", "reg-eu.example.com/x", true);
        check("reg*.example.com", "reg.example.com/x", true);
        check("reg-*.example.com", "rag-eu.example.com/x", false);
        check("a*b*c.example.com", "a1b2c.example.com/x", true);
        check("a*b*c.example.com", "abc.example.com/x", true);
        check("a*b*c.example.com", "ac.example.com/x", false);
        check("ab*ba.example.com", "aba.example.com/x", false);
        check("**.example.com", "a.example.com/x", true);
        check("10.0.0.*:5000", "10.0.0.7:5000/x", true);
    }

    #[test]
    fn ports_are_equal_and_no_pattern() {
        check("*.example.com:5000", "a.example.com:5000/x", true);
        check("*.example.com:5000", "a.example.com/x", false);
        check("*.example.com", "a.example.com:5000/x", false);
        check("*.example.com", "a.example.com:443/x", true);
        check("*:5000", "localhost:5000/x", true);
        for key in ["a.b:*", "a.b:5*", "*:*", "*", "", "/", "a b", "https://", "*.example.com:99999", "[*::1]:5000"] {
            assert_eq!(key.parse::<Scope>(), Err(ScopeError), "{key}");
        }
    }

    #[test]
    fn docker_hub_has_many_names() {
        for key in
            ["docker.io", "index.docker.io", "https://index.docker.io/v1/", "registry-1.docker.io", "https://registry-1.docker.io/v2/"]
        {
            for image in ["docker.io/library/nginx", "index.docker.io/library/nginx", "registry-1.docker.io/library/nginx"] {
                check(key, image, true);
            }
        }
        check("*.docker.io", "docker.io/library/nginx", true);
        check("docker.io/team", "docker.io/team/app", true);
        check("docker.io/team", "docker.io/library/nginx", false);
    }

    #[test]
    fn paths_are_compared_part_by_part() {
        check("a.b/team", "a.b/team", true);
        check("a.b/team/", "a.b/team/app", true);
        check("*.b/team", "a.b/team/app", true);
        check("a.b/team", "a.b/teams/app", false);
        check("a.b/team/app", "a.b/team", false);
        check("https://a.b/v2/team", "a.b/team/app", true);
    }

    #[test]
    fn the_longest_path_comes_first_and_a_host_before_a_pattern() {
        let mut keys = ["*.b", "a.b", "*.b/team", "a.b/team/app", "*a.b", "a.b/team"];
        keys.sort_by_key(|key| std::cmp::Reverse(key.parse::<Scope>().unwrap().precision()));
        assert_eq!(keys, ["a.b/team/app", "a.b/team", "*.b/team", "a.b", "*a.b", "*.b"]);
    }

    /// The obvious way, which takes exponential time.
    fn slowly(pattern: &[u8], label: &[u8]) -> bool {
        match pattern.split_first() {
            None => label.is_empty(),
            Some((b'*', rest)) => (0..=label.len()).any(|taken| slowly(rest, &label[taken..])),
            Some((first, rest)) => label.first() == Some(first) && slowly(rest, &label[1..]),
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_and_a_key_covers_what_it_names(key in any::<String>(), odd in "[a-z*.:/0-9\\[\\]-]{0,24}") {
            for key in [key, odd] {
                if let Ok(scope) = key.parse::<Scope>() {
                    let _ = scope.covers(&Registry::docker_hub(), &"library/nginx".parse().unwrap());
                }
            }
        }

        #[test]
        fn labels_match_as_by_the_obvious_way(pattern in "[ab*]{0,8}", label in "[ab]{0,10}") {
            prop_assert_eq!(label_matches(&pattern, &label), slowly(pattern.as_bytes(), label.as_bytes()));
        }

        #[test]
        fn what_has_no_star_covers_one_host(label in "[a-z]{1,5}", other in "[a-z]{1,5}") {
            let scope: Scope = format!("{label}.example.com").parse().unwrap();
            let covers = scope.covers(&format!("{other}.example.com").parse().unwrap(), &"x".parse().unwrap());
            prop_assert_eq!(covers, label == other);
        }
    }
}
