//! Content digests: `algorithm:hex`, from the OCI image specification, "Descriptors § Digests".

use std::fmt;
use std::str::FromStr;

/// A registered digest algorithm. The list is closed: bytes under any other cannot be verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256, what every registry uses.
    Sha256,
    /// SHA-512, which the specification lets a registry use.
    Sha512,
}

impl Algorithm {
    /// The name as it stands before the colon.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// The length of the encoded part, in hexadecimal digits.
    #[must_use]
    pub fn hex_chars(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// The digest of some bytes. [`FromStr`] and [`Digest::from_bytes`] are the only ways in, so a value is always well-formed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Digest {
    /// A SHA-256 digest.
    Sha256([u8; 32]),
    /// A SHA-512 digest.
    Sha512([u8; 64]),
}

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// No colon.
    #[error("no algorithm: expected algorithm:hex, such as sha256:…")]
    NoAlgorithm,
    /// Not one of [`Algorithm`].
    #[error("the algorithm is not supported: expected sha256 or sha512")]
    Algorithm,
    /// The wrong number of digits, or a character that is no lower-case hexadecimal digit.
    #[error("expected {0} lower-case hexadecimal digits after the algorithm")]
    Encoded(usize),
}

impl Digest {
    /// A digest from the raw output of `algorithm`; `None` if the length is not the algorithm's.
    #[must_use]
    pub fn from_bytes(algorithm: Algorithm, bytes: &[u8]) -> Option<Self> {
        match algorithm {
            Algorithm::Sha256 => bytes.try_into().ok().map(Self::Sha256),
            Algorithm::Sha512 => bytes.try_into().ok().map(Self::Sha512),
        }
    }

    /// Which algorithm made it.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The raw bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Sha256(bytes) => bytes,
            Self::Sha512(bytes) => bytes,
        }
    }

    /// The encoded part: lower-case hexadecimal.
    #[must_use]
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = String::with_capacity(self.algorithm().hex_chars());
        for byte in self.as_bytes() {
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        text
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, hex) = text.split_once(':').ok_or(DigestError::NoAlgorithm)?;
        let algorithm = match algorithm {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return Err(DigestError::Algorithm),
        };
        let wrong = DigestError::Encoded(algorithm.hex_chars());
        if hex.len() != algorithm.hex_chars() {
            return Err(wrong);
        }
        let mut bytes = [0_u8; 64];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let (Some(high), Some(low)) = (nibble(pair[0]), nibble(pair[1])) else {
                return Err(wrong);
            };
            *byte = high << 4 | low;
        }
        Self::from_bytes(algorithm, &bytes[..hex.len() / 2]).ok_or(wrong)
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm().as_str(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_algorithms_round_trip() {
        for text in [format!("sha256:{}", "0123456789abcdef".repeat(4)), format!("sha512:{}", "0123456789abcdef".repeat(8))] {
            assert_eq!(text.parse::<Digest>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn anything_else_is_refused_with_the_reason() {
        let check = |text: &str, error| assert_eq!(text.parse::<Digest>(), Err(error), "{text}");
        check("", DigestError::NoAlgorithm);
        check("sha256", DigestError::NoAlgorithm);
        check("md5:d41d8cd98f00b204e9800998ecf8427e", DigestError::Algorithm);
        check("sha256:abc", DigestError::Encoded(64));
        check(&format!("sha256:{}", "A".repeat(64)), DigestError::Encoded(64));
        check(&format!("sha256:{}", "é".repeat(32)), DigestError::Encoded(64));
        check(&format!("sha512:{}", "a".repeat(64)), DigestError::Encoded(128));
    }
}
