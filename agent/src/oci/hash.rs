//! Computing a digest while bytes pass.

use kuik_crd::{Algorithm, Digest};
use sha2::Digest as _;

/// A running digest. Cloning it forks the computation, so that a stream can go on where another stopped.
#[derive(Debug, Clone)]
pub enum Hasher {
    /// SHA-256, with the CPU's SHA instructions where it has them.
    Sha256(sha2::Sha256),
    /// SHA-512.
    Sha512(Box<sha2::Sha512>),
}

impl Hasher {
    /// A digest of no bytes yet.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Box::default()),
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    /// The digest of all bytes taken.
    #[must_use]
    pub fn finish(self) -> Digest {
        match self {
            Self::Sha256(hash) => Digest::Sha256(hash.finalize().into()),
            Self::Sha512(hash) => Digest::Sha512(hash.finalize().into()),
        }
    }

    /// The digest of `bytes`.
    #[must_use]
    pub fn digest(algorithm: Algorithm, bytes: &[u8]) -> Digest {
        let mut hasher = Self::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        let check = |algorithm, text: &str| assert!(Hasher::digest(algorithm, b"").to_string().starts_with(text));
        check(Algorithm::Sha256, "sha256:e3b0c44298fc1c149afbf4c8996fb924");
        check(Algorithm::Sha512, "sha512:cf83e1357eefb8bdf1542850d66d8007");
    }

    #[test]
    fn a_clone_goes_on_by_itself() {
        let mut first = Hasher::new(Algorithm::Sha256);
        first.update(b"a");
        let mut second = first.clone();
        first.update(b"b");
        second.update(b"b");
        assert_eq!(first.finish(), second.finish());
    }
}
