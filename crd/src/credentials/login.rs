//! What proves who we are at a registry.

use std::fmt;

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Deserializer};

/// Docker's convention for a token in the place of a password.
const TOKEN_USER: &str = "<token>";

/// A login at a registry. Cloning it makes another copy of the secret.
#[derive(Clone)]
pub enum Login {
    /// A user and a password.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: SecretString,
    },
    /// A refresh token of the registry's token service.
    Identity(SecretString),
}

impl Login {
    /// A login from what stands for a user and a password; the user `<token>` says that the password is a refresh token.
    #[must_use]
    pub fn new(user: String, password: SecretString) -> Self {
        if user == TOKEN_USER { Self::Identity(password) } else { Self::Password { user, password } }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password",
            Self::Identity(_) => "Identity",
        })
    }
}

impl PartialEq for Login {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Password { user, password }, Self::Password { user: other_user, password: other_password }) => {
                user == other_user && password.expose_secret() == other_password.expose_secret()
            }
            (Self::Identity(token), Self::Identity(other)) => token.expose_secret() == other.expose_secret(),
            (Self::Password { .. }, Self::Identity(_)) | (Self::Identity(_), Self::Password { .. }) => false,
        }
    }
}

impl Eq for Login {}

/// Text that is a secret from the moment it is read.
#[derive(Debug, Clone)]
pub struct Hidden(pub SecretString);

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_neither_secret_nor_user() {
        for login in [Login::new("hunter1".to_owned(), "hunter2".into()), Login::new(TOKEN_USER.to_owned(), "hunter2".into())] {
            assert!(!format!("{login:?}").contains("hunter"), "{login:?}");
        }
        assert!(!format!("{:?}", Hidden("hunter2".into())).contains("hunter"));
    }

    #[test]
    fn the_user_token_makes_an_identity_token() {
        assert!(matches!(Login::new(TOKEN_USER.to_owned(), "id".into()), Login::Identity(token) if token.expose_secret() == "id"));
    }

    #[test]
    fn logins_are_the_same_if_all_of_them_is() {
        let login = |user: &str, password: &str| Login::new(user.to_owned(), password.into());
        assert_eq!(login("u", "p"), login("u", "p"));
        for other in [login("u", "q"), login("v", "p"), login(TOKEN_USER, "p")] {
            assert_ne!(login("u", "p"), other);
        }
        assert_ne!(login(TOKEN_USER, "p"), login(TOKEN_USER, "q"));
    }
}
