//! The client against a server of a few lines: what is asked, what is made of the answer, and what a failure says.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;

use clap::Parser as _;

use super::client::AdminClient;
use super::images;
use super::pull;
use super::screen::Screen;
use super::verify::{self, Verdict};
use super::{Failure, ask, gc};
use crate::args::{Args, Command};

/// Answers one request with `answer` and returns its first line.
fn mk_server(answer: String) -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            request.extend(byte);
        }
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(request).unwrap().lines().next().unwrap().to_owned()
    });
    (address, server)
}

fn mk_answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// What a command came to: the verdict of `verify`, and what was printed.
type Told = Result<(Verdict, String), Failure>;

/// Runs the command line `words` against a server that gives `answer`: the request, and what it came to.
fn talk(words: &[&str], answer: String) -> (String, Told) {
    let (address, server) = mk_server(answer);
    let told = run(words, &address.to_string());
    (server.join().unwrap(), told)
}

fn run(words: &[&str], admin: &str) -> Told {
    // Another test may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut out = Vec::new();
    let screen = &mut Screen::memory(&mut out);
    let command = [["kuik-agent"].as_slice(), words, &["--admin", admin]].concat();
    let verdict = match Args::parse_from(command).command {
        Command::Pull(args) => ask(pull::pull(args, screen)).map(|()| Verdict::Good),
        Command::Ls(args) => ask(images::ls(args, screen)).map(|()| Verdict::Good),
        Command::Inspect(args) => ask(images::inspect(args, screen)).map(|()| Verdict::Good),
        Command::Verify(args) => ask(verify::verify(args, screen)),
        Command::Gc(args) => ask(gc::gc(args, screen)).map(|()| Verdict::Good),
        Command::Pin(args) => ask(gc::pin(args, true, screen)).map(|()| Verdict::Good),
        Command::Unpin(args) => ask(gc::pin(args, false, screen)).map(|()| Verdict::Good),
        Command::Serve(_) => panic!("serve is no client"),
    }?;
    Ok((verdict, String::from_utf8(out).unwrap()))
}

const PULLED: &str = concat!(
    r#"{"event":"manifest","digest":"sha256:aa","mediaType":"m","sizeBytes":5}"#,
    "\n",
    r#"{"event":"blob","digest":"sha256:bb","sizeBytes":null,"doneBytes":0,"cached":false}"#,
    "\n",
    r#"{"event":"blob","digest":"sha256:bb","sizeBytes":9,"doneBytes":9,"cached":false}"#,
    "\n",
    r#"{"event":"of tomorrow","x":1}"#,
    "\n",
    r#"{"event":"done","digest":"sha256:aa","bytes":14}"#,
    "\n",
);

#[test]
fn pull_asks_for_the_normalised_image_and_the_platform() {
    let (request, told) = talk(&["pull", "nginx", "--platform", "linux/arm64"], mk_answer("200 OK", PULLED));
    let lines = told.unwrap().1;
    let (first, last) = (lines.lines().next(), lines.lines().last());
    assert_eq!(first, Some("manifest aa  5 B  m"));
    assert_eq!(last, Some("docker.io/library/nginx:latest is in the cache: sha256:aa, 14 B"));
    assert_eq!(request, "POST /v1/pull?reference=docker.io%2Flibrary%2Fnginx%3Alatest&platform=linux%2Farm64 HTTP/1.1");
}

#[test]
fn pull_takes_all_platforms_or_the_own_one() {
    let (request, told) = talk(&["pull", "localhost:7439/a.b/c:1", "--all-platforms", "--output", "json"], mk_answer("200 OK", PULLED));
    assert_eq!(told.unwrap().1, PULLED);
    assert_eq!(request, "POST /v1/pull?reference=a.b%2Fc%3A1&all=true HTTP/1.1");
    let (request, told) = talk(&["pull", "nginx"], mk_answer("200 OK", PULLED));
    told.unwrap();
    assert!(request.contains(&format!("&platform={}", super::Platform::own().as_str().replace('/', "%2F"))), "{request}");
}

#[test]
fn a_pull_that_fails_half_way_says_why() {
    let body = "{\"event\":\"error\",\"message\":\"no such\\u001b tag\"}\n";
    for words in [["pull", "nginx"].as_slice(), &["pull", "nginx", "--output", "json"]] {
        let failure = talk(words, mk_answer("200 OK", body)).1.unwrap_err();
        assert_eq!((failure.exit_code(), failure.line()), (1, "no such\u{fffd} tag".to_owned()));
    }
}

#[test]
fn a_stream_without_its_end_is_a_failure() {
    let whole = mk_answer("200 OK", PULLED);
    for (cut, reason) in [(10, "broke off ("), (0, "broke off (the last event is missing)")] {
        let answer = if cut > 0 { whole[..whole.len() - cut].to_owned() } else { mk_answer("200 OK", "") };
        let failure = talk(&["pull", "nginx"], answer).1.unwrap_err();
        assert!(failure.exit_code() == 1 && failure.line().contains(reason), "{}", failure.line());
    }
}

