//! Where the control API is, and what the agent shows and trusts there.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use super::scalar::{Scalar, ScalarError};

/// How the control API is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlConfig {
    /// Its address by name, which its certificate must bear.
    pub url: ControlUrl,
    /// Where to connect, if not to where the name resolves.
    pub address: Option<HostPort>,
    /// The address as it was given, if it holds a variable that nobody filled in; it is then as good as none.
    pub unexpanded: Option<String>,
    /// The authorities (PEM) that are trusted, and no others. It may be missing for a while.
    pub ca: PathBuf,
    /// What the agent shows there.
    pub token: PathBuf,
}

/// `https://HOST[:PORT]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlUrl {
    /// A name, or an address without brackets.
    pub host: String,
    /// The port, 443 where the URL has none.
    pub port: u16,
}

impl ControlUrl {
    /// Whether the host is an address: then there is nothing to connect to instead.
    #[must_use]
    pub fn is_address(&self) -> bool {
        self.host.parse::<std::net::IpAddr>().is_ok()
    }
}

impl fmt::Display for ControlUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (left, right) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "https://{left}{}{right}:{}", self.host, self.port)
    }
}

impl FromStr for ControlUrl {
    type Err = ScalarError;

    fn from_str(text: &str) -> Result<Self, ScalarError> {
        parse_url(text).ok_or_else(|| ScalarError::new("a URL of the control API", text, Self::EXPECTED))
    }
}

impl Scalar for ControlUrl {
    const EXPECTED: &'static str = "https://HOST[:PORT], such as https://kube-image-keeper-control.kuik-system.svc:9443";
}

fn parse_url(text: &str) -> Option<ControlUrl> {
    let rest = text.strip_prefix("https://")?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if let Some(HostPort { host, port }) = split(rest) {
        return Some(ControlUrl { host, port });
    }
    let bare = rest.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).filter(|host| host.parse::<Ipv6Addr>().is_ok());
    match bare {
        Some(host) => Some(ControlUrl { host: host.to_owned(), port: 443 }),
        None => is_name(rest).then(|| ControlUrl { host: rest.to_owned(), port: 443 }),
    }
}

/// A host and a port to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// A name, or an address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// A [`HostPort`], or what was to become one and still holds a variable: `$(A_SERVICE_HOST):9443`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlAddress {
    /// Where to connect.
    At(HostPort),
    /// A variable that the kubelet did not fill in, because there was no such Service when the pod was made.
    Unexpanded(String),
}

impl FromStr for ControlAddress {
    type Err = ScalarError;

    fn from_str(text: &str) -> Result<Self, ScalarError> {
        if text.contains("$(") {
            return Ok(Self::Unexpanded(text.to_owned()));
        }
        split(text).map(Self::At).ok_or_else(|| ScalarError::new("an address", text, Self::EXPECTED))
    }
}

impl Scalar for ControlAddress {
    const EXPECTED: &'static str = "HOST:PORT, such as 10.96.0.7:9443";
}

/// Splits at the last colon: a Service's IPv6 address comes without brackets where the kubelet fills it in.
fn split(text: &str) -> Option<HostPort> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(HostPort { host: address.ip().to_string(), port: address.port() });
    }
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (is_name(host) || host.parse::<Ipv6Addr>().is_ok()).then(|| HostPort { host: host.to_owned(), port })
}

fn is_name(text: &str) -> bool {
    let label = |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    text.len() <= 253 && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_https_with_a_host_and_perhaps_a_port() {
        let check = |text: &str, host: &str, port| {
            assert_eq!(text.parse(), Ok(ControlUrl { host: host.to_owned(), port }), "{text}");
        };
        check("https://kuik-control.kuik-system.svc:9443", "kuik-control.kuik-system.svc", 9443);
        check("https://control/", "control", 443);
        check("https://10.0.0.1:1", "10.0.0.1", 1);
        check("https://[fd00::1]:9443", "fd00::1", 9443);
        check("https://[fd00::1]", "fd00::1", 443);
        for text in ["", "control:9443", "http://control:9443", "https://", "https://a/b", "https://a:0", "https://a:x", "https://me@a:1"] {
            assert!(text.parse::<ControlUrl>().is_err(), "{text}");
        }
        assert_eq!("https://[fd00::1]:9443".parse::<ControlUrl>().unwrap().to_string(), "https://[fd00::1]:9443");
    }

    #[test]
    fn an_address_of_either_family_is_taken_as_the_kubelet_writes_it() {
        let check = |text: &str, host: &str| {
            let at = HostPort { host: host.to_owned(), port: 9443 };
            assert_eq!(text.parse(), Ok(ControlAddress::At(at)), "{text}");
        };
        check("10.96.0.7:9443", "10.96.0.7");
        check("fd00:10:96::7:9443", "fd00:10:96::7");
        check("[fd00:10:96::7]:9443", "fd00:10:96::7");
        check("control.local:9443", "control.local");
        let text = "$(KUBE_IMAGE_KEEPER_CONTROL_SERVICE_HOST):9443";
        assert_eq!(text.parse(), Ok(ControlAddress::Unexpanded(text.to_owned())));
        for text in ["", "10.96.0.7", ":9443", "a:0", "a b:1"] {
            assert!(text.parse::<ControlAddress>().is_err(), "{text}");
        }
    }
}
