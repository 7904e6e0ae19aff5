//! The words of the command line and the configuration file, each with one parser and one way to say what was expected.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

/// Why a word was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not {what}: {text:?}: expected {expected}")]
pub struct WordError {
    what: &'static str,
    text: String,
    expected: &'static str,
}

impl WordError {
    pub(crate) fn new(what: &'static str, text: &str, expected: &'static str) -> Self {
        Self { what, text: text.to_owned(), expected }
    }
}

/// A length of time; zero is one too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let expected = "numbers with units up to 3650d, such as 500ms, 10s, 5m, 12h, 7d or 1h30m";
        kuik_crd::parse_duration(text).map(Self).ok_or_else(|| WordError::new("a duration", text, expected))
    }
}

/// How long something is valid: at least a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime(pub Duration);

impl FromStr for Lifetime {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        match text.parse()? {
            Span(time) if time < Duration::from_secs(1) => Err(WordError::new("a lifetime", text, "at least 1s")),
            Span(time) => Ok(Self(time)),
        }
    }
}

/// A socket address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address(pub SocketAddr);

impl FromStr for Address {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        text.parse().map(Self).map_err(|_| WordError::new("an address", text, "IP:PORT, such as [::]:8443 or 127.0.0.1:8443"))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where to connect to: a host and a port. An IPv6 address needs no brackets: Kubernetes writes the addresses of Services without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl FromStr for HostPort {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let refuse = || WordError::new("a host and port", text, "HOST:PORT, such as 10.96.0.10:443 or name.example:443");
        let (host, port) = text.rsplit_once(':').ok_or_else(refuse)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let is_name = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
        if !is_name && host.parse::<IpAddr>().is_err() {
            return Err(refuse());
        }
        Ok(Self { host: host.to_owned(), port: port.parse().map_err(|_| refuse())? })
    }
}

/// The name of an object of Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(pub String);

impl FromStr for Name {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let inner = |b: u8| edge(Some(b)) || b == b'-' || b == b'.';
        if text.len() <= 253 && edge(text.bytes().next()) && edge(text.bytes().last()) && text.bytes().all(inner) {
            Ok(Self(text.to_owned()))
        } else {
            Err(WordError::new(
                "the name of an object",
                text,
                "lower-case letters, digits, '-' and '.', beginning and ending with one of the former",
            ))
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_of_either_family_can_be_connected_to() {
        let check = |text: &str, host: &str, port| {
            let read: HostPort = text.parse().unwrap();
            assert_eq!((read.host.as_str(), read.port), (host, port), "{text}");
        };
        check("10.96.0.10:443", "10.96.0.10", 443);
        check("fd00::a:443", "fd00::a", 443);
        check("[fd00::a]:443", "fd00::a", 443);
        check("kuik-control.kuik-system.svc:9443", "kuik-control.kuik-system.svc", 9443);
        for text in ["", "host", ":443", "host:", "host:port", "host:99999", "$(HOST):443", "a b:1"] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_those_that_kubernetes_takes() {
        for text in ["kube-image-keeper", "kuik-system", "a", "a.b-1"] {
            assert!(text.parse::<Name>().is_ok(), "{text}");
        }
        for text in ["", "Kuik", "-kuik", "kuik-", "a_b", "a/b", &"a".repeat(254)] {
            assert!(text.parse::<Name>().is_err(), "{text}");
        }
    }

    #[test]
    fn nothing_is_valid_for_no_time() {
        assert_eq!("90d".parse::<Lifetime>().unwrap().0, Duration::from_secs(90 * 86_400));
        assert!("0s".parse::<Lifetime>().is_err() && "999ms".parse::<Lifetime>().is_err() && "90".parse::<Lifetime>().is_err());
    }
}
