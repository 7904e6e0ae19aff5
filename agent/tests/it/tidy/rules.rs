//! The rules, each a function from sources to what breaks it: `file:line: what, and the rule`.

use super::source::{Source, closing};

/// What a rule found: one line each.
pub(super) type Broken = Vec<String>;

fn tell(source: &Source, at: usize, what: &str) -> String {
    format!("{}:{}: {what}", source.path, source.line(at))
}

/// A path below a folder, which ends with a slash, or a file.
fn is_in(source: &Source, places: &[&str]) -> bool {
    places.iter().any(|place| source.path == *place || place.ends_with('/') && source.path.starts_with(place))
}

/// Names that only some places may use.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) names: &'static [&'static str],
    pub(super) places: &'static [&'static str],
    pub(super) rule: &'static str,
}

/// Each name only at home. Tests may use what they like.
pub(super) fn homes(sources: &[Source], homes: &[Home]) -> Broken {
    let mut broken = Vec::new();
    for home in homes {
        for source in sources.iter().filter(|source| !source.is_test() && !is_in(source, home.places)) {
            for name in home.names {
                broken.extend(source.find(name).into_iter().map(|at| tell(source, at, &format!("names {name}: {}", home.rule))));
            }
        }
    }
    broken
}

/// `std::fs`, and `fs` within `std::{…}` or `tokio::{…}`.
pub(super) fn files(sources: &[Source], readers: &[&str], owner: &str) -> Broken {
    let mut broken = Vec::new();
    for source in sources.iter().filter(|source| !source.is_test() && !source.path.starts_with(owner)) {
        let mut named = [source.find("std::fs"), source.find("tokio::fs")].concat();
        for group in ["std::{", "tokio::{"] {
            for (at, _) in source.code.match_indices(group) {
                let end = closing(&source.code, at, b'{', b'}');
                named.extend(source.find("fs").into_iter().filter(|fs| (at..end).contains(fs)));
            }
        }
        if !is_in(source, readers) {
            let what = format!("touches files: only {owner} does, and {} read what the configuration names", readers.join(", "));
            broken.extend(named.iter().map(|at| tell(source, *at, &what)));
        } else if !named.is_empty() {
            let writes = ["write", "create", "create_dir", "create_dir_all", "create_new", "options", "rename", "remove_file"];
            let further = ["remove_dir", "remove_dir_all", "set_permissions", "set_len", "copy", "hard_link", "OpenOptions"];
            for name in writes.iter().chain(&further) {
                let of_files = |at: &usize| source.code[..*at].ends_with("fs::") || source.code[..*at].ends_with("File::");
                let found = source.find(name).into_iter().filter(of_files);
                broken.extend(found.map(|at| tell(source, at, &format!("{name} changes files: outside {owner} they are only read"))));
            }
        }
    }
    broken
}

/// Nothing that does input or output, waits, or looks at a clock.
pub(super) fn pure(sources: &[Source], places: &[&str]) -> Broken {
    const IMPURE: [&str; 15] = [
        "async",
        "await",
        "axum",
        "hyper",
        "reqwest",
        "sled",
        "tokio",
        "tracing",
        "std::fs",
        "std::io",
        "std::env",
        "std::process",
        "std::thread",
        "SystemTime",
        "Instant",
    ];
    let mut broken = Vec::new();
    for source in sources.iter().filter(|source| !source.is_test() && is_in(source, places)) {
        for name in IMPURE {
            let what =
                format!("names {name}: {} are pure: they do no input or output, wait for nothing, and know no clock", places.join(" and "));
            broken.extend(source.find(name).into_iter().map(|at| tell(source, at, &what)));
        }
    }
    broken
}

