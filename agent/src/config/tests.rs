//! What is taken, what is refused, and the line that a refusal leaves.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser as _;

use super::file::File;
use super::load::merge;
use super::{Amount, CacheConfig, Config, ConfigError, ControlConfig, HostPort, RegistryConfig, Scope, ScrubConfig};
use crate::args::{Args, Command, ServeArgs};
use crate::telemetry;

const PATH: &str = "/etc/kuik/config.yaml";

fn mk_args(flags: &[&str]) -> ServeArgs {
    let args = Args::try_parse_from(["kuik-agent", "serve"].iter().chain(flags)).unwrap();
    let Command::Serve(args) = args.command else { panic!("not serve") };
    *args
}

fn load(yaml: &str, flags: &[&str]) -> Result<Config, ConfigError> {
    let path = Path::new(PATH);
    merge(mk_args(flags), File::parse(path, yaml)?, path)
}

/// `yaml` is refused with `message` after the file's name.
fn check(yaml: &str, message: &str) {
    let error = load(yaml, &[]).unwrap_err();
    assert_eq!(telemetry::chain(&error), format!("{PATH}{message}"), "{yaml}");
}

fn mk_file(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

#[test]
fn without_file_and_flags_the_defaults_hold() {
    for yaml in ["", "# nothing\n", "---\n", "tags: {}\n", "tags:\n", "registries:\nlimits:\n", "listen:\ntags: {freshFor: }", "null"] {
        let config = load(yaml, &[]).unwrap();
        assert_eq!(config.listen, ["127.0.0.1:7439".parse().unwrap(), "[::1]:7439".parse().unwrap()]);
        assert!(config.listen_is_default);
        assert_eq!(config.admin_listen, "127.0.0.1:7441".parse().unwrap());
        assert_eq!(config.data_dir, Path::new("/var/lib/kuik"));
        assert_eq!(config.drain_timeout, Duration::from_secs(30));
        assert_eq!(config.tags.fresh_for, Duration::from_secs(60));
        assert!(config.upstream.registries.is_empty());
    }
}

#[test]
fn every_key_of_the_file_arrives() {
    let (_dir, ca) = mk_file("ca.pem", &rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap().cert.pem());
    let (_dir2, auth) = mk_file("config.json", "{\"auths\": {}}");
    let yaml = format!(
        r#"
listen: ["127.0.0.1:1", "[::1]:1"]
adminListen: 127.0.0.1:2
dataDir: /data
drainTimeout: 1m
registryAuth: {auth}
plainHttp: [plain.local:5000]
registries:
  docker.io:
    endpoints: ["https://mirror.example/prefix", registry-1.docker.io]
    plainHttp: false
    ca: {ca}
    insecureSkipVerify: true
    limits: {{maxConnections: 7}}
tags: {{freshFor: 0s, revalidateTimeout: 3s}}
limits: {{maxConnections: 4, headerTimeout: 5s, writeTimeout: 6s}}
upstream:
  stallTimeout: 7s
  connectTimeout: 8s
  maxConcurrentFills: 9
  fillQueueTimeout: 10s
  maxAttempts: 11
  maxConnectionsPerRegistry: 12
"#,
        auth = auth.display(),
        ca = ca.display()
    );
    let config = load(&yaml, &[]).unwrap();
    assert_eq!(config.listen, ["127.0.0.1:1".parse().unwrap(), "[::1]:1".parse().unwrap()]);
    assert!(!config.listen_is_default);
    assert_eq!(config.admin_listen, "127.0.0.1:2".parse().unwrap());
    assert_eq!((config.data_dir.to_str(), config.drain_timeout.as_secs()), (Some("/data"), 60));
    assert_eq!((config.tags.fresh_for.as_secs(), config.tags.revalidate_timeout.as_secs()), (0, 3));
    let limits = config.limits;
    assert_eq!((limits.max_connections, limits.header_timeout.as_secs(), limits.write_timeout.as_secs()), (4, 5, 6));
    let upstream = config.upstream;
    assert_eq!((upstream.stall_timeout.as_secs(), upstream.connect_timeout.as_secs(), upstream.max_concurrent_fills), (7, 8, 9));
    assert_eq!((upstream.fill_queue_timeout.as_secs(), upstream.max_attempts, upstream.max_connections_per_registry), (10, 11, 12));
    assert_eq!(upstream.auth_file, Some(auth));
    let hub = RegistryConfig {
        endpoints: vec!["https://mirror.example/prefix".parse().unwrap(), "registry-1.docker.io".parse().unwrap()],
        plain_http: false,
        ca: Some(ca),
        insecure_skip_verify: true,
        max_connections: Some(7),
    };
    let plain = RegistryConfig { plain_http: true, ..RegistryConfig::default() };
    let registries = [("docker.io".parse().unwrap(), hub), ("plain.local:5000".parse().unwrap(), plain)];
    assert_eq!(upstream.registries, registries.into());
}

#[test]
fn flags_overrule_the_file() {
    let yaml = "
listen: ['127.0.0.1:1']
adminListen: 127.0.0.1:2
dataDir: /file
drainTimeout: 1s
registryAuth: /does/not/matter
plainHttp: [file.local]
registries: {flag.local: {plainHttp: false, insecureSkipVerify: true}}
tags: {freshFor: 2s}";
    let (_dir, auth) = mk_file("config.json", "{}");
    let flags = ["--listen=127.0.0.1:3,[::1]:3", "--listen=127.0.0.2:3", "--admin-listen=127.0.0.1:4", "--data-dir=/flag"];
    let more = ["--drain-timeout=3s", "--plain-http=flag.local", "--tag-fresh-for=1m30s", "--registry-auth", auth.to_str().unwrap()];
    let config = load(yaml, &[flags.as_slice(), more.as_slice()].concat()).unwrap();
    assert_eq!(config.listen, ["127.0.0.1:3", "[::1]:3", "127.0.0.2:3"].map(|text| text.parse().unwrap()));
    assert_eq!(config.admin_listen.port(), 4);
    assert_eq!(config.data_dir, Path::new("/flag"));
    assert_eq!((config.drain_timeout.as_secs(), config.tags.fresh_for.as_secs()), (3, 90));
    assert_eq!(config.upstream.auth_file, Some(auth));
    let flag = RegistryConfig { plain_http: true, insecure_skip_verify: true, ..RegistryConfig::default() };
    assert_eq!(config.upstream.registries, [("flag.local".parse().unwrap(), flag)].into());
}

#[test]
fn an_unknown_key_is_named_with_the_known_ones() {
    check("tags: {freshfor: 1s}", ": tags.freshfor: unknown key: expected one of freshFor, revalidateTimeout");
    check(
        "registries: {docker.io: {mirrors: []}}",
        ": registries.\"docker.io\".mirrors: unknown key: expected one of endpoints, plainHttp, ca, insecureSkipVerify, limits",
    );
    check(
        "tag: {}",
        ": tag: unknown key: expected one of listen, adminListen, dataDir, drainTimeout, registryAuth, plainHttp, registries, tags, \
         limits, upstream, cache, auth",
    );
}

#[test]
fn a_bad_duration_is_named_with_what_was_expected() {
    const EXPECTED: &str = "expected numbers with units up to 3650d, such as 500ms, 10s, 5m, 12h, 7d or 1h30m";
    check("tags: {freshFor: 60}", &format!(": tags.freshFor: invalid type: integer `60`, {EXPECTED}"));
    check("tags: {freshFor: '60'}", &format!(": tags.freshFor: not a duration: \"60\": {EXPECTED}"));
    check("upstream: {stallTimeout: 10 s}", &format!(": upstream.stallTimeout: not a duration: \"10 s\": {EXPECTED}"));
    check("upstream: {stallTimeout: 0s}", ": upstream.stallTimeout: not a time-out: \"0s\": expected more than 0");
    check("tags: {freshFor: [1s]}", &format!(": tags.freshFor: invalid type: sequence, {EXPECTED}"));
}

#[test]
fn a_bad_count_is_named_with_what_was_expected() {
    const EXPECTED: &str = "expected a whole number from 1 to 1000000";
    check("upstream: {maxAttempts: 0}", &format!(": upstream.maxAttempts: invalid value: integer `0`, {EXPECTED}"));
    check("upstream: {maxAttempts: -1}", &format!(": upstream.maxAttempts: invalid value: integer `-1`, {EXPECTED}"));
    check("limits: {maxConnections: 1000001}", &format!(": limits.maxConnections: invalid value: integer `1000001`, {EXPECTED}"));
    check("limits: {maxConnections: many}", &format!(": limits.maxConnections: invalid type: string \"many\", {EXPECTED}"));
}

#[test]
fn a_bad_registry_or_endpoint_is_named_with_its_place() {
    check(
        "registries: {docker.io: {endpoints: [a.b, 'htp://x']}}",
        ": registries.\"docker.io\".endpoints[1]: not a URL or host: \"htp://x\": expected https://host[:port][/path] or host[:port]",
    );
    check(
        "registries: {harbor: {}}",
        ": registries.harbor: not a registry: \"harbor\": expected HOST[:PORT], the host with a dot or the port given, such as docker.io or \
         registry:5000",
    );
    check("registries: {docker.io: {}, index.docker.io: {}}", ": registries.\"index.docker.io\": docker.io has settings already");
    check("listen: ['7439']", ": listen[0]: not an address: \"7439\": expected IP:PORT, such as 127.0.0.1:7439 or [::1]:7439");
    check("dataDir: ''", ": dataDir: not a path: \"\": expected a path");
}

#[test]
fn a_file_must_not_contradict_itself() {
    check(
        "{plainHttp: [a.b], registries: {a.b: {plainHttp: false}}}",
        ": registries.\"a.b\".plainHttp: false, but the list plainHttp names a.b: expected one of them only",
    );
}

#[test]
fn broken_yaml_gives_line_and_column() {
    check("tags: {}\ntags: {}", ":2:1: the key tags is there twice: expected it once");
    check("tags: {}\n---\n{}", ":3:1: a second document begins: expected one only");
    check("- 1\n", ":1:1: expected keys and their values");
    for (yaml, place) in
        [("tagz: 1\ntags:\n  freshFor: [1s", ":3:13: "), ("listen: b: c", ":1:10: "), ("a: 'b", ":1:4: "), ("a: *b", ":1:4: ")]
    {
        let line = telemetry::chain(&load(yaml, &[]).unwrap_err());
        assert!(line.starts_with(&format!("{PATH}{place}")), "{line}");
    }
}

#[test]
fn a_value_of_the_wrong_kind_is_named_with_its_place() {
    check("tags: [a]", ": tags: expected keys and their values");
    check("listen: 127.0.0.1:1", ": listen: expected a list");
    check("registries: {a.b: {plainHttp: maybe}}", ": registries.\"a.b\".plainHttp: expected true or false");
    check("registries: {a.b: {ca: 5}}", ": registries.\"a.b\".ca: invalid type: integer `5`, expected a path");
}

#[test]
fn files_that_cannot_be_read_are_named_with_their_key() {
    check(
        "registries: {a.b: {ca: /does/not/exist.pem}}",
        ": registries.\"a.b\".ca: /does/not/exist.pem: cannot be read: No such file or directory (os error 2)",
    );
    check("registryAuth: /does/not/exist", ": registryAuth: /does/not/exist: cannot be read: No such file or directory (os error 2)");
    let error = load("", &["--registry-auth=/does/not/exist"]).unwrap_err();
    let line = "--registry-auth: /does/not/exist: cannot be read: No such file or directory (os error 2)";
    assert_eq!(telemetry::chain(&error), line);
    let error = Config::load(mk_args(&["--config=/does/not/exist.yaml"])).unwrap_err();
    assert_eq!(telemetry::chain(&error), "/does/not/exist.yaml: cannot be read: No such file or directory (os error 2)");
}

#[test]
fn files_that_hold_something_else_are_refused_without_repeating_it() {
    let (_dir, file) = mk_file("secret", "hunter2");
    let file = file.display();
    check(
        &format!("registries: {{a.b: {{ca: {file}}}}}"),
        &format!(": registries.\"a.b\".ca: {file}: not a certificate file: expected certificates in PEM"),
    );
    check(&format!("registryAuth: {file}"), &format!(": registryAuth: {file}: not a JSON object: expected a docker config.json"));
}

#[test]
fn the_limits_of_the_cache_arrive() {
    let defaults = load("", &[]).unwrap().cache;
    assert_eq!(defaults, CacheConfig::default());
    assert_eq!((defaults.max_size, defaults.min_free, defaults.scope), (None, Amount::PerMille(100), Scope::Node));
    let yaml = "cache: {maxSize: 30%, highWatermark: 1, lowWatermark: 0.5, minFree: 1073741824, scope: keepers, orphanGrace: 2h, \
                scrub: {interval: 1d, rate: 5Mi}}";
    let config = load(yaml, &[]).unwrap();
    let cache = CacheConfig {
        max_size: Some(Amount::PerMille(300)),
        high_watermark: 1.0,
        low_watermark: 0.5,
        min_free: Amount::Bytes(1 << 30),
        scope: Scope::Keepers,
        orphan_grace: Duration::from_secs(7200),
        scrub: ScrubConfig { interval: Duration::from_secs(86_400), rate: 5 << 20 },
    };
    assert_eq!(config.cache, cache);
    let flags = ["--cache-max-size=1Gi", "--cache-high-watermark=0.7", "--cache-low-watermark=0.6", "--cache-min-free=5%"];
    let more = ["--cache-orphan-grace=3h", "--cache-scrub-interval=0s", "--cache-scrub-rate=1Mi"];
    let by_flags = CacheConfig {
        max_size: Some(Amount::Bytes(1 << 30)),
        high_watermark: 0.7,
        low_watermark: 0.6,
        min_free: Amount::PerMille(50),
        scope: Scope::Keepers,
        orphan_grace: Duration::from_secs(3 * 3600),
        scrub: ScrubConfig { interval: Duration::ZERO, rate: 1 << 20 },
    };
    assert_eq!(load(yaml, &[flags.as_slice(), more.as_slice()].concat()).unwrap().cache, by_flags);
    assert_eq!(load("cache: {maxSize: 20Gi, minFree: 0}", &[]).unwrap().cache.max_size, Some(Amount::Bytes(20 << 30)));
}

#[test]
fn wrong_limits_of_the_cache_are_named_with_what_was_expected() {
    const EXPECTED: &str = "expected bytes, such as 20Gi or 500000000, or a share of the disk, such as 30%";
    const SHARE: &str = "expected a number above 0 and up to 1, such as 0.9";
    check("cache: {maxSize: lots}", &format!(": cache.maxSize: not an amount of disk: \"lots\": {EXPECTED}"));
    check("cache: {maxSize: 120%}", &format!(": cache.maxSize: not an amount of disk: \"120%\": {EXPECTED}"));
    check("cache: {maxSize: true}", &format!(": cache.maxSize: invalid type: boolean `true`, {EXPECTED}"));
    check("cache: {maxSize: 0}", ": cache.maxSize: 0 leaves no room for anything: expected more");
    check("cache: {minFree: -1}", &format!(": cache.minFree: invalid value: integer `-1`, {EXPECTED}"));
    check("cache: {highWatermark: 90}", &format!(": cache.highWatermark: invalid value: integer `90`, {SHARE}"));
    check("cache: {lowWatermark: 0.0}", &format!(": cache.lowWatermark: invalid value: floating point `0.0`, {SHARE}"));
    check("cache: {highWatermark: high}", &format!(": cache.highWatermark: invalid type: string \"high\", {SHARE}"));
    check("cache: {highWatermark: 0.7}", ": cache.lowWatermark: 0.8 is not below highWatermark, which is 0.7: expected less");
    check("cache: {scope: cluster}", ": cache.scope: expected one of node, keepers");
    check(
        "cache: {max: 1}",
        ": cache.max: unknown key: expected one of maxSize, highWatermark, lowWatermark, minFree, scope, \
         orphanGrace, scrub",
    );
}

#[test]
fn limits_of_the_cache_that_cannot_both_be_meant_are_refused_where_they_were_said() {
    check("cache: {minFree: 100%}", ": cache.minFree: 100% of the file system leaves no room for anything: expected less");
    check("cache: {maxSize: 95%}", ": cache.maxSize: 95% and minFree, which is 10%, are more than the file system together: expected less");
    check(
        "cache: {scrub: {rate: 10%}}",
        ": cache.scrub.rate: expected bytes in a second, such as 20Mi, and more than 0; an interval of 0s turns scrubbing off",
    );
    check("cache: {scrub: {every: 1d}}", ": cache.scrub.every: unknown key: expected one of interval, rate");
    let refusal = |yaml: &str, flags: &[&str]| telemetry::chain(&load(yaml, flags).unwrap_err());
    assert_eq!(refusal("", &["--cache-max-size=0"]), "--cache-max-size: 0 leaves no room for anything: expected more");
    let line = refusal("cache: {highWatermark: 0.5}", &["--cache-low-watermark=0.5"]);
    assert_eq!(line, "--cache-low-watermark: 0.5 is not below highWatermark, which is 0.5: expected less");
    assert!(refusal("", &["--cache-scrub-rate=0"]).starts_with("--cache-scrub-rate: expected bytes in a second"));
    assert!(load("cache: {maxSize: 90%}", &[]).is_ok() && load("cache: {maxSize: 2Ti, minFree: 50%}", &[]).is_ok());
}

#[test]
fn another_section_cache_is_read_while_the_agent_runs() {
    let (_dir, file) = mk_file("config.yaml", "cache: {maxSize: 1Gi}");
    let args = ["--cache-min-free=3%", "--config", file.to_str().unwrap()];
    let mut reload = Config::load(mk_args(&args)).unwrap().reload.unwrap();
    assert_eq!(reload.look().unwrap(), None, "nothing has changed");
    std::fs::write(&file, "cache: {maxSize: 2Gi, minFree: 50%}").unwrap();
    let config = reload.look().unwrap().unwrap();
    assert_eq!((config.max_size, config.min_free), (Some(Amount::Bytes(2 << 30)), Amount::PerMille(30)), "flags still overrule it");
    std::fs::write(&file, "cache: {maxSize: lots}").unwrap();
    assert!(reload.look().is_err());
    assert_eq!(reload.look().unwrap(), None, "a mistake is said once");
    std::fs::remove_file(&file).unwrap();
    assert_eq!(reload.look().unwrap(), None, "it is being replaced");
    std::fs::write(&file, "").unwrap();
    assert_eq!(reload.look().unwrap().unwrap().max_size, None);
}

#[test]
fn the_control_api_comes_from_flags() {
    assert_eq!(load("", &["--control-ca=/ca", "--control-token=/token"]).unwrap().control, None);
    let flags = ["--control-url=https://control.kuik.svc:9443", "--control-ca=/ca", "--control-token=/token", "--node-name=n1"];
    let config = load("", &flags).unwrap();
    let control = ControlConfig {
        url: "https://control.kuik.svc:9443".parse().unwrap(),
        address: None,
        unexpanded: None,
        ca: "/ca".into(),
        token: "/token".into(),
    };
    assert_eq!((config.control, config.node_name), (Some(control.clone()), Some("n1".to_owned())));
    let at = |address: &str| load("", &[flags.as_slice(), &["--control-address", address]].concat()).unwrap().control.unwrap();
    assert_eq!(at("10.0.0.1:1").address, Some(HostPort { host: "10.0.0.1".to_owned(), port: 1 }));
    let text = "$(KUIK_CONTROL_SERVICE_HOST):9443".to_owned();
    assert_eq!(at(&text), ControlConfig { unexpanded: Some(text.clone()), ..control });
}

#[test]
fn a_control_api_without_authorities_or_token_is_refused() {
    let refusal = |flags: &[&str]| telemetry::chain(&load("", flags).unwrap_err());
    let url = "--control-url=https://control:9443";
    let missing = "missing: expected a file, because --control-url is given";
    assert_eq!(refusal(&[url, "--control-token=/t"]), format!("--control-ca: {missing}"));
    assert_eq!(refusal(&[url, "--control-ca=/c"]), format!("--control-token: {missing}"));
    let line = refusal(&["--control-url=https://10.0.0.1:1", "--control-ca=/c", "--control-token=/t", "--control-address=10.0.0.2:1"]);
    assert_eq!(line, "--control-url: https://10.0.0.1:1 names an address already: expected a name there, or no --control-address");
}
