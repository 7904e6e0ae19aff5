//! The token server of a registry, as the distribution project specifies it: whoever shows a name and a password gets a token for what is
//! granted to them, signed so that a docker-registry takes it.
//!
//! ```text
//!   client ──GET /v2/…──▶ registry                401, Bearer realm="http://ADDRESS/token",service=…,scope=…
//!          ──GET /token?service=…&scope=…──▶ here  a token for what is asked for and granted; 401 if the password is wrong
//!          ──GET /v2/…, Bearer──▶ registry        checks the signature by the certificate that it was given
//! ```

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, DnType, KeyPair};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};

/// Who signs, and for which registry: what a registry's configuration calls `issuer` and `service`.
pub const ISSUER: &str = "kuik-e2e";

/// What a token is good for, in seconds: a right that is taken away counts soon.
const LIFETIME_SECONDS: u64 = 10;
/// Clocks of test machines are one clock, and seconds are rounded.
const LEEWAY_SECONDS: u64 = 5;
const HEAD_BYTES_MAX: u64 = 16 << 10;
const CLIENT_LIMIT: Duration = Duration::from_secs(10);
const ANYBODY: &str = "";

/// Somebody, and what they may pull.
#[derive(Clone, Debug)]
struct Grant {
    user: String,
    password: String,
    /// What names of repositories must begin with.
    prefix: String,
}

/// A token server. It answers for as long as the process lives.
#[derive(Debug)]
pub struct TokenServer {
    address: SocketAddr,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pair: EcdsaKeyPair,
    certificate: String,
    certificate_der: Vec<u8>,
    grants: Mutex<Vec<Grant>>,
}

impl TokenServer {
    /// Starts answering at a listener, which may be in another network namespace.
    pub fn start(listener: TcpListener) -> Result<Self> {
        let address = listener.local_addr().context("the token server's address")?;
        let inner = Arc::new(Inner::new()?);
        let answering = Arc::clone(&inner);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let inner = Arc::clone(&answering);
                // A client that breaks off is its own affair.
                thread::spawn(move || drop(inner.answer(&client)));
            }
        });
        Ok(Self { address, inner })
    }

    /// Where clients ask: the `realm` of the registry's configuration.
    pub fn realm(&self) -> String {
        format!("http://{}/token", self.address)
    }

    /// The certificate that tokens are signed with, in PEM: the registry's `rootcertbundle`.
    pub fn certificate(&self) -> &str {
        &self.inner.certificate
    }

    /// From now on this user may pull repositories whose names begin with `prefix`, besides what they may already.
    pub fn grant(&self, user: &str, password: &str, prefix: &str) {
        self.inner.grants().push(Grant { user: user.to_owned(), password: password.to_owned(), prefix: prefix.to_owned() });
    }

    /// From now on whoever shows nothing may pull repositories whose names begin with `prefix`.
    pub fn open(&self, prefix: &str) {
        self.grant(ANYBODY, "", prefix);
    }

    /// From now on nobody knows this user.
    pub fn forget(&self, user: &str) {
        self.inner.grants().retain(|grant| grant.user != user);
    }

    /// The value of an `Authorization` header that may do everything to a repository, for ten minutes.
    pub fn owner(&self, repository: &str) -> Result<String> {
        let access = json!([{ "type": "repository", "name": repository, "actions": ["pull", "push", "delete"] }]);
        Ok(format!("Bearer {}", self.inner.sign("owner", &access, 600)?))
    }
}

impl Inner {
    fn new() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, ISSUER);
        let certificate = params.self_signed(&key)?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der(), &SystemRandom::new())
            .map_err(|error| anyhow!("read the token server's key: {error}"))?;
        let (pem, der) = (certificate.pem(), certificate.der().to_vec());
        Ok(Self { pair, certificate: pem, certificate_der: der, grants: Mutex::default() })
    }

    fn grants(&self) -> MutexGuard<'_, Vec<Grant>> {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A JSON web token (RFC 7519) with the certificate in its head.
    fn sign(&self, subject: &str, access: &Value, seconds: u64) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock")?.as_secs();
        let head = json!({ "typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(&self.certificate_der)] });
        let claims = json!({
            "iss": ISSUER, "aud": ISSUER, "sub": subject, "jti": format!("{now}"),
            "iat": now, "nbf": now - LEEWAY_SECONDS, "exp": now + seconds, "access": access,
        });
        let signed = [head, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).map_err(|_| anyhow!("sign a token"))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    fn answer(&self, client: &TcpStream) -> Result<()> {
        client.set_read_timeout(Some(CLIENT_LIMIT))?;
        client.set_write_timeout(Some(CLIENT_LIMIT))?;
        let (target, shown) = read_head(client)?;
        let (status, body) = match self.token(&target, shown.as_deref()) {
            Ok(Some(token)) => ("200 OK", json!({ "token": token, "access_token": token, "expires_in": LIFETIME_SECONDS })),
            Ok(None) => ("401 Unauthorized", json!({ "details": "incorrect username or password" })),
            Err(error) => ("400 Bad Request", json!({ "details": format!("{error:#}") })),
        };
        let body = body.to_string();
        let head = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n", body.len());
        let mut client = client;
        client.write_all(format!("{head}connection: close\r\n\r\n{body}").as_bytes()).context("answer")
    }

    /// A token for what is asked for and granted, which may be nothing; `None` if the password is wrong.
    fn token(&self, target: &str, shown: Option<&str>) -> Result<Option<String>> {
        let query = target.strip_prefix("/token?").context("expected GET /token?service=…&scope=…")?;
        let (user, password) = match shown {
            Some(value) => basic(value)?,
            None => (ANYBODY.to_owned(), String::new()),
        };
        let grants = self.grants().clone();
        let theirs: Vec<Grant> = grants.into_iter().filter(|grant| grant.user == user && grant.password == password).collect();
        if theirs.is_empty() && user != ANYBODY {
            return Ok(None);
        }
        let scopes = query.split('&').filter_map(|pair| pair.strip_prefix("scope=")).map(decode);
        let access: Vec<Value> = scopes.flat_map(|scopes| granted(&scopes, &theirs)).collect();
        self.sign(&user, &Value::Array(access), LIFETIME_SECONDS).map(Some)
    }
}

/// Of scopes such as `repository:team/app:pull repository:…`, what is granted.
fn granted(scopes: &str, grants: &[Grant]) -> Vec<Value> {
    let parts = scopes.split(' ').filter_map(|scope| scope.strip_prefix("repository:")?.rsplit_once(':'));
    let may_pull = |name: &str, actions: &str| {
        let asked = actions.split(',').any(|action| action == "pull");
        asked && grants.iter().any(|grant| name.starts_with(&grant.prefix))
    };
    let pulls = parts.filter(|(name, actions)| may_pull(name, actions));
    pulls.map(|(name, _)| json!({ "type": "repository", "name": name, "actions": ["pull"] })).collect()
}

/// The target of the request, and its `Authorization`.
fn read_head(client: &TcpStream) -> Result<(String, Option<String>)> {
    let mut lines = BufReader::new(client.take(HEAD_BYTES_MAX)).lines();
    let first = lines.next().context("a request")??;
    let target = first.split(' ').nth(1).with_context(|| format!("no target in {first}"))?.to_owned();
    let mut shown = None;
    for line in lines {
        let line = line?;
        match line.split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => shown = Some(value.trim().to_owned()),
            Some(_) => {}
            None => break,
        }
    }
    Ok((target, shown))
}