/// A module and what it may use of the crate: modules that stand before it, or one item of them.
pub(super) type Layer = (&'static str, &'static [&'static str]);

/// An arrow that is in the code: who, whom (with the item, where it is named), and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Arrow {
    from: String,
    to: String,
    place: String,
}

/// Every `crate::…` in modules below `src`, which ends with a slash. Arrows within a module are left out.
pub(super) fn arrows(sources: &[Source], src: &str) -> Vec<Arrow> {
    let mut arrows = Vec::new();
    for source in sources.iter().filter(|source| !source.is_test()) {
        let Some(rest) = source.path.strip_prefix(src) else { continue };
        let from = rest.split('/').next().unwrap_or(rest).trim_end_matches(".rs");
        for at in source.find("crate") {
            let Some(path) = source.code[at..].strip_prefix("crate::") else { continue };
            let begin = at + "crate::".len();
            let paths = match path.strip_prefix('{') {
                Some(_) => group(&source.code[begin + 1..closing(&source.code, begin, b'{', b'}') - 1]),
                None => vec![path],
            };
            let names = paths.into_iter().map(target).filter(|to| !to.is_empty() && to.split("::").next() != Some(from));
            arrows.extend(names.map(|to| Arrow { from: from.to_owned(), to, place: format!("{}:{}", source.path, source.line(at)) }));
        }
    }
    arrows
}

/// The parts of `{a, b::{c, d}}` between its outer commas.
fn group(inside: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut begin) = (Vec::new(), 0_i32, 0);
    for (at, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inside[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inside[begin..]);
    parts
}

/// `module` or `module::Item`, whatever follows.
fn target(path: &str) -> String {
    let name = |text: &str| text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>();
    let path = path.trim_start();
    let module = name(path);
    match path[module.len()..].strip_prefix("::").map(name) {
        Some(item) if !item.is_empty() => format!("{module}::{item}"),
        _ => module,
    }
}

/// Arrows that no layer allows, but for those `to_turn`; and entries of `to_turn` that nothing needs any more.
pub(super) fn one_way(arrows: &[Arrow], layers: &[Layer], to_turn: &[(&str, &str)]) -> Broken {
    let mut broken = Vec::new();
    let mut needed = Vec::new();
    for (nth, (module, uses)) in layers.iter().enumerate() {
        let before = |used: &str| layers[..nth].iter().any(|(other, _)| used.split("::").next() == Some(other));
        broken.extend(
            uses.iter().filter(|used| !before(used)).map(|used| format!("the table: {module} may use {used}, which stands after it")),
        );
    }
    for Arrow { from, to, place } in arrows {
        let Some((_, uses)) = layers.iter().find(|(module, _)| module == from) else {
            broken.push(format!("{place}: the module {from} has no place in the table of layers"));
            continue;
        };
        let module = to.split("::").next().unwrap_or(to);
        let turn = to_turn.iter().find(|(a, b)| a == from && *b == module);
        if uses.iter().any(|used| used == to || *used == module) {
            continue;
        }
        match turn {
            Some(turn) => needed.push(turn),
            None => broken.push(format!("{place}: {from} uses {to}: arrows point one way, and {from} may use {}", list(uses))),
        }
    }
    let over = to_turn.iter().filter(|turn| !needed.contains(turn));
    broken.extend(over.map(|(from, to)| format!("the table: {from} no longer uses {to}: take it off the list of arrows to turn")));
    broken
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "nothing of the crate".to_owned() } else { names.join(", ") }
}

/// No file is longer than this before its tests.
pub(super) const LINES_MAX: usize = 400;

pub(super) fn short(sources: &[Source]) -> Broken {
    let long = sources.iter().filter(|source| source.lines > LINES_MAX);
    long.map(|source| format!("{}:{}: {} lines before its tests: at most {LINES_MAX}", source.path, LINES_MAX + 1, source.lines)).collect()
}

/// Every file says first what it is for.
pub(super) fn introduced(sources: &[Source]) -> Broken {
    let mute = sources.iter().filter(|source| !source.text.starts_with("//!"));
    mute.map(|source| format!("{}:1: begins without //!: every file says first what it is for", source.path)).collect()
}

/// Nothing waits to be done later, and nothing is left of a search for a mistake.
pub(super) fn finished(sources: &[Source]) -> Broken {
    // Spelt so that this file does not find itself.
    let words = ["TO\u{44}O", "FIX\u{4d}E", "X\u{58}X", "to\u{64}o!(", "unimplemente\u{64}!(", "db\u{67}!("];
    let mut broken = Vec::new();
    for source in sources {
        for (nth, line) in source.text.lines().enumerate() {
            let found = words.iter().filter(|word| line.contains(**word));
            broken.extend(found.map(|word| format!("{}:{}: {word}: do it, or open an issue", source.path, nth + 1)));
        }
    }
    broken
}

