//! Pull tokens: what a pod's namespace shows to the agents, as the password of the Secret [`SECRET_NAME`], whose user is the namespace.
//!
//! `kuik1.<key>.<expiry>.<signature>`: the identifier of a [`PullKey`], the time in seconds since 1970, and the Ed25519 signature (RFC 8032)
//! of namespace and expiry in base64url (RFC 4648 §5) without padding. Agents know public keys only: a node that was taken over can read
//! tokens that pods on it were given, and make none.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use sha2::{Digest as _, Sha256};

use crate::PullKey;

/// The name of the Secret that holds a namespace's pull token.
pub const SECRET_NAME: &str = "kuik-pull";

/// The longest token that is looked at, in bytes.
pub const TOKEN_MAX_BYTES: usize = 256;

const PREFIX: &str = "kuik1";

/// Why a token is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PullTokenError {
    /// It has not the form of one.
    #[error("what was sent is no pull token: the Secret {SECRET_NAME} of the pod's namespace holds one, and kube-image-keeper writes it")]
    Malformed,
    /// It was signed with a key that is not known, or not any more.
    #[error("the pull token was signed with the key {0}, which this node does not know: it is of another installation, or too old")]
    UnknownKey(String),
    /// The signature is not that of this namespace and expiry.
    #[error("the pull token is not one for the namespace {0}")]
    Foreign(String),
    /// Its time is over.
    #[error("the pull token of the namespace {namespace} expired {seconds_ago} s ago: the Secret {SECRET_NAME} there was not renewed")]
    Expired {
        /// Whose it was.
        namespace: String,
        /// How long ago, in seconds.
        seconds_ago: u64,
    },
}

/// Checks a token that was sent with `namespace` as the user. Until when it is good, in seconds since 1970.
///
/// The check itself takes the same time whatever differs; what is compared before it is no secret.
///
/// # Errors
/// When it is not a good token of this namespace at the time `now`.
pub fn verify(keys: &[PullKey], namespace: &str, token: &str, now: u64) -> Result<u64, PullTokenError> {
    if token.len() > TOKEN_MAX_BYTES {
        return Err(PullTokenError::Malformed);
    }
    let parts: Vec<&str> = token.split('.').collect();
    let [PREFIX, id, expiry, signature] = parts[..] else {
        return Err(PullTokenError::Malformed);
    };
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| PullTokenError::Malformed)?;
    let until: u64 = expiry.parse().map_err(|_| PullTokenError::Malformed)?;
    let known = keys.iter().find(|key| key.id == id).and_then(|key| URL_SAFE_NO_PAD.decode(&key.public_key).ok());
    let public = known.ok_or_else(|| PullTokenError::UnknownKey(id.chars().take(16).collect()))?;
    let signed = UnparsedPublicKey::new(&ED25519, public).verify(&message(namespace, until), &signature);
    signed.map_err(|_| PullTokenError::Foreign(namespace.to_owned()))?;
    match now.checked_sub(until) {
        Some(seconds_ago) => Err(PullTokenError::Expired { namespace: namespace.to_owned(), seconds_ago }),
        None => Ok(until),
    }
}

/// What is signed. A namespace has no zero byte in it.
fn message(namespace: &str, until: u64) -> Vec<u8> {
    format!("{PREFIX}\0{namespace}\0{until}").into_bytes()
}

/// What tokens are signed with.
pub struct PullSigner {
    pair: Ed25519KeyPair,
    key: PullKey,
}

impl fmt::Debug for PullSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PullSigner").field("key", &self.key.id).finish_non_exhaustive()
    }
}

/// The key pair cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is no Ed25519 key pair in PKCS #8")]
pub struct PullSignerError;

