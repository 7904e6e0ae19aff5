//! What the control API answers to an agent that asks for the pull secrets of a namespace.

use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::login::{Hidden, Login};
use crate::control::CREDENTIALS_MAX;

/// The answer to [`crate::control::CredentialsRequest`]. It does not serialise by itself: see [`CredentialsAnswer::to_json`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CredentialsAnswer {
    /// At most [`CREDENTIALS_MAX`], the best first. Those of a kind that is not known here are left out when it is read.
    #[serde(deserialize_with = "known")]
    pub credentials: Vec<Given>,
    /// The names of the Secrets that were looked at.
    pub tried: Vec<String>,
    /// A line for each Secret that is missing, of another type or malformed, and for each helper that failed.
    pub problems: Vec<String>,
    /// Something that may hold a login was not seen, for a reason that may pass or that says nothing of the namespace's right: a helper that
    /// failed or has not answered yet, a Secret that we may not read. A registry's refusal is no refusal of the namespace then.
    pub incomplete: bool,
}

/// A login and where it is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// For people: `Secret regcred`.
    pub from: String,
    /// The login.
    pub login: Login,
}

impl CredentialsAnswer {
    /// The JSON, which is overwritten when it is dropped. Only the first [`CREDENTIALS_MAX`] logins are in it.
    ///
    /// # Panics
    /// Never: what it is made of serialises.
    #[must_use]
    pub fn to_json(&self) -> Zeroizing<Vec<u8>> {
        let Self { credentials, tried, problems, incomplete } = self;
        let credentials = credentials.iter().take(CREDENTIALS_MAX).map(Wire::from).collect();
        let answer = WireAnswer { credentials, tried, problems, incomplete: *incomplete };
        // With room for all of it from the start, no copy is left behind in memory that was given back.
        let mut json = Zeroizing::new(Vec::with_capacity(self.room()));
        serde_json::to_writer(&mut *json, &answer).expect("an answer must serialise: it holds only strings");
        json
    }

    /// At least what the JSON takes, in bytes.
    fn room(&self) -> usize {
        /// What the names of the keys of one entry take, and what is around them.
        const FRAME: usize = 64;
        /// A control character is written as `\u0000`.
        const ESCAPED: usize = 6;

        let of_login = |login: &Login| match login {
            Login::Password { user, password } => user.len() + password.expose_secret().len(),
            Login::Identity(token) => token.expose_secret().len(),
        };
        let logins = self.credentials.iter().map(|Given { from, login }| from.len() + of_login(login));
        let lines = self.tried.iter().chain(&self.problems).map(String::len);
        FRAME + logins.chain(lines).map(|bytes| FRAME + ESCAPED * bytes).sum::<usize>()
    }
}

#[derive(Serialize)]
struct WireAnswer<'a> {
    credentials: Vec<Wire<'a>>,
    tried: &'a [String],
    problems: &'a [String],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    incomplete: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    from: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "expose")]
    password: Option<&'a SecretString>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "expose")]
    identity_token: Option<&'a SecretString>,
}

impl<'a> From<&'a Given> for Wire<'a> {
    fn from(Given { from, login }: &'a Given) -> Self {
        match login {
            Login::Password { user, password } => Self { from, username: Some(user), password: Some(password), identity_token: None },
            Login::Identity(token) => Self { from, username: None, password: None, identity_token: Some(token) },
        }
    }
}