/// No lint is allowed for a whole file but where `exempt` says so, and none anywhere without a reason.
pub(super) fn lints(sources: &[Source], exempt: &[&str]) -> Broken {
    let mut broken = Vec::new();
    let mut needed = Vec::new();
    for source in sources {
        for (at, _) in source.code.match_indices('#') {
            let rest = &source.code[at + 1..];
            let inner = rest.starts_with("![");
            if !inner && !rest.starts_with('[') {
                continue;
            }
            let open = at + 1 + usize::from(inner);
            let attribute = &source.code[open..closing(&source.code, open, b'[', b']')];
            let has = |name: &str| {
                Source::new("", attribute).find(name).into_iter().any(|at| attribute[at + name.len()..].trim_start().starts_with('('))
            };
            if inner && has("allow") {
                if exempt.contains(&source.path.as_str()) {
                    needed.push(source.path.as_str());
                } else {
                    broken.push(tell(source, at, "allows a lint for a whole file: allow or expect it where it is needed"));
                }
            }
            if (has("allow") || has("expect")) && Source::new("", attribute).find("reason").is_empty() {
                broken.push(tell(source, at, "allows or expects a lint without saying why: add reason = \"…\""));
            }
        }
    }
    let over = exempt.iter().filter(|path| !needed.contains(path));
    broken.extend(over.map(|path| format!("{path}:1: no longer allows a lint for the whole file: take it off the list")));
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk(path: &str, text: &str) -> Vec<Source> {
        vec![Source::new(path, text)]
    }

    #[track_caller]
    fn check(broken: &Broken, expected: &[&str]) {
        assert_eq!(broken.len(), expected.len(), "{broken:#?}");
        for (line, expected) in broken.iter().zip(expected) {
            assert!(line.starts_with(expected), "{line}\nnot {expected}");
        }
    }

    #[test]
    fn a_library_away_from_home_is_found() {
        let home = [Home { names: &["axum"], places: &["agent/src/http/", "agent/src/x.rs"], rule: "only http does" }];
        let text = "// axum\nuse axum::Router;\n";
        check(&homes(&mk("agent/src/cache/mod.rs", text), &home), &["agent/src/cache/mod.rs:2: names axum: only http does"]);
        check(&homes(&mk("agent/src/http/mod.rs", text), &home), &[]);
        check(&homes(&mk("agent/src/x.rs", text), &home), &[]);
        check(&homes(&mk("agent/src/cache/tests.rs", text), &home), &[]);
        check(&homes(&mk("agent/src/http_more.rs", text), &home), &["agent/src/http_more.rs:2: "]);
    }

    #[test]
    fn files_outside_the_store_are_found() {
        let rule = |path: &str, text: &str| files(&mk(path, text), &["agent/src/config/file.rs"], "agent/src/store/");
        check(&rule("agent/src/cache/x.rs", "\nstd::fs::read(p)"), &["agent/src/cache/x.rs:2: touches files"]);
        check(&rule("agent/src/cache/x.rs", "use tokio::fs;"), &["agent/src/cache/x.rs:1: touches files"]);
        check(&rule("agent/src/cache/x.rs", "use std::{io,\n fs};"), &["agent/src/cache/x.rs:2: touches files"]);
        check(&rule("agent/src/cache/x.rs", "use std::io;"), &[]);
        check(&rule("agent/src/config/file.rs", "std::fs::read(p); std::fs::File::open(p); text.write(x); copy(y)"), &[]);
        check(&rule("agent/src/config/file.rs", "std::fs::write(p)"), &["agent/src/config/file.rs:1: write changes files"]);
        check(&rule("agent/src/config/file.rs", "std::fs::File::create(p)"), &["agent/src/config/file.rs:1: create changes files"]);
        check(&rule("agent/src/store/x.rs", "std::fs::write(p)"), &[]);
    }

    #[test]
    fn impure_words_are_found() {
        let rule = |path: &str, text: &str| pure(&mk(path, text), &["agent/src/oci/", "crd/src/"]);
        check(&rule("agent/src/oci/x.rs", "pub async fn f() {}"), &["agent/src/oci/x.rs:1: names async"]);
        check(&rule("crd/src/x.rs", "use std::fs;\nuse tokio::net;"), &["crd/src/x.rs:2: names tokio", "crd/src/x.rs:1: names std::fs"]);
        check(&rule("crd/src/x.rs", "use std::net::Ipv6Addr; // async"), &[]);
        check(&rule("agent/src/http/x.rs", "pub async fn f() {}"), &[]);
    }

    const LAYERS: [Layer; 4] = [("oci", &[]), ("upstream", &["oci"]), ("metrics", &["upstream::Observer"]), ("http", &["oci", "metrics"])];

    fn one_way_of(path: &str, text: &str) -> Broken {
        one_way(&arrows(&mk(path, text), "agent/src/"), &LAYERS, &[])
    }

    #[test]
    fn arrows_that_point_back_are_found() {
        check(&one_way_of("agent/src/http/mod.rs", "use crate::oci::Digest; use crate::http::x; use super::y;"), &[]);
        check(
            &one_way_of("agent/src/oci/mod.rs", "\nfn f() { crate::http::g() }"),
            &["agent/src/oci/mod.rs:2: oci uses http::g: arrows point one way, and oci may use nothing of the crate"],
        );
        check(
            &one_way_of("agent/src/oci.rs", "use crate::{\n  oci::a,\n  upstream::{b, c},\n  http};"),
            &["agent/src/oci.rs:1: oci uses upstream", "agent/src/oci.rs:1: oci uses http:"],
        );
        check(&one_way_of("agent/src/new/mod.rs", "use crate::oci::Digest;"), &["agent/src/new/mod.rs:1: the module new has no place"]);
        check(&one_way_of("agent/src/oci/tests.rs", "use crate::http::x;"), &[]);
    }

    #[test]
    fn a_module_may_be_allowed_one_item_of_another() {
        check(&one_way_of("agent/src/metrics.rs", "impl crate::upstream::Observer for X {}"), &[]);
        check(
            &one_way_of("agent/src/metrics.rs", "use crate::upstream::Upstream;"),
            &["agent/src/metrics.rs:1: metrics uses upstream::Upstream"],
        );
        check(
            &one_way_of("agent/src/metrics.rs", "use crate::upstream::{Observer, Upstream};"),
            &["agent/src/metrics.rs:1: metrics uses upstream:"],
        );
    }

    #[test]
    fn the_table_itself_points_one_way_and_forgets_what_was_turned() {
        check(&one_way(&[], &[("a", &["b"]), ("b", &[])], &[]), &["the table: a may use b, which stands after it"]);
        check(&one_way(&[], &[("a", &["a"])], &[]), &["the table: a may use a, which stands after it"]);
        let back = arrows(&mk("agent/src/oci/mod.rs", "use crate::http::x;"), "agent/src/");
        check(&one_way(&back, &LAYERS, &[("oci", "http")]), &[]);
        check(&one_way(&[], &LAYERS, &[("oci", "http")]), &["the table: oci no longer uses http"]);
    }

    #[test]
    fn long_files_are_found() {
        let lines = |count: usize| "x\n".repeat(count);
        check(&short(&mk("a.rs", &lines(400))), &[]);
        check(&short(&mk("a.rs", &lines(401))), &["a.rs:401: 401 lines before its tests"]);
        check(&short(&mk("a.rs", &format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", lines(400), lines(99)))), &[]);
    }

    #[test]
    fn files_without_a_word_about_themselves_are_found() {
        check(&introduced(&mk("a.rs", "//! What it is for.\n")), &[]);
        check(&introduced(&mk("a.rs", "// What it is for.\n")), &["a.rs:1: begins without"]);
        check(&introduced(&mk("a.rs", "")), &["a.rs:1: begins without"]);
    }

    #[test]
    fn what_was_left_for_later_is_found() {
        check(&finished(&mk("a.rs", "fn f() {}\n// TO\u{44}O: this\nfn g() { to\u{64}o!() }\n")), &["a.rs:2: ", "a.rs:3: "]);
        check(&finished(&mk("a.rs", "fn todos() {}\n")), &[]);
    }

    #[test]
    fn lints_that_are_allowed_without_a_reason_are_found() {
        let rule = |text: &str| lints(&mk("a.rs", text), &[]);
        check(&rule("#[expect(x, reason = \"because\")]\nfn f() { y.expect(\"z must be\"); a[0].allow(b); }"), &[]);
        check(&rule("fn f() {}\n#[allow(dead_code)]\nfn g() {}"), &["a.rs:2: allows or expects a lint without saying why"]);
        check(&rule("#[expect(\n  dead_code\n)]"), &["a.rs:1: allows or expects"]);
        check(&rule("#[cfg_attr(test, allow(dead_code))]"), &["a.rs:1: allows or expects"]);
        check(&rule("#![allow(dead_code, reason = \"lazy\")]"), &["a.rs:1: allows a lint for a whole file"]);
        check(&rule("#![deny(missing_docs)]\n#![cfg(test)]"), &[]);
    }

    #[test]
    fn a_file_is_exempt_only_as_long_as_it_needs_to_be() {
        check(&lints(&mk("a.rs", "#![allow(x, reason = \"y\")]"), &["a.rs"]), &[]);
        check(&lints(&mk("a.rs", "fn f() {}"), &["a.rs"]), &["a.rs:1: no longer allows"]);
    }
}
