//! Reading what a request shows: `Authorization: Basic`, the user a namespace and the password its pull token.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use kuik_crd::PullKey;
use kuik_crd::pull_token::{PullTokenError, TOKEN_MAX_BYTES, verify};

/// The longest name of a namespace, in bytes (RFC 1123).
const NAMESPACE_MAX_BYTES: usize = 63;

/// Whose request it is: `None` if it shows nothing.
pub(super) fn read(shown: Option<&HeaderValue>, keys: &[PullKey], now: u64) -> Result<Option<Arc<str>>, PullTokenError> {
    let Some(shown) = shown else { return Ok(None) };
    let basic = shown.to_str().ok().and_then(|text| text.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"));
    let (_, encoded) = basic.ok_or(PullTokenError::Malformed)?;
    if encoded.len() > 2 * (TOKEN_MAX_BYTES + NAMESPACE_MAX_BYTES) {
        return Err(PullTokenError::Malformed);
    }
    let text = STANDARD.decode(encoded.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or(PullTokenError::Malformed)?;
    let (namespace, token) = text.split_once(':').ok_or(PullTokenError::Malformed)?;
    if namespace.is_empty() || namespace.len() > NAMESPACE_MAX_BYTES {
        return Err(PullTokenError::Malformed);
    }
    verify(keys, namespace, token, now)?;
    Ok(Some(namespace.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kuik_crd::pull_token::PullSigner;

    fn basic(text: &str) -> HeaderValue {
        format!("Basic {}", STANDARD.encode(text)).parse().unwrap()
    }

    #[test]
    fn a_namespace_is_who_shows_its_token() {
        let signer = PullSigner::read(&PullSigner::generate().unwrap()).unwrap();
        let keys = [signer.key().clone()];
        let token = signer.sign("team", 100);
        let read = |header: &HeaderValue| read(Some(header), &keys, 50);
        assert_eq!(read(&basic(&format!("team:{token}"))).unwrap().as_deref(), Some("team"));
        assert_eq!(read(&basic(&format!("other:{token}"))), Err(PullTokenError::Foreign("other".to_owned())));
        for wrong in ["team", ":x", "team:x", ""] {
            assert_eq!(read(&basic(wrong)), Err(PullTokenError::Malformed), "{wrong}");
        }
        for wrong in ["Bearer x", "Basic", "Basic !!!", "", "Basic é"] {
            assert_eq!(read(&HeaderValue::from_bytes(wrong.as_bytes()).unwrap()), Err(PullTokenError::Malformed), "{wrong}");
        }
        let long = "x".repeat(2000);
        assert_eq!(read(&basic(&format!("team:{long}"))), Err(PullTokenError::Malformed));
        assert_eq!(super::read(None, &keys, 50), Ok(None));
    }
}
