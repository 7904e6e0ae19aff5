//! The platform of an image: `os/arch[/variant]` in the words of the OCI image specification.

use std::fmt;
use std::str::FromStr;

use crate::config::own_platform;

/// A platform's operating system, architecture and perhaps variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform(String);

/// Why a text is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a platform: {0:?}: expected os/arch or os/arch/variant, such as linux/amd64 or linux/arm/v7")]
pub struct PlatformError(String);

impl Platform {
    /// The one of this machine.
    #[must_use]
    pub fn own() -> Self {
        Self(own_platform())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let part = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        let parts = text.split('/').count();
        if (2..=3).contains(&parts) && text.split('/').all(part) { Ok(Self(text.to_owned())) } else { Err(PlatformError(text.to_owned())) }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_has_two_or_three_parts() {
        for text in ["linux/amd64", "linux/arm/v7", "windows/amd64"] {
            assert_eq!(text.parse::<Platform>().unwrap().as_str(), text);
        }
        for text in ["", "linux", "linux/", "/amd64", "linux/arm/v7/x", "linux/amd 64", "linux/amd64&all=true"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_own_platform_is_in_the_words_of_the_specification() {
        assert_eq!(Platform::own().to_string().parse(), Ok(Platform::own()));
    }
}
