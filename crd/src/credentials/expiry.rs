//! Until when a password is good, where it says so itself: cloud registries give tokens in the place of passwords.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::zeroize::Zeroizing;
use serde::Deserialize;

use super::docker_config::BASE64;

/// The two ways to say it, both in seconds since 1970.
#[derive(Deserialize)]
struct Claims {
    /// A JSON Web Token's (RFC 7519 §4.1.4).
    exp: Option<u64>,
    /// That of a token which is base64 of JSON as a whole.
    expiration: Option<u64>,
}

/// When `secret` expires, in seconds since 1970.
pub(super) fn expires_at(secret: &str) -> Option<u64> {
    let mut parts = secret.split('.');
    let claims = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(claims), Some(_), None) => URL_SAFE_NO_PAD.decode(claims),
        (Some(whole), None, ..) => BASE64.decode(whole),
        _ => return None,
    };
    let claims = Zeroizing::new(claims.ok()?);
    let Claims { exp, expiration } = serde_json::from_slice(&claims).ok()?;
    exp.or(expiration)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_that_says_when_it_expires_is_believed() {
        let jwt = |claims: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        assert_eq!(expires_at(&jwt(r#"{"sub":"x","exp":1700000000}"#)), Some(1_700_000_000));
        let whole = BASE64.encode(r#"{"payload":"x","version":"2","expiration":1700000001}"#);
        assert_eq!(expires_at(&whole), Some(1_700_000_001));
        for secret in ["", "password", "a.b", "a.b.c", "a.b.c.d", &jwt("{}"), &jwt(r#"{"exp":"soon"}"#), &BASE64.encode("[]")] {
            assert_eq!(expires_at(secret), None, "{secret}");
        }
    }

    proptest! {
        #[test]
        fn no_password_panics(secret in any::<String>(), odd in "[A-Za-z0-9._=-]{0,40}") {
            let _ = (expires_at(&secret), expires_at(&odd));
        }
    }
}
