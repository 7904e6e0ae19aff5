//! Reading an endpoint: `[http[s]://]host[:port][/prefix]`.

use std::str::FromStr;

use kuik_crd::Registry;

use super::Endpoint;
use super::scalar::{Scalar, ScalarError};

impl FromStr for Endpoint {
    type Err = ScalarError;

    fn from_str(text: &str) -> Result<Self, ScalarError> {
        if text.contains('@') {
            return Err(ScalarError::new("an endpoint", "…@…", "no user and password here: they belong into the file of --registry-auth"));
        }
        parse(text).ok_or_else(|| ScalarError::new("a URL or host", text, Self::EXPECTED))
    }
}

impl Scalar for Endpoint {
    const EXPECTED: &'static str = "https://host[:port][/path] or host[:port]";
}

fn parse(text: &str) -> Option<Endpoint> {
    let (plain_http, rest) = match text.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Some(false), rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Some(true), rest),
        Some(_) => return None,
        None => (None, text),
    };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    Some(Endpoint { registry: registry(host, plain_http)?, plain_http, prefix: prefix(path)? })
}

/// With a scheme the host may have one label: the grammar of references takes that for a registry only with a port.
fn registry(host: &str, plain_http: Option<bool>) -> Option<Registry> {
    let with_port = |plain| format!("{host}:{}", if plain { 80 } else { 443 }).parse().ok();
    host.parse().ok().or_else(|| plain_http.and_then(with_port))
}

/// A path without the slash at its end. A `/v2` there is left out, as containerd's `hosts.toml` has it.
fn prefix(path: &str) -> Option<String> {
    let path = path.trim_end_matches('/');
    let path = path.strip_suffix("/v2").unwrap_or(path);
    let segment = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%".contains(&b));
    path.split('/').skip(1).all(segment).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_with_perhaps_scheme_port_and_path() {
        let check = |text: &str, registry: &str, plain_http, prefix: &str| {
            let expected = Endpoint { registry: registry.parse().unwrap(), plain_http, prefix: prefix.to_owned() };
            assert_eq!(text.parse(), Ok(expected), "{text}");
        };
        check("registry-1.docker.io", "docker.io", None, "");
        check("registry.local:5000", "registry.local:5000", None, "");
        check("https://mirror.example/prefix", "mirror.example", Some(false), "/prefix");
        check("HTTP://mirror.example:80/a/b//", "mirror.example:80", Some(true), "/a/b");
        check("http://[::1]:5000/", "[::1]:5000", Some(true), "");
        check("mirror.example/hub/v2/", "mirror.example", None, "/hub");
        check("https://mirror.example/v2", "mirror.example", Some(false), "");
        check("http://harbor/proxy", "harbor:80", Some(true), "/proxy");
        check("https://harbor", "harbor:443", Some(false), "");
    }

    #[test]
    fn anything_else_is_refused_with_what_was_expected() {
        for text in ["", "htp://x", "https://", "harbor", "mirror.example:x", "https://a.b/?q", "https://a.b/..", "https://a.b//c", "a b.c"]
        {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert_eq!(error, format!("not a URL or host: {text:?}: expected https://host[:port][/path] or host[:port]"));
        }
    }

    #[test]
    fn a_password_in_an_endpoint_is_refused_and_not_repeated() {
        let error = "https://me:secret@mirror.example".parse::<Endpoint>().unwrap_err().to_string();
        assert!(error.contains("--registry-auth") && !error.contains("secret"), "{error}");
    }
}