impl PullSigner {
    /// A new key pair as PKCS #8 (RFC 5958), which [`PullSigner::read`] reads.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn generate() -> Result<Vec<u8>, PullSignerError> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| PullSignerError)?;
        Ok(document.as_ref().to_vec())
    }

    /// Reads a key pair.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(pkcs8: &[u8]) -> Result<Self, PullSignerError> {
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| PullSignerError)?;
        let public = pair.public_key().as_ref();
        let id = Sha256::digest(public).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let key = PullKey { id, public_key: URL_SAFE_NO_PAD.encode(public) };
        Ok(Self { pair, key })
    }

    /// What agents check its tokens with.
    #[must_use]
    pub fn key(&self) -> &PullKey {
        &self.key
    }

    /// The token of a namespace, good until this time, in seconds since 1970.
    #[must_use]
    pub fn sign(&self, namespace: &str, until: u64) -> String {
        let signature = self.pair.sign(&message(namespace, until));
        format!("{PREFIX}.{}.{until}.{}", self.key.id, URL_SAFE_NO_PAD.encode(signature))
    }
}

/// The key that signed a token and the time until which it is good, unchecked: for who wrote it and wants to know whether it is due.
#[must_use]
pub fn read_unchecked(token: &str) -> Option<(&str, u64)> {
    let (PREFIX, rest) = token.split_once('.')? else { return None };
    let (id, rest) = rest.split_once('.')?;
    Some((id, rest.split_once('.')?.0.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn signer() -> PullSigner {
        PullSigner::read(&PullSigner::generate().unwrap()).unwrap()
    }

    #[test]
    fn a_token_is_good_for_its_namespace_and_its_time() {
        let signer = signer();
        let keys = [PullKey::default(), signer.key().clone()];
        let token = signer.sign("team", 1000);
        assert_eq!(verify(&keys, "team", &token, 999), Ok(1000));
        assert_eq!(verify(&keys, "team", &token, 1000), Err(PullTokenError::Expired { namespace: "team".to_owned(), seconds_ago: 0 }));
        assert_eq!(verify(&keys, "other", &token, 0), Err(PullTokenError::Foreign("other".to_owned())));
        assert_eq!(read_unchecked(&token), Some((signer.key().id.as_str(), 1000)));
        assert!(token.len() <= TOKEN_MAX_BYTES);
    }

    #[test]
    fn a_token_of_another_key_is_not_taken() {
        let (ours, theirs) = (signer(), signer());
        let keys = [ours.key().clone()];
        assert_eq!(verify(&keys, "team", &theirs.sign("team", 9), 0), Err(PullTokenError::UnknownKey(theirs.key().id.clone())));
        // One that claims our key.
        let forged = theirs.sign("team", 9).replace(&theirs.key().id, &ours.key().id);
        assert_eq!(verify(&keys, "team", &forged, 0), Err(PullTokenError::Foreign("team".to_owned())));
        assert_eq!(verify(&[], "team", &ours.sign("team", 9), 0), Err(PullTokenError::UnknownKey(ours.key().id.clone())));
    }

    #[test]
    fn what_is_no_key_pair_is_refused() {
        assert!(PullSigner::read(b"no key").is_err());
    }

    proptest! {
        #[test]
        fn no_other_text_is_taken(at in 0_usize..TOKEN_MAX_BYTES, to in any::<u8>()) {
            let signer = signer();
            let token = signer.sign("team", 1000);
            let mut bytes = token.clone().into_bytes();
            let at = at % bytes.len();
            prop_assume!(bytes[at] != to);
            bytes[at] = to;
            if let Ok(text) = String::from_utf8(bytes) {
                // The last digit of the signature has bits that mean nothing, and only zeros are taken for them.
                prop_assert!(verify(&[signer.key().clone()], "team", &text, 0).is_err(), "{text}");
            }
        }

        #[test]
        fn nothing_makes_it_panic(user in ".{0,40}", token in ".{0,300}") {
            prop_assert!(verify(&[PullKey::default(), signer().key().clone()], &user, &token, 0).is_err());
        }
    }
}
