//! Source files as the rules see them: code without comments, without the content of strings, and without tests.

use std::path::Path;

/// One file of the source tree.
#[derive(Debug)]
pub(super) struct Source {
    /// From the root of the repository, such as `agent/src/http/mod.rs`.
    pub(super) path: String,
    /// The file as it is.
    pub(super) text: String,
    /// The code: of the same lines as the file, with spaces where comments, strings and inline tests were.
    pub(super) code: String,
    /// How many lines come before the inline tests.
    pub(super) lines: usize,
}

impl Source {
    pub(super) fn new(path: &str, text: &str) -> Self {
        let plain = blank(text);
        let tests = inline_tests(&plain);
        let lines = tests.first().map_or(text.lines().count(), |range| line_of(&plain, range.start) - 1);
        let mut code: Vec<u8> = plain.into_bytes();
        for range in tests {
            code[range].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
        }
        let code = String::from_utf8(code).expect("blanked code must be ASCII where it was cut");
        Self { path: path.to_owned(), text: text.to_owned(), code, lines }
    }

    /// Whether the whole file is a test.
    pub(super) fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    /// The line, from 1, of a byte of [`Source::code`].
    pub(super) fn line(&self, at: usize) -> usize {
        line_of(&self.code, at)
    }

    /// Where `path` stands as a path of its own: `fs` is in `std::fs::read`, not in `offs`.
    pub(super) fn find(&self, path: &str) -> Vec<usize> {
        let is_name = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
        let code = self.code.as_bytes();
        let whole = |at: &usize| !is_name(at.checked_sub(1).and_then(|before| code.get(before))) && !is_name(code.get(at + path.len()));
        self.code.match_indices(path).map(|(at, _)| at).filter(whole).collect()
    }
}

/// All Rust files below `dir`, which is given from `root`.
pub(super) fn read_all(root: &Path, dir: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        let entries = std::fs::read_dir(root.join(&dir)).unwrap_or_else(|error| panic!("{dir} must be a directory: {error}"));
        for entry in entries {
            let entry = entry.unwrap();
            let path = format!("{dir}/{}", entry.file_name().to_string_lossy());
            if entry.file_type().unwrap().is_dir() {
                open.push(path);
            } else if path.ends_with(".rs") {
                sources.push(Source::new(&path, &std::fs::read_to_string(entry.path()).unwrap()));
            }
        }
    }
    assert!(!sources.is_empty(), "{dir} must hold Rust files");
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Puts spaces in the place of comments, of what strings and characters hold, and of what is not ASCII. Lines stay lines.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let length = literal(&chars[at..]).unwrap_or(0);
        if length == 0 {
            out.push(if chars[at].is_ascii() { chars[at] } else { ' ' });
            // The `r` of a name such as `for` begins no string.
            while is_name(chars[at]) && chars.get(at + 1).is_some_and(|next| is_name(*next)) {
                at += 1;
                out.push(chars[at]);
            }
            at += 1;
        } else {
            out.extend(chars[at..at + length].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at += length;
        }
    }
    out
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The length of the comment, string or character that begins here.
fn literal(chars: &[char]) -> Option<usize> {
    let second = chars.get(1);
    match chars[0] {
        '/' if second == Some(&'/') => Some(chars.iter().position(|c| *c == '\n').unwrap_or(chars.len())),
        '/' if second == Some(&'*') => Some(block_comment(chars)),
        '"' => Some(quoted(chars, '"')),
        // A lifetime has no quote after its first letter.
        '\'' if second == Some(&'\\') || chars.get(2) == Some(&'\'') => Some(quoted(chars, '\'')),
        'b' | 'c' if second == Some(&'"') => Some(1 + quoted(&chars[1..], '"')),
        'b' if second == Some(&'\'') => Some(1 + quoted(&chars[1..], '\'')),
        'b' | 'c' if second == Some(&'r') => raw(&chars[1..]).map(|length| length + 1),
        'r' => raw(chars),
        _ => None,
    }
}

fn block_comment(chars: &[char]) -> usize {
    let (mut at, mut depth) = (0, 0_usize);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (at, depth) = (at + 2, depth + 1),
            ('*', Some('/')) => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted(chars: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < chars.len() && chars[at] != quote {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

/// `r"…"`, `r#"…"#` and so on; `None` for a name that begins with `r`.
fn raw(chars: &[char]) -> Option<usize> {
    let hashes = chars[1..].iter().take_while(|c| **c == '#').count();
    let body = 2 + hashes;
    if chars.get(1 + hashes) != Some(&'"') {
        return None;
    }
    let closes = |at: &usize| chars[*at] == '"' && chars[at + 1..].iter().take_while(|c| **c == '#').count() >= hashes;
    Some((body..chars.len()).find(closes).map_or(chars.len(), |at| at + 1 + hashes))
}

/// Every `#[cfg(test)] mod … { … }` of blanked code.
fn inline_tests(code: &str) -> Vec<std::ops::Range<usize>> {
    const MARK: &str = "#[cfg(test)]";
    let mut found = Vec::new();
    for (start, _) in code.match_indices(MARK) {
        let rest = &code[start + MARK.len()..];
        let head = rest.find(['{', ';']).unwrap_or(rest.len());
        if rest[..head].trim_start().starts_with("mod ") && rest[head..].starts_with('{') {
            let open = start + MARK.len() + head;
            found.push(start..closing(code, open, b'{', b'}'));
        }
    }
    found
}

/// The end of what opens at `open`, its closing bracket included.
pub(super) fn closing(code: &str, open: usize, left: u8, right: u8) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        if byte == left {
            depth += 1;
        } else if byte == right {
            depth -= 1;
            if depth == 0 {
                return at + 1;
            }
        }
    }
    code.len()
}

#[test]
fn comments_strings_and_tests_are_no_code() {
    let text = "//! axum\nfn f<'a>() { g(\"axum \\\" axum\", r#\"axum\"axum\"#, '\"', b'x', '\\''); for_r\"axum\"; /* axum /* axum */ */ }\n\
        #[cfg(test)]\nmod tests {\n    use axum;\n}\nfn h() {}\n#[cfg(test)]\nmod more;\n";
    let source = Source::new("a/src/x.rs", text);
    assert_eq!(source.find("axum"), [0_usize; 0], "{}", source.code);
    assert!(source.code.contains("fn f<'a>() { g(") && source.code.contains("fn h() {}"), "{}", source.code);
    assert_eq!(source.lines, 2);
    assert_eq!(source.code.lines().count(), text.lines().count());
}

#[test]
fn names_are_found_whole_and_with_their_line() {
    let source = Source::new("a/src/x.rs", "use a;\nuse axum_server::x;\nuse axum::y;\n");
    let found: Vec<_> = source.find("axum").into_iter().map(|at| source.line(at)).collect();
    assert_eq!(found, [3]);
}

#[test]
fn files_of_tests_are_known_by_their_place() {
    let is_test = |path| Source::new(path, "").is_test();
    assert!(is_test("agent/src/cli/tests.rs") && is_test("agent/src/upstream/tests/auth.rs") && is_test("agent/tests/it/tags.rs"));
    assert!(!is_test("agent/src/http/mod.rs"));
}
