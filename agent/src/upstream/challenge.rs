//! `WWW-Authenticate`, by the grammar of RFC 9110 §11.6.1. Pure: the bytes come from strangers.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;
use reqwest::Url;

/// How a registry wants to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password with every request.
    Basic,
    /// A token from a token service.
    Bearer(Bearer),
}

/// What a Bearer challenge says, from the distribution project's token specification.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Bearer {
    /// The token service.
    pub(super) realm: Url,
    /// What the registry is called there.
    pub(super) service: Option<String>,
    /// What the token must allow.
    pub(super) scope: Option<String>,
}

impl Challenge {
    /// The best of the challenges in an answer: Bearer where it can be used, else Basic.
    pub(super) fn choose(headers: &HeaderMap) -> Option<Self> {
        let mut basic = None;
        for header in headers.get_all(WWW_AUTHENTICATE) {
            for raw in parse(&String::from_utf8_lossy(header.as_bytes())) {
                match raw.scheme.as_str() {
                    "bearer" => {
                        if let Some(bearer) = raw.bearer() {
                            return Some(Self::Bearer(bearer));
                        }
                    }
                    "basic" => basic = Some(Self::Basic),
                    _ => {}
                }
            }
        }
        basic
    }
}

/// One challenge as it stands in the header.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Raw {
    /// Lower-case.
    scheme: String,
    /// Names in lower-case.
    params: Vec<(String, String)>,
}

impl Raw {
    fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// `None` when the realm is no address of a token service.
    fn bearer(&self) -> Option<Bearer> {
        let mut realm = Url::parse(self.param("realm")?).ok()?;
        // A user in the URL would become a credential of its own.
        let _ = realm.set_username("");
        let _ = realm.set_password(None);
        let own = |name| self.param(name).filter(|value| !value.is_empty()).map(str::to_owned);
        (matches!(realm.scheme(), "http" | "https") && realm.has_host()).then(|| Bearer {
            realm,
            service: own("service"),
            scope: own("scope"),
        })
    }
}

/// All challenges of one header. What is malformed is skipped up to the next comma.
fn parse(header: &str) -> Vec<Raw> {
    let mut cursor = Cursor(header);
    let mut challenges = Vec::new();
    loop {
        cursor.skip_separators();
        if cursor.0.is_empty() {
            return challenges;
        }
        let scheme = cursor.token();
        if scheme.is_empty() {
            cursor.skip_to_comma();
            continue;
        }
        let mut raw = Raw { scheme: scheme.to_ascii_lowercase(), params: Vec::new() };
        if cursor.skip_spaces() && !cursor.token68() {
            while let Some(param) = cursor.param() {
                raw.params.push(param);
                if !cursor.at_separator() {
                    cursor.skip_to_comma();
                }
            }
        }
        challenges.push(raw);
    }
}

/// What is left of the header.
struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    /// Takes the longest prefix of which every character fits.
    fn take(&mut self, fits: impl Fn(char) -> bool) -> &'a str {
        let end = self.0.find(|c| !fits(c)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        taken
    }

    /// Whether there were any.
    fn skip_spaces(&mut self) -> bool {
        !self.take(is_space).is_empty()
    }

    fn skip_separators(&mut self) {
        self.take(|c| is_space(c) || c == ',');
    }

    fn skip_to_comma(&mut self) {
        self.take(|c| c != ',');
    }

    fn at_separator(&self) -> bool {
        self.0.chars().next().is_none_or(|c| is_space(c) || c == ',')
    }

    fn token(&mut self) -> &'a str {
        self.take(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))
    }

    /// Takes a token68 if one stands alone before the next comma.
    fn token68(&mut self) -> bool {
        let before = self.0;
        let text = self.take(|c| c.is_ascii_alphanumeric() || "-._~+/".contains(c));
        self.take(|c| c == '=');
        self.skip_spaces();
        if !text.is_empty() && (self.0.is_empty() || self.0.starts_with(',')) {
            return true;
        }
        self.0 = before;
        false
    }

    /// Takes `name=value`; leaves everything where it is if what follows is no parameter but another challenge.
    fn param(&mut self) -> Option<(String, String)> {
        let before = self.0;
        self.skip_separators();
        let name = self.token();
        self.skip_spaces();
        let Some(rest) = self.0.strip_prefix('=').filter(|_| !name.is_empty()) else {
            self.0 = before;
            return None;
        };
        self.0 = rest;
        self.skip_spaces();
        let value = match self.0.strip_prefix('"') {
            Some(rest) => {
                self.0 = rest;
                self.quoted()
            }
            // The grammar wants a token; servers are known to leave the quotes off a URL.
            None => self.take(|c| !is_space(c) && c != ',').to_owned(),
        };
        Some((name.to_ascii_lowercase(), value))
    }

    /// The rest of a quoted string; one that never ends, ends with the header.
    fn quoted(&mut self) -> String {
        let mut value = String::new();
        let mut chars = self.0.chars();
        while let Some(c) = chars.next() {
            match c {
                '"' => break,
                '\\' => value.extend(chars.next()),
                c => value.push(c),
            }
        }
        self.0 = chars.as_str();
        value
    }
}

