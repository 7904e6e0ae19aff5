//! Amounts of disk as people write them: `20Gi`, `500M`, a number of bytes, or a share such as `30%`.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer, Visitor};

use super::scalar::{Scalar, ScalarError};

/// The units of Kubernetes' quantities.
const UNITS: [(&str, u64); 11] = [
    ("", 1),
    ("k", 1000),
    ("M", 1000_u64.pow(2)),
    ("G", 1000_u64.pow(3)),
    ("T", 1000_u64.pow(4)),
    ("P", 1000_u64.pow(5)),
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
];

/// Digits after the point that count.
const DECIMALS: u32 = 3;
const THOUSAND: u64 = 10_u64.pow(DECIMALS);

/// A part of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// So many bytes.
    Bytes(u64),
    /// So many thousandths of the file system: 300 is 30 %.
    PerMille(u64),
}

impl Amount {
    /// What it comes to on a file system of this size.
    #[must_use]
    pub fn of(self, capacity_bytes: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::PerMille(share) => u64::try_from(u128::from(capacity_bytes) * u128::from(share) / 1000).unwrap_or(u64::MAX),
        }
    }

    pub(super) fn is_zero(self) -> bool {
        matches!(self, Self::Bytes(0) | Self::PerMille(0))
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => bytes.fmt(f),
            Self::PerMille(share) if share % 10 == 0 => write!(f, "{}%", share / 10),
            Self::PerMille(share) => write!(f, "{}.{}%", share / 10, share % 10),
        }
    }
}

impl FromStr for Amount {
    type Err = ScalarError;

    fn from_str(text: &str) -> Result<Self, ScalarError> {
        parse(text).ok_or_else(|| ScalarError::new("an amount of disk", text, Self::EXPECTED))
    }
}

impl Scalar for Amount {
    const EXPECTED: &'static str = "bytes, such as 20Gi or 500000000, or a share of the disk, such as 30%";
}

fn parse(text: &str) -> Option<Amount> {
    if let Some(share) = text.strip_suffix('%') {
        let per_mille = thousandths(share)? / 100;
        return (per_mille <= 1000).then_some(Amount::PerMille(per_mille));
    }
    let number = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let (number, unit) = text.split_at(number);
    let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let bytes = u128::from(thousandths(number)?) * u128::from(*unit) / u128::from(THOUSAND);
    u64::try_from(bytes).ok().filter(|bytes| i64::try_from(*bytes).is_ok()).map(Amount::Bytes)
}

/// A decimal number in thousandths.
fn thousandths(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').map_or((text, None), |(whole, part)| (whole, Some(part)));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let part = part.unwrap_or("0");
    let places = u32::try_from(part.len()).ok()?;
    if !digits(whole) || !digits(part) || places > DECIMALS {
        return None;
    }
    let part = part.parse::<u64>().ok()? * 10_u64.pow(DECIMALS - places);
    whole.parse::<u64>().ok()?.checked_mul(THOUSAND)?.checked_add(part)
}

/// Text, or a plain number of bytes.
impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AmountVisitor)
    }
}

struct AmountVisitor;

impl Visitor<'_> for AmountVisitor {
    type Value = Amount;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Amount::EXPECTED)
    }

    fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Amount, E> {
        Ok(Amount::Bytes(bytes))
    }

    fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Amount, E> {
        u64::try_from(bytes).map(Amount::Bytes).map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Amount, E> {
        text.parse().map_err(E::custom)
    }
}

/// A share of what the cache may take: more than 0, at most 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Watermark(pub f64);

impl Watermark {
    const EXPECTED: &'static str = "a number above 0 and up to 1, such as 0.9";
}

impl FromStr for Watermark {
    type Err = ScalarError;

    fn from_str(text: &str) -> Result<Self, ScalarError> {
        let share = text.parse().ok().filter(|share: &f64| *share > 0.0 && *share <= 1.0);
        share.map(Self).ok_or_else(|| ScalarError::new("a share", text, Self::EXPECTED))
    }
}

impl<'de> Deserialize<'de> for Watermark {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WatermarkVisitor)
    }
}

struct WatermarkVisitor;

impl Visitor<'_> for WatermarkVisitor {
    type Value = Watermark;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Watermark::EXPECTED)
    }

    fn visit_f64<E: de::Error>(self, share: f64) -> Result<Watermark, E> {
        let is_share = share > 0.0 && share <= 1.0;
        if is_share { Ok(Watermark(share)) } else { Err(E::invalid_value(de::Unexpected::Float(share), &self)) }
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Watermark, E> {
        if number == 1 { Ok(Watermark(1.0)) } else { Err(E::invalid_value(de::Unexpected::Unsigned(number), &self)) }
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Watermark, E> {
        if number == 1 { Ok(Watermark(1.0)) } else { Err(E::invalid_value(de::Unexpected::Signed(number), &self)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_shares_are_amounts() {
        let check = |text: &str, amount| assert_eq!(text.parse(), Ok(amount), "{text}");
        check("0", Amount::Bytes(0));
        check("500000000", Amount::Bytes(500_000_000));
        check("20Gi", Amount::Bytes(20 << 30));
        check("1.5Ti", Amount::Bytes(3 << 39));
        check("500M", Amount::Bytes(500_000_000));
        check("4k", Amount::Bytes(4000));
        check("30%", Amount::PerMille(300));
        check("2.5%", Amount::PerMille(25));
        check("100%", Amount::PerMille(1000));
        assert_eq!(["30%", "2.5%", "7"].map(|text| text.parse::<Amount>().unwrap().to_string()), ["30%", "2.5%", "7"]);
    }

    #[test]
    fn anything_else_is_not() {
        for text in ["", "%", "101%", "-1", "1 Gi", "1GB", "1gi", "1K", ".5Gi", "1.", "1.2345Gi", "99999Pi", "18446744073709551616", "x"] {
            assert!(text.parse::<Amount>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_share_is_one_of_the_file_system() {
        assert_eq!(Amount::PerMille(300).of(1000), 300);
        assert_eq!(Amount::PerMille(1000).of(u64::MAX), u64::MAX);
        assert_eq!(Amount::Bytes(5).of(1000), 5);
    }
}
