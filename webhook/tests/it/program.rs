//! The program: what it says of itself, what it refuses, and how it begins and ends.

use crate::support::pki::Ca;
use crate::support::program::{Running, dead_cluster, ended, failure, program, serve};

#[test]
fn help_says_all() {
    for command in [&[][..], &["serve"], &["probe"]] {
        let output = ended(program().args(command).arg("--help").env("COLUMNS", "140"));
        assert!(output.status.success());
        let name = format!("help{}", command.iter().map(|word| format!("_{word}")).collect::<String>());
        insta::assert_snapshot!(name, String::from_utf8(output.stdout).unwrap());
    }
}

#[test]
fn the_version_is_the_workspaces() {
    let output = ended(program().arg("--version"));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("kuik-webhook {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_wrong_command_line_is_a_line_and_64() {
    assert_eq!(failure(&ended(&mut program()), 64), "no command: expected serve or probe; see kuik-webhook --help");
    let said = failure(&ended(program().arg("serve")), 64);
    assert!(said.contains("--namespace <NAMESPACE> (or KUIK_NAMESPACE)") && said.contains("KUIK_POD_IP"), "{said}");
    let said = failure(&ended(serve().env("KUIK_DRAIN_TIMEOUT", "soon")), 64);
    assert!(said.starts_with("KUIK_DRAIN_TIMEOUT: not a duration: \"soon\""), "{said}");
    let said = failure(&ended(serve().env("KUIK_INSTALL_CRDS", "perhaps")), 64);
    assert!(said.starts_with("KUIK_INSTALL_CRDS: ") && said.contains("true, false"), "{said}");
}

#[test]
fn a_wrong_file_is_refused_before_anything_is_started() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    // A port that is taken: to bind before reading the file would fail with another message.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let refusal = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let listen = format!("--metrics-listen={}", taken.local_addr().unwrap());
        let mut command = program();
        command.args(["serve", "--namespace=a", "--pod-name=b", "--pod-ip=::1", &listen]).env("KUIK_CONFIG", &file);
        failure(&ended(&mut command), 64)
    };
    let path = file.display();
    assert!(refusal("agentAdress: localhost:7439").starts_with(&format!("{path}: agentAdress: unknown key: expected one of agentAddress")));
    assert!(refusal("acceptedImages: ['*']").starts_with(&format!("{path}: acceptedImages[0]: not a regular expression: \"*\"")));
    assert!(refusal("copies: [").starts_with(&format!("{path}:1:")));
    let said = failure(&ended(serve().arg("--config").arg(dir.path().join("none"))), 64);
    assert!(said.contains("none: cannot be read"), "{said}");
}

#[test]
fn without_a_cluster_it_says_where_one_is_looked_for() {
    let said = failure(&ended(&mut serve()), 1);
    assert!(said.starts_with("no Kubernetes API is known: ") && said.contains("KUBECONFIG"), "{said}");
}

#[test]
fn a_port_that_is_taken_is_named_with_its_flag() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let _held = std::net::TcpListener::bind(taken).unwrap();
    let mut command = program();
    command.args(["serve", "--namespace=a", "--pod-name=b", "--pod-ip=::1", "--admission-listen=127.0.0.1:0", "--control-listen"]);
    command.arg(taken.to_string()).env("KUBECONFIG", dead_cluster(dir.path()));
    let said = failure(&ended(&mut command), 1);
    assert!(said.starts_with(&format!("--control-listen: cannot listen on {taken}: ")), "{said}");
}

/// A pod's creation, as the API server sends it.
const REVIEW: &str = r#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "1", "operation": "CREATE",
    "kind": {"group": "", "version": "v1", "kind": "Pod"}, "resource": {"group": "", "version": "v1", "resource": "pods"},
    "namespace": "default", "name": "a", "userInfo": {}, "object": {"apiVersion": "v1", "kind": "Pod",
    "metadata": {"name": "a", "namespace": "default"}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}}}}"#;

/// Asks a server of the program until it answers as it should.
fn asks(url: &str, args: &[&str]) -> bool {
    ended(program().args(["probe", "--timeout=30s", "--url", url]).args(args)).status.success()
}

#[test]
fn without_an_api_server_pods_are_rewritten_and_the_end_is_in_order() {
    let dir = tempfile::tempdir().unwrap();
    Ca::new().write(dir.path(), &["kube-image-keeper-webhook.kuik-system.svc"]);
    let (ca, review) = (dir.path().join("ca.crt"), dir.path().join("review.json"));
    std::fs::write(&review, REVIEW).unwrap();
    let mut running = Running::start(
        serve()
            .env("KUBECONFIG", dead_cluster(dir.path()))
            .env("KUIK_TLS_DIR", dir.path())
            .args(["--shutdown-delay=10s", "--drain-timeout=10s"]),
    );
    let health = |path: &str| format!("http://{}{path}", running.metrics);
    assert!(asks(&health("/readyz"), &["--contains=ok"]), "it must be ready without an API server");
    assert!(asks(&health("/metrics"), &["--contains=kuik_webhook_control_polls 0"]));
    let url = "https://kube-image-keeper-webhook.kuik-system.svc/mutate-core-v1-pod";
    let admission = running.admission.clone();
    let patched = ["--address", &admission, "--ca", ca.to_str().unwrap(), "--data", review.to_str().unwrap(), "--contains=JSONPatch"];
    assert!(asks(url, &patched), "pods must be rewritten without an API server");

    running.terminate();
    running.logged("stopping");
    let said = running.ask("/readyz");
    assert!(said.starts_with("HTTP/1.1 503 ") && said.ends_with("waiting for: the end\n"), "{said}");
    assert!(asks(url, &patched), "pods must be rewritten until nobody sends them here any more");
    let stopped = running.logged("stopped");
    assert_eq!(stopped["in_time"], true, "{stopped}");
    assert_eq!(running.wait().code(), Some(0));
}

#[test]
fn an_end_before_it_was_ready_is_an_end_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut running =
        Running::start(serve().env("KUBECONFIG", dead_cluster(dir.path())).args(["--shutdown-delay=0s", "--drain-timeout=0s"]));
    let said = running.ask("/readyz");
    assert!(said.ends_with("waiting for: certificate\n"), "it must not be ready without a certificate: {said}");
    assert!(running.ask("/livez").starts_with("HTTP/1.1 200 "));
    running.terminate();
    assert_eq!(running.wait().code(), Some(0));
}
