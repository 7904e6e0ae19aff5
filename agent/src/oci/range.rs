//! `Range` and `Content-Range` arithmetic, from RFC 9110 §14.

use std::ops::Range;

/// One range of a `Range` header, before the size is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRange {
    /// `bytes=FIRST-[LAST]`, the last byte included.
    From { first: u64, last: Option<u64> },
    /// `bytes=-COUNT`: the last bytes.
    Suffix(u64),
}

/// The range holds no byte of the representation: status 416.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the range lies beyond the end of the {size} bytes")]
pub struct Unsatisfiable {
    /// The size of the whole, in bytes.
    pub size: u64,
}

impl ByteRange {
    /// Parses a `Range` header. `None` means that the header is to be ignored and the whole is sent, as RFC 9110 wants for a unit
    /// or a syntax that the server does not know; so it does for several ranges in one header.
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        let (unit, set) = header.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (first, last) = set.trim().split_once('-')?;
        match (first, last) {
            ("", count) => Some(Self::Suffix(number(count)?)),
            (first, "") => Some(Self::From { first: number(first)?, last: None }),
            // One that ends before it begins names no byte, whatever the size: 416, as RFC 9110 §14.2 allows.
            (first, last) => Some(Self::From { first: number(first)?, last: Some(number(last)?) }),
        }
    }

    /// The bytes that the range names in a representation of `size` bytes.
    ///
    /// # Errors
    /// When it names none.
    pub fn resolve(self, size: u64) -> Result<Range<u64>, Unsatisfiable> {
        let range = match self {
            Self::From { first, last } => first..last.map_or(size, |last| last.saturating_add(1).min(size)),
            Self::Suffix(count) => size.saturating_sub(count)..size,
        };
        if range.start < range.end { Ok(range) } else { Err(Unsatisfiable { size }) }
    }
}

/// A `Content-Range` header of a 206 answer: `bytes FIRST-LAST/(SIZE|*)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentRange {
    /// The first byte sent.
    pub first: u64,
    /// The last byte sent.
    pub last: u64,
    /// The size of the whole, where it was said.
    pub size: Option<u64>,
}

impl ContentRange {
    /// Parses the header; `None` for anything that is not the form above, or that contradicts itself.
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        let (span, size) = header.trim().strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = span.split_once('-')?;
        let (first, last) = (number(first)?, number(last)?);
        let size = if size == "*" { None } else { Some(number(size)?) };
        (first <= last && size.is_none_or(|size| last < size)).then_some(Self { first, last, size })
    }
}

/// Digits only: `str::parse` would also take a sign.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) { None } else { text.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_of_ten_bytes() {
        let check = |header: &str, want: Option<Result<Range<u64>, Unsatisfiable>>| {
            assert_eq!(ByteRange::parse(header).map(|range| range.resolve(10)), want, "{header}");
        };
        check("bytes=0-", Some(Ok(0..10)));
        check("bytes=0-0", Some(Ok(0..1)));
        check("Bytes=2-4", Some(Ok(2..5)));
        check("bytes=9-", Some(Ok(9..10)));
        check("bytes=5-99", Some(Ok(5..10)));
        check("bytes=0-18446744073709551615", Some(Ok(0..10)));
        check("bytes=-3", Some(Ok(7..10)));
        check("bytes=-99", Some(Ok(0..10)));
        check("bytes=-0", Some(Err(Unsatisfiable { size: 10 })));
        check("bytes=4-2", Some(Err(Unsatisfiable { size: 10 })));
        check("bytes=10-", Some(Err(Unsatisfiable { size: 10 })));
        for ignored in ["", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=+1-2", "bytes=0-1,3-4", "items=0-1", "bytes=--1"] {
            check(ignored, None);
        }
    }

    #[test]
    fn content_ranges() {
        let parse = ContentRange::parse;
        assert_eq!(parse("bytes 0-4/10"), Some(ContentRange { first: 0, last: 4, size: Some(10) }));
        assert_eq!(parse("bytes 5-9/*"), Some(ContentRange { first: 5, last: 9, size: None }));
        for bad in ["bytes */10", "bytes 5-4/10", "bytes 0-10/10", "bytes 0-4", "0-4/10", "bytes a-b/c"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_resolved_range_is_never_empty_nor_outside(header in "bytes=[0-9]{0,20}-[0-9]{0,20}", size in any::<u64>()) {
            if let Some(Ok(range)) = ByteRange::parse(&header).map(|range| range.resolve(size)) {
                prop_assert!(range.start < range.end && range.end <= size);
            }
        }

        #[test]
        fn no_header_panics(header in "\\PC{0,40}") {
            let _ = ByteRange::parse(&header);
            let _ = ContentRange::parse(&header);
        }
    }
}