fn basic(value: &str) -> Result<(String, String)> {
    let encoded = value.strip_prefix("Basic ").context("expected Basic credentials")?;
    let text = String::from_utf8(STANDARD.decode(encoded)?)?;
    let (user, password) = text.split_once(':').context("expected user:password")?;
    Ok((user.to_owned(), password.to_owned()))
}

/// Undoes the encoding of a query. What is malformed stays as it is.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let code = tail.get(..2).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match (first, code) {
            (b'%', Some(code)) => {
                bytes.push(code);
                rest = &tail[2..];
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(*first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::images::{self, Destination};
    use crate::process::{Server, free_port};
    use crate::{http, tools};

    /// A docker-registry that wants this server's tokens.
    fn registry(tokens: &TokenServer, dir: &std::path::Path) -> (Server, String) {
        let host = format!("127.0.0.1:{}", free_port().unwrap());
        let bundle = dir.join("bundle.pem");
        fs::write(&bundle, tokens.certificate()).unwrap();
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{host}'}}\n\
             auth: {{token: {{realm: '{}', service: {ISSUER}, issuer: {ISSUER}, rootcertbundle: {}}}}}\n",
            dir.join("data").display(),
            tokens.realm(),
            bundle.display(),
        );
        let path = dir.join("config.yml");
        fs::write(&path, config).unwrap();
        let program = tools::debian("docker-registry").unwrap();
        let mut server =
            Server::spawn("the registry", &program, &["serve".as_ref(), path.as_os_str()], &dir.join("log")).expect("start the registry");
        let ping = format!("http://{host}/v2/");
        server.wait_ready(Duration::from_secs(15), || http::get(&ping).is_ok_and(|reply| reply.status == 401)).unwrap();
        (server, host)
    }

    #[test]
    fn a_registry_takes_its_tokens_for_what_is_granted() {
        let tokens = TokenServer::start(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (_server, host) = registry(&tokens, dir.path());
        let owner = Destination { host: host.clone(), authorization: Some(tokens.owner("team/app").unwrap()) };
        owner.push("team/app", "1", &images::oci("guarded").unwrap()).unwrap();
        tokens.grant("alice", "secret", "team/");

        let manifest = format!("http://{host}/v2/team/app/manifests/1");
        let ask = |user: Option<&str>, repository: &str| {
            let url = format!("{}?service={ISSUER}&scope=repository%3A{}%3Apull", tokens.realm(), repository.replace('/', "%2F"));
            let basic = user.map(|user| format!("Basic {}", STANDARD.encode(user)));
            let headers: Vec<(&str, &str)> = basic.iter().map(|value| ("authorization", value.as_str())).collect();
            let reply = http::send("GET", &url, &headers, &[]).unwrap();
            let answer: Value = serde_json::from_slice(&reply.body).unwrap();
            (reply.status, format!("Bearer {}", answer["token"].as_str().unwrap_or_default()))
        };
        let pull = |bearer: &str| {
            let headers = [("authorization", bearer), ("accept", http::ACCEPT_MANIFESTS)];
            http::send("GET", &manifest, &headers, &[]).unwrap().status
        };
        assert_eq!(http::get(&manifest).unwrap().status, 401);
        let (status, bearer) = ask(Some("alice:secret"), "team/app");
        assert_eq!((status, pull(&bearer)), (200, 200));
        assert_eq!(pull(&ask(Some("alice:secret"), "other/app").1), 401);
        assert_eq!(pull(&ask(None, "team/app").1), 401);
        assert_eq!(ask(Some("alice:wrong"), "team/app").0, 401);
        tokens.open("team/");
        assert_eq!(pull(&ask(None, "team/app").1), 200);
        tokens.forget("alice");
        assert_eq!(ask(Some("alice:secret"), "team/app").0, 401);
    }
}
