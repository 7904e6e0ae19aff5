//! The two mappings of `image.rs`: text to reference and reference to localhost path, by table and by property.

use kuik_crd::{Image, ImageError, Registry, Repository, RepositoryError, Target};
use proptest::prelude::*;

const LOCAL: &str = "localhost:7439";
const DIGEST: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

fn local(text: &str) -> String {
    let image: Image = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
    let path = image.to_local(LOCAL).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(Image::from_local(LOCAL, &path), Ok(image), "{text}");
    path.strip_prefix("localhost:7439/").expect("a local form must begin with the address").to_owned()
}

#[test]
fn references_get_the_path_that_the_design_gives_them() {
    for (text, path) in [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1.25", "docker.io/library/nginx:1.25"),
        ("bitnami/redis", "docker.io/bitnami/redis:latest"),
        ("docker.io/nginx", "docker.io/library/nginx:latest"),
        ("index.docker.io/library/nginx", "docker.io/library/nginx:latest"),
        ("registry-1.docker.io/a/b:c", "docker.io/a/b:c"),
        ("registry.local:5000/app:1", "registry.local__5000/app:1"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app", "localhost__5000/app:latest"),
        ("myhost:5000/app", "myhost__5000/app:latest"),
        ("Registry.Example.COM/app", "registry.example.com/app:latest"),
        ("10.0.0.1/app", "10.0.0.1/app:latest"),
        ("[fd00::1]:5000/app:1", "ip6-fd000000000000000000000000000001__5000/app:1"),
        ("[::1]/app", "ip6-00000000000000000000000000000001/app:latest"),
        ("gcr.io/a/blobs/manifests/b:t", "gcr.io/a/blobs/manifests/b:t"),
    ] {
        assert_eq!(local(text), path, "{text}");
    }
    assert_eq!(local(&format!("nginx@{DIGEST}")), format!("docker.io/library/nginx@{DIGEST}"));
    assert_eq!(local(&format!("nginx:1.25@{DIGEST}")), format!("docker.io/library/nginx:1.25@{DIGEST}"));
}

#[test]
fn a_digest_is_what_a_runtime_asks_for_when_there_is_one() {
    let image: Image = format!("nginx:1@{DIGEST}").parse().unwrap();
    assert_eq!(image.target(), Target::Digest(DIGEST.parse().unwrap()));
    assert_eq!("nginx".parse::<Image>().unwrap().target().to_string(), "latest");
}

#[test]
fn what_is_no_reference_is_refused() {
    for text in [
        "",
        "/",
        ":",
        "@",
        "Nginx",
        "nginx:",
        "nginx@",
        "nginx:a b",
        "a//b",
        "a/",
        "/a",
        "a:b:c",
        "-a",
        "a-",
        "a___b",
        "a..b",
        "a/_b",
        "host:0/a",
        "host:99999/a",
        "host:x/a",
        "[::1/a",
        "[::g]/a",
        "[::1]x/a",
        "nginx@sha256:abc",
        "nginx@md5:abc",
        "FOO/bar",
        "-bad.example/a",
        "bad-.example/a",
        "a_b.example/c",
        "ip6-00000000000000000000000000000001:5000/a",
        "é/a",
        "nginx\n",
        "a@sha256:x@sha256:y",
    ] {
        assert!(text.parse::<Image>().is_err(), "{text:?} was taken for a reference");
    }
}

#[test]
fn a_path_longer_than_runtimes_accept_is_refused() {
    let image: Image = format!("registry.local:5000/{}", "a".repeat(234)).parse().unwrap();
    assert!(image.to_local(LOCAL).is_ok());
    let image: Image = format!("registry.local:5000/{}", "a".repeat(235)).parse().unwrap();
    assert_eq!(image.to_local(LOCAL), Err(ImageError::TooLong));
}

#[test]
fn a_path_for_another_address_is_refused() {
    assert_eq!(Image::from_local(LOCAL, "localhost:5000/docker.io/library/nginx"), Err(ImageError::NotLocal));
    assert_eq!(Image::from_local(LOCAL, "localhost:74390/nginx"), Err(ImageError::NotLocal));
}

#[test]
fn a_path_without_registry_is_on_docker_hub() {
    assert_eq!(Repository::from_path("nginx").unwrap().to_string(), "docker.io/library/nginx");
    assert_eq!(Repository::from_path("bitnami/redis").unwrap().to_string(), "docker.io/bitnami/redis");
    assert_eq!(Repository::from_path("Nginx"), Err(RepositoryError::Name));
    assert!(Repository::from_path("host:5000/a").is_err(), "a port has its own form in a path");
}

#[test]
fn kuik_v1_wrote_the_port_after_a_dash() {
    let v1 = |text: &str| text.parse::<Registry>().unwrap().v1_host_port().map(|r| r.to_string());
    assert_eq!(v1("registry.local-5000"), Some("registry.local:5000".to_owned()));
    assert_eq!(v1("registry.local"), None);
    assert_eq!(v1("registry-a.local"), None);
    assert_eq!(v1("registry.local-5000:80"), None);
}

fn reference() -> impl Strategy<Value = String> {
    let host = prop_oneof![
        "[a-zA-Z0-9]{1,8}(\\.[a-zA-Z0-9]([a-z0-9-]{0,6}[a-z0-9])?){1,3}",
        any::<u32>().prop_map(|ip| std::net::Ipv4Addr::from(ip).to_string()),
        any::<u128>().prop_map(|ip| format!("[{}]", std::net::Ipv6Addr::from(ip))),
        Just("localhost".to_owned()),
    ];
    let registry = (host, proptest::option::of(1_u16..)).prop_map(|(host, port)| match port {
        Some(port) => format!("{host}:{port}/"),
        None => format!("{host}/"),
    });
    let part = "[a-z0-9]{1,5}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}";
    let name = proptest::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"));
    let tag = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}";
    (proptest::option::of(registry), name, proptest::option::of(tag), proptest::option::of("[0-9a-f]{64}")).prop_map(
        |(registry, name, tag, digest)| {
            let tag = tag.map(|tag| format!(":{tag}")).unwrap_or_default();
            let digest = digest.map(|hex| format!("@sha256:{hex}")).unwrap_or_default();
            // By the grammar a first part with a dot is a host: a name that has one needs its registry before it.
            let registry = registry.unwrap_or_else(|| if name.contains('.') { "docker.io/".to_owned() } else { String::new() });
            format!("{registry}{name}{tag}{digest}")
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn decode_undoes_encode(text in reference()) {
        let image: Image = text.parse().unwrap();
        let path = image.to_local(LOCAL).unwrap();
        prop_assert_eq!(Image::from_local(LOCAL, &path).unwrap(), image.clone());
        prop_assert_eq!(image.to_string().parse::<Image>().unwrap(), image);
    }

    #[test]
    fn no_text_panics_and_what_parses_round_trips(text in "\\PC{0,80}") {
        if let Ok(image) = text.parse::<Image>() {
            prop_assert_eq!(image.to_string().parse::<Image>().unwrap(), image.clone());
            if let Ok(path) = image.to_local(LOCAL) {
                prop_assert_eq!(Image::from_local(LOCAL, &path).unwrap(), image);
            }
        }
    }

    #[test]
    fn near_references_round_trip_too(text in "[a-zA-Z0-9\\[\\]:/@._-]{0,60}") {
        if let Ok(image) = text.parse::<Image>() && let Ok(path) = image.to_local(LOCAL) {
            prop_assert_eq!(Image::from_local(LOCAL, &path).unwrap(), image);
        }
    }
}