#[test]
fn ls_and_inspect_read_what_the_agent_says() {
    let image = r#""reference":"a.b/c:1","digest":"sha256:aa","mediaType":"m","sizeBytes":5,"complete":true,"lastUsed":null,"validatedAt":null,"upstreamStatus":"ok""#;
    let (list, one) = (format!("{{\"images\":[{{{image}}}]}}"), format!("{{{image},\"manifests\":[]}}"));
    let check = |words: &[&str], body: &str, request: &str, first: &str| {
        let (asked, told) = talk(words, mk_answer("200 OK", body));
        let printed = told.unwrap().1;
        assert_eq!((asked.as_str(), printed.lines().next()), (request, Some(first)));
    };
    let (all, inspected) = ("GET /v1/images HTTP/1.1", "GET /v1/image?reference=a.b%2Fc%3A1 HTTP/1.1");
    check(&["ls"], &list, all, "REFERENCE   DIGEST   SIZE   LAST USED   TAG AGE   UPSTREAM   COMPLETE   PINNED");
    check(&["ls", "--output", "json"], &list, all, &list);
    check(&["inspect", "a.b/c:1"], &one, inspected, "Reference:    a.b/c:1");
    check(&["inspect", "a.b/c:1", "--output", "json"], &one, inspected, &one);
}

#[test]
fn gc_and_pins_ask_the_agent() {
    let report = r#"{"budgetBytes":9,"usedBytes":5,"targetBytes":7,"missingBytes":0,"images":[],"orphans":{"blobs":0,"bytes":0}}"#;
    let (asked, told) = talk(&["gc", "--dry-run"], mk_answer("200 OK", report));
    assert_eq!(asked, "POST /v1/gc?dryRun=true HTTP/1.1");
    assert!(
        told.unwrap()
            .1
            .ends_with("0 of 0 images and 0 orphaned blobs (0 B) would go; the cache takes 5 B of 9 B, and eviction ends at 7 B\n")
    );
    let (asked, told) = talk(&["gc", "--output", "json"], mk_answer("200 OK", report));
    assert_eq!((asked.as_str(), told.unwrap().1), ("POST /v1/gc?dryRun=false HTTP/1.1", format!("{report}\n")));
    for (word, pinned) in [("pin", true), ("unpin", false)] {
        let body = format!(r#"{{"reference":"a.b/c:1","pinned":{pinned},"changed":true}}"#);
        let (asked, told) = talk(&[word, "localhost:7439/a.b/c:1"], mk_answer("200 OK", &body));
        assert_eq!(asked, format!("POST /v1/{word}?reference=a.b%2Fc%3A1 HTTP/1.1"));
        assert!(told.unwrap().1.starts_with("a.b/c:1 "));
    }
}

#[test]
fn an_error_of_the_agent_is_passed_on() {
    let failure = talk(&["inspect", "nginx"], mk_answer("404 Not Found", r#"{"error":"not in the cache"}"#)).1.unwrap_err();
    assert_eq!((failure.exit_code(), failure.line()), (1, "not in the cache".to_owned()));
}

#[test]
fn something_else_at_the_address_is_noticed() {
    for answer in [mk_answer("404 Not Found", "<html>"), mk_answer("200 OK", "<html>"), mk_answer("302 Found", "")] {
        let (address, _server) = mk_server(answer);
        let failure = run(&["ls"], &address.to_string()).unwrap_err();
        let line = failure.line();
        assert!(
            line.starts_with(&format!("{address} answers, but not as an agent's admin port does (")) && line.contains("--admin"),
            "{line}"
        );
    }
}

#[test]
fn an_agent_that_is_not_there_leaves_one_line_with_address_and_way_out() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    for words in [["ls"].as_slice(), &["inspect", "nginx"], &["pull", "nginx"], &["verify"]] {
        let failure = run(words, &address.to_string()).unwrap_err();
        let expected = format!(
            "no agent answers at {address} (Connection refused (os error 111)): kuik-agent serve starts one there; --admin or KUIK_ADMIN \
             names another address"
        );
        assert_eq!((failure.exit_code(), failure.line()), (1, expected));
    }
}

#[test]
fn verify_is_bad_when_anything_was() {
    let check = |lines: &[&str], verdict| {
        for output in ["table", "json"] {
            let (request, told) = talk(&["verify", "--output", output], mk_answer("200 OK", &format!("{}\n", lines.join("\n"))));
            assert_eq!((request.as_str(), told.unwrap().0), ("POST /v1/verify HTTP/1.1", verdict));
        }
    };
    let progress = r#"{"event":"progress","checked":1,"total":1,"bytes":5}"#;
    let bad = r#"{"event":"bad","digest":"sha256:aa","reason":"rot"}"#;
    check(&[progress, r#"{"event":"done","checked":1,"bytes":5,"quarantined":0}"#], Verdict::Good);
    check(&[bad, progress, r#"{"event":"done","checked":1,"bytes":5,"quarantined":1}"#], Verdict::Bad);
    check(&[bad, progress, r#"{"event":"done","checked":1,"bytes":5,"quarantined":0}"#], Verdict::Bad);
}

#[test]
fn a_line_may_come_in_pieces() {
    let mut answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
    for line in PULLED.lines() {
        let (head, tail) = line.split_at(line.len() / 2);
        answer.push_str(&format!("{:x}\r\n{head}\r\n{:x}\r\n{tail}\n\r\n", head.len(), tail.len() + 1));
    }
    answer.push_str("0\r\n\r\n");
    let (address, _server) = mk_server(answer);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let read = ask(async {
        let mut lines = AdminClient::new(&address.to_string().parse().unwrap())?.verify().await?;
        let mut all = String::new();
        while let Some(line) = lines.next().await? {
            all.push_str(&line);
            all.push('\n');
        }
        Ok(all)
    });
    assert_eq!(read.unwrap(), PULLED);
}