/// The one place where a secret is written.
fn expose<S: Serializer>(secret: &Option<&SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    secret.map(|secret| secret.expose_secret()).serialize(serializer)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Read {
    #[serde(default)]
    from: String,
    username: Option<String>,
    password: Option<Hidden>,
    identity_token: Option<Hidden>,
}

fn known<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Given>, D::Error> {
    let known = |read| match read {
        Read { from, identity_token: Some(Hidden(token)), .. } => Some(Given { from, login: Login::Identity(token) }),
        Read { from, username: Some(user), password: Some(Hidden(password)), .. } => {
            Some(Given { from, login: Login::Password { user, password } })
        }
        Read { .. } => None,
    };
    Ok(Vec::<Read>::deserialize(deserializer)?.into_iter().filter_map(known).take(CREDENTIALS_MAX).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn given(from: &str, login: Login) -> Given {
        Given { from: from.to_owned(), login }
    }

    fn mk() -> CredentialsAnswer {
        let password = Login::Password { user: "u".to_owned(), password: "hunter2".into() };
        CredentialsAnswer {
            credentials: vec![given("Secret regcred", password), given("Secret other", Login::Identity("hunter3".into()))],
            tried: vec!["regcred".to_owned(), "other".to_owned(), "gone".to_owned()],
            problems: vec!["Secret gone: it does not exist".to_owned()],
            incomplete: false,
        }
    }

    #[test]
    fn the_form_of_an_answer() {
        let json: Value = serde_json::from_slice(&mk().to_json()).unwrap();
        let want = json!({
            "credentials": [
                { "from": "Secret regcred", "username": "u", "password": "hunter2" },
                { "from": "Secret other", "identityToken": "hunter3" },
            ],
            "tried": ["regcred", "other", "gone"],
            "problems": ["Secret gone: it does not exist"],
        });
        assert_eq!(json, want);
        let json: Value = serde_json::from_slice(&CredentialsAnswer { incomplete: true, ..mk() }.to_json()).unwrap();
        assert_eq!(json["incomplete"], true);
        assert!(!format!("{:?}", mk()).contains("hunter"), "{:?}", mk());
    }

    #[test]
    fn no_memory_is_given_back_while_it_is_written() {
        let awkward = "\u{1}".repeat(200);
        let mut answer = mk();
        answer.credentials.push(given(&awkward, Login::Identity(awkward.clone().into())));
        answer.problems = vec![String::new(); 100];
        let empty = CredentialsAnswer { incomplete: true, ..CredentialsAnswer::default() };
        for answer in [answer, mk(), CredentialsAnswer::default(), empty] {
            assert_eq!(answer.to_json().capacity(), answer.room(), "there must be room for {} bytes", answer.to_json().len());
        }
    }

    #[test]
    fn an_answer_of_a_newer_or_older_controller_is_read() {
        let json =
            json!({ "credentials": [{ "from": "x", "certificate": "y" }, { "from": "z", "identityToken": "id", "more": 1 }], "new": true });
        let read: CredentialsAnswer = serde_json::from_value(json).unwrap();
        assert_eq!(read.credentials, [given("z", Login::Identity("id".into()))]);
        assert_eq!(serde_json::from_str::<CredentialsAnswer>("{}").unwrap(), CredentialsAnswer::default());
    }

    #[test]
    fn an_answer_has_a_bound_on_both_sides() {
        let mut answer = mk();
        answer.credentials = vec![answer.credentials[0].clone(); CREDENTIALS_MAX + 5];
        let json: Value = serde_json::from_slice(&answer.to_json()).unwrap();
        assert_eq!(json["credentials"].as_array().unwrap().len(), CREDENTIALS_MAX);
        let many = json!({ "credentials": vec![json!({ "from": "x", "identityToken": "id" }); CREDENTIALS_MAX + 5] });
        assert_eq!(serde_json::from_value::<CredentialsAnswer>(many).unwrap().credentials.len(), CREDENTIALS_MAX);
    }

    proptest! {
        #[test]
        fn an_answer_comes_back(user in any::<String>(), password in any::<String>(), from in any::<String>(), incomplete in any::<bool>()) {
            let credentials = vec![
                given(&from, Login::Password { user, password: password.clone().into() }),
                given(&from, Login::Identity(password.into())),
            ];
            let answer = CredentialsAnswer { credentials, incomplete, ..mk() };
            prop_assert_eq!(serde_json::from_slice::<CredentialsAnswer>(&answer.to_json()).unwrap(), answer);
        }
    }
}
