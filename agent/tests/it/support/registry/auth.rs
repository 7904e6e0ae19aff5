//! Who may read: open to all, Basic, or Bearer with a token endpoint.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use axum::http::{StatusCode, header};
use axum::response::Response;
use base64::Engine as _;
use tokio::time::Instant;

use super::answer::{error, json};
use super::journal::Seen;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Open,
    Basic,
    Bearer,
}

#[derive(Debug)]
struct Grant {
    repositories: Vec<String>,
    until: Instant,
}

#[derive(Debug)]
struct State {
    scheme: Scheme,
    /// Passwords by user.
    users: HashMap<String, String>,
    /// Who may read a repository; one that is not listed is everybody's.
    private: HashMap<String, BTreeSet<String>>,
    tokens: HashMap<String, Grant>,
    issued: usize,
    lifetime: Duration,
    token_field: &'static str,
    realm: Option<String>,
}

/// The rules of one upstream, or of several that share them.
#[derive(Debug)]
pub(super) struct Auth(Mutex<State>);

impl Default for Auth {
    fn default() -> Self {
        Self(Mutex::new(State {
            scheme: Scheme::Open,
            users: HashMap::new(),
            private: HashMap::new(),
            tokens: HashMap::new(),
            issued: 0,
            lifetime: Duration::from_secs(300),
            token_field: "token",
            realm: None,
        }))
    }
}

impl Auth {
    pub(super) fn require_basic(&self) {
        self.0.lock().unwrap().scheme = Scheme::Basic;
    }

    pub(super) fn require_bearer(&self) {
        self.0.lock().unwrap().scheme = Scheme::Bearer;
    }

    pub(super) fn add_user(&self, user: &str, password: &str) {
        self.0.lock().unwrap().users.insert(user.to_owned(), password.to_owned());
    }

    pub(super) fn make_private(&self, repository: &str, users: &[&str]) {
        let users = users.iter().map(|user| (*user).to_owned()).collect();
        self.0.lock().unwrap().private.insert(repository.to_owned(), users);
    }

    pub(super) fn set_lifetime(&self, lifetime: Duration) {
        self.0.lock().unwrap().lifetime = lifetime;
    }

    pub(super) fn set_token_field(&self, field: &'static str) {
        self.0.lock().unwrap().token_field = field;
    }

    pub(super) fn set_realm(&self, realm: String) {
        self.0.lock().unwrap().realm = Some(realm);
    }

    pub(super) fn revoke_tokens(&self) {
        self.0.lock().unwrap().tokens.clear();
    }

    /// The refusal of a request below `/v2/`, if it is refused.
    pub(super) fn refuse(&self, seen: &Seen, own_url: &str) -> Option<Response> {
        let state = self.0.lock().unwrap();
        let repository = repository_of(&seen.path);
        match state.scheme {
            Scheme::Open => None,
            Scheme::Basic => {
                let allowed = match state.basic_user(seen) {
                    Some(Ok(user)) => repository.is_none_or(|repository| state.may(Some(&user), repository)),
                    _ => false,
                };
                (!allowed).then(|| challenge("Basic realm=\"test registry\""))
            }
            Scheme::Bearer => (!state.has_token(seen, repository)).then(|| challenge(&state.bearer_challenge(seen, repository, own_url))),
        }
    }

    /// Answers `/token`.
    pub(super) fn issue(&self, seen: &Seen) -> Response {
        let mut state = self.0.lock().unwrap();
        let user = match state.basic_user(seen) {
            Some(Err(())) => return error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "wrong user or password"),
            Some(Ok(user)) => Some(user),
            None => state.identity(seen),
        };
        let scopes = form_urlencoded::parse(seen.query.as_bytes()).filter(|(key, _)| key == "scope");
        let repositories = scopes
            .flat_map(|(_, scopes)| scopes.split(' ').map(str::to_owned).collect::<Vec<_>>())
            .filter_map(|scope| Some(scope.strip_prefix("repository:")?.rsplit_once(':')?.0.to_owned()))
            .filter(|repository| state.may(user.as_deref(), repository))
            .collect();
        state.issued += 1;
        let token = format!("issued-token-{}", state.issued);
        let grant = Grant { repositories, until: Instant::now() + state.lifetime };
        state.tokens.insert(token.clone(), grant);
        json(&serde_json::json!({ state.token_field: token, "expires_in": state.lifetime.as_secs() }))
    }
}

impl State {
    /// Who asks by Basic; an error for a wrong password.
    fn basic_user(&self, seen: &Seen) -> Option<Result<String, ()>> {
        let encoded = seen.authorization()?.strip_prefix("Basic ")?;
        let decoded = base64::engine::general_purpose::STANDARD.decode(encoded).ok()?;
        let text = String::from_utf8(decoded).ok()?;
        let (user, password) = text.split_once(':')?;
        Some(if self.users.get(user).is_some_and(|known| known == password) { Ok(user.to_owned()) } else { Err(()) })
    }

    /// Who asks by a refresh token, which is the user's password here.
    fn identity(&self, seen: &Seen) -> Option<String> {
        let (_, token) = form_urlencoded::parse(seen.query.as_bytes()).find(|(key, _)| key == "refresh_token")?;
        self.users.iter().find(|(_, password)| **password == token).map(|(user, _)| user.clone())
    }

    fn may(&self, user: Option<&str>, repository: &str) -> bool {
        self.private.get(repository).is_none_or(|users| user.is_some_and(|user| users.contains(user)))
    }

    fn has_token(&self, seen: &Seen, repository: Option<&str>) -> bool {
        let token = seen.authorization().and_then(|value| value.strip_prefix("Bearer "));
        token.and_then(|token| self.tokens.get(token)).is_some_and(|grant| {
            grant.until > Instant::now() && repository.is_none_or(|wanted| grant.repositories.iter().any(|granted| granted == wanted))
        })
    }

    fn bearer_challenge(&self, seen: &Seen, repository: Option<&str>, own_url: &str) -> String {
        let realm = self.realm.clone().unwrap_or_else(|| format!("{own_url}/token"));
        let scope = repository.map(|name| format!(",scope=\"repository:{name}:pull\"")).unwrap_or_default();
        let error = if seen.authorization().is_some() { ",error=\"insufficient_scope\"" } else { "" };
        format!("Bearer realm=\"{realm}\",service=\"test registry\"{scope}{error}")
    }
}

fn challenge(value: &str) -> Response {
    let mut response = error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "authentication required");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, value.parse().unwrap());
    response
}

fn repository_of(path: &str) -> Option<&str> {
    let (before, _) = path.strip_prefix("/v2/")?.rsplit_once('/')?;
    before.rsplit_once('/').map(|(name, _)| name)
}
