//! The source tree itself: which module may name what, and how large anything may be. The arrows of ARCHITECTURE.md point one way.

use std::path::{Path, PathBuf};

/// Lines of a file before its tests.
const FILE_LINES_MAX: usize = 400;

struct Source {
    /// Below `agent/src`, with slashes.
    path: String,
    text: String,
}

impl Source {
    /// The text without comments and without the unit tests at its end.
    fn code(&self) -> String {
        let before_tests = self.text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        before_tests.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
    }

    fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    fn is_below(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.path.starts_with(place))
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut dirs = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                sources.push(Source { path: path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned(), text });
            }
        }
    }
    assert!(sources.len() > 20, "the sources were not found");
    sources
}

/// `word` stands nowhere but below `places`.
fn only(word: &str, places: &[&str]) {
    let offenders: Vec<String> = sources()
        .iter()
        .filter(|source| !source.is_test() && !source.is_below(places) && source.code().contains(word))
        .map(|source| source.path.clone())
        .collect();
    assert!(offenders.is_empty(), "{word} belongs into {places:?}, and is in {offenders:?}");
}

/// None of `words` stands below `place`.
fn never(place: &str, words: &[&str]) {
    for source in sources().iter().filter(|source| !source.is_test() && source.is_below(&[place])) {
        let code = source.code();
        for word in words {
            assert!(!code.contains(word), "{} names {word}", source.path);
        }
    }
}

#[test]
fn each_library_has_its_place() {
    only("axum", &["http/"]);
    only("sled::", &["store/index.rs"]);
    only("reqwest", &["upstream/", "peers/client.rs", "control/client.rs", "cli/client.rs"]);
    only("prometheus_client", &["metrics.rs", "app.rs", "http/"]);
    only("tokio::fs", &["store/"]);
}

#[test]
fn the_words_of_the_protocol_are_pure() {
    never("oci/", &["async ", "tokio", "std::fs", "std::net", "axum", "crate::store", "crate::cache", "crate::http", "crate::upstream"]);
}

#[test]
fn arrows_point_one_way() {
    never("store/", &["crate::cache", "crate::http", "crate::upstream", "crate::app"]);
    never("upstream/", &["crate::cache", "crate::http", "crate::store", "crate::app"]);
    never("cache/", &["crate::http", "crate::app", "std::fs"]);
    never("http/", &["crate::app", "std::fs"]);
}

#[test]
fn the_agent_knows_no_kubernetes() {
    let manifest = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    assert!(!manifest.lines().any(|line| line.starts_with("kube ") || line.starts_with("k8s-openapi")));
}

#[test]
fn files_fit_a_persons_head() {
    for source in sources().iter().filter(|source| !source.is_test()) {
        let lines = source.text.split("#[cfg(test)]").next().unwrap().lines().count();
        assert!(lines <= FILE_LINES_MAX, "{} has {lines} lines before its tests", source.path);
        assert!(source.text.starts_with("//!"), "{} does not say what it is for", source.path);
    }
}

#[test]
fn nothing_is_left_to_do() {
    for source in sources() {
        for word in ["TODO", "FIXME", "XXX", "todo!(", "unimplemented!(", "dbg!("] {
            assert!(!source.text.contains(word), "{} has a {word}", source.path);
        }
    }
}