fn is_space(c: char) -> bool {
    c == ' ' || c == '\t'
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn choose(headers: &[&str]) -> Option<Challenge> {
        let mut map = HeaderMap::new();
        for header in headers {
            map.append(WWW_AUTHENTICATE, header.parse().unwrap());
        }
        Challenge::choose(&map)
    }

    fn bearer(header: &str) -> (String, Option<String>, Option<String>) {
        match choose(&[header]) {
            Some(Challenge::Bearer(bearer)) => (bearer.realm.to_string(), bearer.service, bearer.scope),
            other => panic!("{header}: {other:?}"),
        }
    }

    #[test]
    fn what_docker_hub_sends() {
        let header = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull""#;
        assert_eq!(
            bearer(header),
            ("https://auth.docker.io/token".into(), Some("registry.docker.io".into()), Some("repository:a/b:pull".into()))
        );
    }

    #[test]
    fn the_forms_that_the_grammar_allows() {
        let want = ("https://a.b/t?x=1".to_owned(), Some("s,\"s".to_owned()), Some("repository:a:pull,push".to_owned()));
        for header in [
            r#"Bearer realm="https://a.b/t?x=1",service="s,\"s",scope="repository:a:pull,push""#,
            r#"BEARER  Realm = "https://a.b/t?x=1" ,	 SERVICE="s,\"s" , error="insufficient_scope",scope="repository:a:pull,push""#,
            r#"Basic realm="x, Bearer realm=y", Bearer scope="repository:a:pull,push", realm="https://a.b/t?x=1", service="s,\"s""#,
            r#"Negotiate, Bearer realm="https://a.b/t?x=1",service="s,\"s",scope="repository:a:pull,push", Basic realm=x"#,
            r#"Negotiate YWJj==, , Bearer unknown=1,realm=https://a.b/t?x=1,service="s,\"s",scope="repository:a:pull,push""#,
            r#"@@@, Bearer realm="https://a.b/t?x=1"junk,service="s,\"s",scope="repository:a:pull,push"#,
        ] {
            assert_eq!(bearer(header), want, "{header}");
        }
    }

    #[test]
    fn a_realm_brings_no_user_of_its_own() {
        assert_eq!(bearer("Bearer realm=\"https://u:p@a.b/t\",service=\"\"").0, "https://a.b/t");
    }

    #[test]
    fn bearer_is_preferred_where_it_can_be_used() {
        assert_eq!(choose(&["Basic realm=\"x\""]), Some(Challenge::Basic));
        assert_eq!(choose(&["basic"]), Some(Challenge::Basic));
        assert!(matches!(choose(&["Basic realm=x", "Bearer realm=\"http://a/t\""]), Some(Challenge::Bearer(_))));
        assert_eq!(choose(&["Bearer realm=\"not a url\", Basic realm=x"]), Some(Challenge::Basic));
        assert_eq!(choose(&["Bearer realm=\"ftp://a/t\""]), None);
        assert_eq!(choose(&["Bearer service=x"]), None);
        assert_eq!(choose(&["Digest realm=x", "Negotiate"]), None);
        assert_eq!(choose(&[]), None);
    }

    proptest! {
        #[test]
        fn no_header_panics(header in "\\PC{0,80}") {
            let _ = parse(&header);
        }

        #[test]
        fn no_header_of_about_the_right_shape_panics(header in "((Bearer|Basic|x)?[ ,=\"\\\\a-c/:]{0,6}(realm=|\"|scope)?){0,8}") {
            for raw in parse(&header) {
                let _ = raw.bearer();
            }
        }

        #[test]
        fn what_is_quoted_comes_back(value in "[ -~]{0,30}") {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            let parsed = parse(&format!("Bearer a=\"{quoted}\", Basic b=c"));
            prop_assert_eq!(parsed[0].param("a"), Some(value.as_str()));
            prop_assert_eq!(parsed[1].param("b"), Some("c"));
        }
    }
}
