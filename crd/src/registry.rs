//! A registry: a host and perhaps a port, as the distribution reference grammar writes them, and the
//! form it takes as the first segment of a localhost path.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// The registry that a reference without one means.
pub const DOCKER_HUB: &str = "docker.io";

/// Prefix of an IPv6 host in a path segment; 32 hexadecimal digits follow.
const IPV6_PREFIX: &str = "ip6-";

/// A registry's host and port. Lower-case; the names of Docker Hub are all `docker.io`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Registry {
    host: Host,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Host {
    /// A DNS name or an IPv4 address.
    Name(String),
    V6(Ipv6Addr),
}

/// Why a text is not a registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// The host is no DNS name, IPv4 address or bracketed IPv6 address, or has one label and no port.
    #[error("the registry host is not a DNS name with a dot or a port, an IPv4 address, or an IPv6 address in brackets")]
    Host,
    /// The port is not a number from 1 to 65535.
    #[error("the registry port is not a number from 1 to 65535")]
    Port,
    /// A DNS name that reads like the path form of an IPv6 address.
    #[error("a host named ip6- and 32 hexadecimal digits cannot be expressed as a path")]
    Ambiguous,
}

impl Registry {
    /// Docker Hub.
    #[must_use]
    pub fn docker_hub() -> Self {
        Self { host: Host::Name(DOCKER_HUB.to_owned()), port: None }
    }

    /// The host without port; an IPv6 address is in brackets, as URLs want it.
    #[must_use]
    pub fn host(&self) -> String {
        match &self.host {
            Host::Name(name) => name.clone(),
            Host::V6(address) => format!("[{address}]"),
        }
    }

    /// The port, if the reference named one.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Whether a reference's first segment is a registry and not the first part of a repository on Docker Hub:
    /// the rule of the distribution reference grammar.
    #[must_use]
    pub fn is_registry_segment(segment: &str) -> bool {
        segment == "localhost" || segment.contains(['.', ':', '[']) || segment.contains(|c: char| c.is_ascii_uppercase())
    }

    /// The first segment of a localhost path: `host`, `host__port`, or `ip6-<32 hex digits>[__port]`.
    #[must_use]
    pub fn to_path_segment(&self) -> String {
        let mut text = match &self.host {
            Host::Name(name) => name.clone(),
            Host::V6(address) => format!("{IPV6_PREFIX}{:032x}", u128::from(*address)),
        };
        if let Some(port) = self.port {
            text.push_str("__");
            text.push_str(&port.to_string());
        }
        text
    }

    /// Reads what [`Registry::to_path_segment`] wrote. `None` when the segment is no registry: it is then the
    /// first part of a repository on Docker Hub.
    ///
    /// # Errors
    /// When the segment has the form of a registry and is not one.
    pub fn from_path_segment(segment: &str) -> Result<Option<Self>, RegistryError> {
        let (host, port) = match segment.rsplit_once("__") {
            Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => (host, Some(parse_port(port)?)),
            _ => (segment, None),
        };
        if let Some(address) = parse_ipv6_segment(host) {
            return Ok(Some(Self { host: Host::V6(address), port }));
        }
        if port.is_none() && !Self::is_registry_segment(host) {
            return Ok(None);
        }
        if host.contains(':') {
            return Err(RegistryError::Host);
        }
        Self::new(host, port).map(Some)
    }

    /// kuik v1 wrote `host:port` as `host-port`. Where this registry may be such a form, the registry that it would mean.
    #[must_use]
    pub fn v1_host_port(&self) -> Option<Self> {
        let (Host::Name(name), None) = (&self.host, self.port) else {
            return None;
        };
        let (host, port) = name.rsplit_once('-')?;
        Self::new(host, Some(parse_port(port).ok()?)).ok()
    }

    fn new(host: &str, port: Option<u16>) -> Result<Self, RegistryError> {
        let names_a_registry = port.is_some() || Self::is_registry_segment(&host.to_ascii_lowercase());
        if !is_domain(host) || !names_a_registry {
            return Err(RegistryError::Host);
        }
        let name = host.to_ascii_lowercase();
        if parse_ipv6_segment(&name).is_some() {
            return Err(RegistryError::Ambiguous);
        }
        let name = match name.as_str() {
            "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB.to_owned(),
            _ => name,
        };
        Ok(Self { host: Host::Name(name), port })
    }
}

fn parse_port(text: &str) -> Result<u16, RegistryError> {
    if text.is_empty() || text.len() > 5 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(RegistryError::Port);
    }
    match text.parse() {
        Ok(0) | Err(_) => Err(RegistryError::Port),
        Ok(port) => Ok(port),
    }
}

fn parse_ipv6_segment(host: &str) -> Option<Ipv6Addr> {
    let hex = host.strip_prefix(IPV6_PREFIX)?;
    if hex.len() != 32 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    u128::from_str_radix(hex, 16).ok().map(Ipv6Addr::from)
}

/// `domain-component ("." domain-component)*` of the distribution grammar, with DNS's length limit.
fn is_domain(host: &str) -> bool {
    host.len() <= 253
        && host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
}

impl FromStr for Registry {
    type Err = RegistryError;

    fn from_str(text: &str) -> Result<Self, RegistryError> {
        if let Some(rest) = text.strip_prefix('[') {
            let (address, port) = rest.split_once(']').ok_or(RegistryError::Host)?;
            let address = address.parse().map_err(|_| RegistryError::Host)?;
            let port = match port {
                "" => None,
                _ => Some(parse_port(port.strip_prefix(':').ok_or(RegistryError::Port)?)?),
            };
            return Ok(Self { host: Host::V6(address), port });
        }
        match text.split_once(':') {
            Some((host, port)) => Self::new(host, Some(parse_port(port)?)),
            None => Self::new(text, None),
        }
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host())?;
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}
