//! (method, path, query) → [`Route`]: the one place that looks at request paths as text.
//!
//! Two details of the specification are encoded here. The name of a repository may itself hold segments called `blobs` or
//! `manifests`, so a path is split at its *last* marker. And axum takes a wildcard only at the end of a path, so one catch-all
//! hands every path below `/v2/` to [`Router::route`].

use kuik_crd::{Digest, Registry, Repository, Target};

/// A request that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `/v2/`: does this speak the distribution protocol?
    Base,
    /// `/v2/<name>/manifests/<reference>`
    Manifest { repository: Repository, target: Target },
    /// `/v2/<name>/blobs/<digest>`
    Blob { repository: Repository, digest: Digest },
    /// `/v2/<name>/tags/list`
    Tags { repository: Repository, page: Page },
    /// `/v2/<name>/referrers/<digest>`
    Referrers { repository: Repository, digest: Digest, artifact_type: Option<String> },
}

/// Which part of a list is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// At most so many entries.
    pub n: Option<u32>,
    /// Only entries after this one.
    pub last: Option<String>,
}

/// Why a request is not a [`Route`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// A method that writes, or one that HTTP does not know.
    #[error("this registry is a cache: it answers GET and HEAD, and nothing can be pushed to it")]
    Method,
    /// No path of the specification's pull side.
    #[error("no such endpoint: expected /v2/<registry>/<repository>/(manifests|blobs|tags|referrers)/…")]
    NotFound,
    /// The path holds an escape that is not UTF-8.
    #[error("the path is not UTF-8")]
    Encoding,
    /// The repository breaks the grammar.
    #[error("{0}")]
    Name(String),
    /// The digest breaks the grammar.
    #[error("{0}")]
    Digest(String),
    /// The tag breaks the grammar.
    #[error("{0}")]
    Tag(String),
    /// A query parameter has a value outside its range.
    #[error("the query parameter n is not a number from 0 to 4294967295")]
    Query,
}

/// Reads requests. It knows which ports are the agent's own.
#[derive(Debug, Clone, Default)]
pub struct Router {
    local_ports: Vec<u16>,
}

/// The most characters of a path that are looked at: a repository of 255, a digest of 135 and what stands between fit well.
const PATH_CHARS_MAX: usize = 2048;

impl Router {
    /// `local_ports` are those that the agent listens on: containerd names `localhost:7439` as the mirrored registry when a
    /// `hosts.toml` for it exists, and that means the agent itself.
    #[must_use]
    pub fn new(local_ports: Vec<u16>) -> Self {
        Self { local_ports }
    }

    /// Reads one request.
    ///
    /// # Errors
    /// When it is not of the pull side of the specification, or a part of it breaks its grammar.
    pub fn route(&self, method: &http::Method, path: &str, query: Option<&str>) -> Result<Route, RouteError> {
        if !matches!(*method, http::Method::GET | http::Method::HEAD) {
            return Err(RouteError::Method);
        }
        if path.len() > PATH_CHARS_MAX {
            return Err(RouteError::NotFound);
        }
        let rest = match path.strip_prefix("/v2") {
            Some("" | "/") => return Ok(Route::Base),
            Some(rest) => rest.strip_prefix('/').ok_or(RouteError::NotFound)?,
            None => return Err(RouteError::NotFound),
        };
        let rest = percent_encoding::percent_decode_str(rest).decode_utf8().map_err(|_| RouteError::Encoding)?;
        let (before, reference) = rest.rsplit_once('/').ok_or(RouteError::NotFound)?;
        let (name, marker) = before.rsplit_once('/').ok_or(RouteError::NotFound)?;
        let query = Query::parse(query.unwrap_or_default())?;
        let repository = || self.repository(name, query.ns.as_deref());
        match (marker, reference) {
            ("manifests", reference) => Ok(Route::Manifest { repository: repository()?, target: target(reference)? }),
            ("blobs", digest) => Ok(Route::Blob { repository: repository()?, digest: parse_digest(digest)? }),
            ("tags", "list") => Ok(Route::Tags { repository: repository()?, page: query.page }),
            ("referrers", digest) => {
                Ok(Route::Referrers { repository: repository()?, digest: parse_digest(digest)?, artifact_type: query.artifact_type })
            }
            _ => Err(RouteError::NotFound),
        }
    }

    /// The rewritten form carries its registry in the path; containerd's mirror form carries it in `ns`.
    fn repository(&self, name: &str, ns: Option<&str>) -> Result<Repository, RouteError> {
        let registry: Option<Registry> = match ns {
            Some(ns) => Some(ns.parse().map_err(|error| RouteError::Name(format!("the query parameter ns: {error}")))?),
            None => None,
        };
        match registry {
            Some(registry) if !self.is_self(&registry) => Repository::new(registry, name),
            _ => Repository::from_path(name),
        }
        .map_err(|error| RouteError::Name(error.to_string()))
    }

    fn is_self(&self, registry: &Registry) -> bool {
        matches!(registry.host().as_str(), "localhost" | "127.0.0.1" | "[::1]")
            && registry.port().is_some_and(|port| self.local_ports.contains(&port))
    }
}

fn target(reference: &str) -> Result<Target, RouteError> {
    if reference.contains(':') {
        parse_digest(reference).map(Target::Digest)
    } else {
        reference.parse().map(Target::Tag).map_err(|error: kuik_crd::ImageError| RouteError::Tag(error.to_string()))
    }
}

fn parse_digest(text: &str) -> Result<Digest, RouteError> {
    text.parse().map_err(|error: kuik_crd::DigestError| RouteError::Digest(error.to_string()))
}

#[derive(Default)]
struct Query {
    ns: Option<String>,
    page: Page,
    artifact_type: Option<String>,
}

