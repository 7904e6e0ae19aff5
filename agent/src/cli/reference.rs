//! What an operator names: an image, and the agent to ask.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use kuik_crd::{Image, ImageError};

use crate::config::{DEFAULT_ADMIN_PORT, DEFAULT_PORT};

/// An image as an operator types it: the short form, the full one, or the one that a rewritten pod has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRef(pub Image);

/// Why a text is no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an image reference: {text:?}")]
pub struct ImageRefError {
    text: String,
    source: ImageError,
}

impl FromStr for ImageRef {
    type Err = ImageRefError;

    fn from_str(text: &str) -> Result<Self, ImageRefError> {
        let local = ["localhost", "127.0.0.1", "[::1]"].map(|host| format!("{host}:{DEFAULT_PORT}"));
        let image = match local.iter().find(|address| text.strip_prefix(address.as_str()).is_some_and(|rest| rest.starts_with('/'))) {
            Some(address) => Image::from_local(address, text),
            None => text.parse(),
        };
        image.map(Self).map_err(|source| ImageRefError { text: text.to_owned(), source })
    }
}

/// Where the agent's admin port is: a host or an IP address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminAddress(String);

/// Why a text is no such address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an address: {0:?}: expected HOST:PORT, such as 127.0.0.1:{DEFAULT_ADMIN_PORT}")]
pub struct AdminAddressError(String);

impl FromStr for AdminAddress {
    type Err = AdminAddressError;

    fn from_str(text: &str) -> Result<Self, AdminAddressError> {
        let host = |host: &str| !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        let named = text.split_once(':').is_some_and(|(name, port)| host(name) && port.parse::<u16>().is_ok());
        if named || text.parse::<SocketAddr>().is_ok() { Ok(Self(text.to_owned())) } else { Err(AdminAddressError(text.to_owned())) }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_one_image_are_the_same_image() {
        let image: Image = "docker.io/library/nginx:latest".parse().unwrap();
        for text in [
            "nginx",
            "docker.io/nginx",
            "localhost:7439/docker.io/library/nginx",
            "127.0.0.1:7439/docker.io/library/nginx:latest",
            "[::1]:7439/library/nginx",
        ] {
            assert_eq!(text.parse(), Ok(ImageRef(image.clone())), "{text}");
        }
    }

    #[test]
    fn another_port_of_this_host_is_a_registry() {
        let ImageRef(image) = "localhost:5000/app:1".parse().unwrap();
        assert_eq!(image.to_string(), "localhost:5000/app:1");
    }

    #[test]
    fn what_is_no_image_is_named() {
        for text in ["", "Nginx", "nginx:", "nginx@sha256:abc", "localhost:7439/Nginx"] {
            assert_eq!(text.parse::<ImageRef>().unwrap_err().to_string(), format!("not an image reference: {text:?}"));
        }
    }

    #[test]
    fn an_admin_address_has_host_and_port() {
        for text in ["127.0.0.1:7441", "[::1]:7441", "localhost:7441", "agent.kuik-system:80"] {
            assert_eq!(text.parse::<AdminAddress>().unwrap().to_string(), text);
        }
        for text in ["", "7441", ":7441", "localhost", "localhost:", "localhost:x", "http://localhost:7441", "localhost:70000", "a/b:1"] {
            assert!(text.parse::<AdminAddress>().is_err(), "{text}");
        }
    }
}
