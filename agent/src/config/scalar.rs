//! The words of the configuration, each with one parser for flags, environment and file.

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use kuik_crd::Registry;
use serde::de::{self, Deserialize, Deserializer, Visitor};

/// A word that is parsed from text; its error names the text and what was expected.
pub(super) trait Scalar: FromStr<Err = ScalarError> {
    /// What the file must hold, for a value that is no text at all.
    const EXPECTED: &'static str;
}

/// Why a word of the configuration was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not {what}: {text:?}: expected {expected}")]
pub struct ScalarError {
    what: &'static str,
    text: String,
    expected: &'static str,
}

impl ScalarError {
    pub(super) fn new(what: &'static str, text: &str, expected: &'static str) -> Self {
        Self { what, text: text.to_owned(), expected }
    }
}

/// A [`Scalar`] in the file. Numbers and booleans are not taken for text.
#[derive(Debug)]
pub(super) struct Text<T>(pub(super) T);

impl<'de, T: Scalar> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor(PhantomData))
    }
}

struct TextVisitor<T>(PhantomData<T>);

impl<T: Scalar> Visitor<'_> for TextVisitor<T> {
    type Value = Text<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<T>, E> {
        text.parse().map(Text).map_err(E::custom)
    }
}

/// A length of time; zero is one too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = ScalarError;

    fn from_str(text: &str) -> Result<Self, ScalarError> {
        kuik_crd::parse_duration(text).map(Self).ok_or_else(|| ScalarError::new("a duration", text, Self::EXPECTED))
    }
}

impl Scalar for Span {
    const EXPECTED: &'static str = "numbers with units up to 3650d, such as 500ms, 10s, 5m, 12h, 7d or 1h30m";
}

/// A length of time that is not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeout(pub Duration);

impl FromStr for Timeout {
    type Err = ScalarError;

    fn from_str(text: &str) -> Result<Self, ScalarError> {
        let Span(duration) = text.parse()?;
        if duration.is_zero() { Err(ScalarError::new("a time-out", text, "more than 0")) } else { Ok(Self(duration)) }
    }
}

impl Scalar for Timeout {
    const EXPECTED: &'static str = Span::EXPECTED;
}

/// A socket address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address(pub SocketAddr);

impl FromStr for Address {
    type Err = ScalarError;

    fn from_str(text: &str) -> Result<Self, ScalarError> {
        text.parse().map(Self).map_err(|_| ScalarError::new("an address", text, Self::EXPECTED))
    }
}

impl Scalar for Address {
    const EXPECTED: &'static str = "IP:PORT, such as 127.0.0.1:7439 or [::1]:7439";
}

/// A registry's host and perhaps port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host(pub Registry);

impl FromStr for Host {
    type Err = ScalarError;

    fn from_str(text: &str) -> Result<Self, ScalarError> {
        text.parse().map(Self).map_err(|_| ScalarError::new("a registry", text, Self::EXPECTED))
    }
}

impl Scalar for Host {
    const EXPECTED: &'static str = "HOST[:PORT], the host with a dot or the port given, such as docker.io or registry:5000";
}

/// A file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FilePath(pub(super) PathBuf);

impl FromStr for FilePath {
    type Err = ScalarError;

    fn from_str(text: &str) -> Result<Self, ScalarError> {
        if text.is_empty() { Err(ScalarError::new("a path", text, Self::EXPECTED)) } else { Ok(Self(text.into())) }
    }
}

impl Scalar for FilePath {
    const EXPECTED: &'static str = "a path";
}

/// How many of something there may be at one time: at least one, and no more than a semaphore can count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count(pub(super) u32);

impl Count {
    const MAX: u32 = 1_000_000;

    pub(super) fn get(self) -> usize {
        self.0 as usize
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CountVisitor)
    }
}

struct CountVisitor;

impl Visitor<'_> for CountVisitor {
    type Value = Count;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number from 1 to {}", Count::MAX)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Count, E> {
        match u32::try_from(number) {
            Ok(number @ 1..=Count::MAX) => Ok(Count(number)),
            _ => Err(E::invalid_value(de::Unexpected::Unsigned(number), &self)),
        }
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Count, E> {
        u64::try_from(number).map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self)).and_then(|number| self.visit_u64(number))
    }
}