impl Query {
    /// Parameters that are not known are ignored, as the specification wants.
    fn parse(query: &str) -> Result<Self, RouteError> {
        let mut parsed = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "ns" => parsed.ns = Some(value.into_owned()),
                "n" => parsed.page.n = Some(value.parse().map_err(|_| RouteError::Query)?),
                "last" => parsed.page.last = Some(value.into_owned()),
                "artifactType" => parsed.artifact_type = Some(value.into_owned()),
                _ => {}
            }
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;
    use proptest::prelude::*;

    const DIGEST: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    fn route(path: &str) -> Result<Route, RouteError> {
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        Router::new(vec![7439]).route(&Method::GET, path, query)
    }

    fn manifest(path: &str) -> String {
        match route(path) {
            Ok(Route::Manifest { repository, target }) => format!("{repository} {target}"),
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn manifests() {
        assert_eq!(manifest("/v2/docker.io/library/nginx/manifests/1.25"), "docker.io/library/nginx 1.25");
        assert_eq!(manifest("/v2/registry.local__5000/app/manifests/1"), "registry.local:5000/app 1");
        assert_eq!(manifest("/v2/nginx/manifests/latest"), "docker.io/library/nginx latest");
        assert_eq!(manifest(&format!("/v2/a.b/c/manifests/{DIGEST}")), format!("a.b/c {DIGEST}"));
        assert_eq!(manifest(&format!("/v2/a.b/c/manifests/{}", DIGEST.replace(':', "%3A"))), format!("a.b/c {DIGEST}"));
    }

    #[test]
    fn a_path_is_split_at_its_last_marker() {
        assert_eq!(manifest("/v2/a.b/manifests/x/blobs/manifests/t"), "a.b/manifests/x/blobs t");
        assert_eq!(manifest("/v2/a.b/tags/list/manifests/t"), "a.b/tags/list t");
        assert!(matches!(route(&format!("/v2/a.b/manifests/c/blobs/{DIGEST}")), Ok(Route::Blob { repository, .. })
            if repository.to_string() == "a.b/manifests/c"));
    }

    #[test]
    fn the_mirror_form_names_the_registry_in_ns() {
        assert_eq!(manifest("/v2/library/nginx/manifests/latest?ns=docker.io"), "docker.io/library/nginx latest");
        assert_eq!(manifest("/v2/app/manifests/1?ns=registry.local:5000"), "registry.local:5000/app 1");
        assert_eq!(manifest("/v2/gcr.io/a/manifests/1?ns=localhost:7439"), "gcr.io/a 1");
        assert_eq!(manifest("/v2/app/manifests/1?ns=localhost:5000"), "localhost:5000/app 1");
        assert!(matches!(route("/v2/a/manifests/1?ns=a_b"), Err(RouteError::Name(_))));
    }

    #[test]
    fn lists() {
        assert!(matches!(route("/v2/a.b/c/tags/list?n=5&last=x"), Ok(Route::Tags { page, .. })
            if page == Page { n: Some(5), last: Some("x".to_owned()) }));
        assert!(matches!(route(&format!("/v2/a.b/c/referrers/{DIGEST}?artifactType=t%2Fx")), Ok(Route::Referrers { artifact_type, .. })
            if artifact_type.as_deref() == Some("t/x")));
        assert_eq!(route("/v2/a.b/c/tags/list?n=-1"), Err(RouteError::Query));
    }

    #[test]
    fn whatever_is_malformed_is_refused_by_its_part() {
        assert_eq!(route("/v2"), Ok(Route::Base));
        assert_eq!(route("/v2/"), Ok(Route::Base));
        for path in ["/", "/v1/", "/v2x", "/v2/a", "/v2/a/b", "/v2/_catalog", "/v2/a/manifests", "/v2/a.b/c/tags/other", "/v2//manifests"] {
            assert_eq!(route(path), Err(RouteError::NotFound), "{path}");
        }
        for path in
            ["/v2/a.b/C/manifests/t", "/v2/a.b/../c/manifests/t", "/v2/a.b//c/manifests/t", "/v2//manifests/t", "/v2/a.b/%00/manifests/t"]
        {
            assert!(matches!(route(path), Err(RouteError::Name(_))), "{path}");
        }
        assert!(matches!(route("/v2/a.b/c/manifests/-x"), Err(RouteError::Tag(_))));
        assert!(matches!(route("/v2/a.b/c/manifests/"), Err(RouteError::Tag(_))));
        assert!(matches!(route("/v2/a.b/c/blobs/sha256:12"), Err(RouteError::Digest(_))));
        assert!(matches!(route("/v2/a.b/c/blobs/uploads"), Err(RouteError::Digest(_))));
        assert_eq!(route("/v2/a.b/%ff/manifests/t"), Err(RouteError::Encoding));
        assert_eq!(route(&format!("/v2/{}/manifests/t", "a".repeat(3000))), Err(RouteError::NotFound));
        assert_eq!(Router::default().route(&Method::PUT, "/v2/a.b/c/manifests/t", None), Err(RouteError::Method));
    }

    proptest! {
        #[test]
        fn no_path_panics(path in "\\PC{0,80}", query in proptest::option::of("\\PC{0,40}")) {
            let _ = Router::new(vec![1]).route(&Method::GET, &path, query.as_deref());
        }

        #[test]
        fn no_path_of_about_the_right_shape_panics(path in "/v2/([a-z.:_%0-9-]{0,8}/){0,5}(manifests|blobs|tags|referrers)/[a-z0-9:%]{0,12}") {
            let _ = Router::new(vec![1]).route(&Method::HEAD, &path, Some("ns=a.b:1&n=2"));
        }
    }
}
