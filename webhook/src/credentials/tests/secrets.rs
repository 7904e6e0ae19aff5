//! Which Secrets are looked at, and what of them is given.

use super::*;

#[tokio::test]
async fn a_namespace_shows_the_secrets_of_its_pods_and_then_of_their_service_accounts() {
    let world = World::default()
        .pod("builder", &["one", "kuik-pull", "two"])
        .pod("builder", &["two", ""])
        .pod_on("node1", "Pending", "runner", &[])
        .account("builder", &["three", "kuik-pull"])
        .account("runner", &["one", "four"]);
    let world = ["one", "two", "three", "four"].iter().fold(world, |world, name| world.logins(name, &["a.b"]));
    let world = world.logins("unused", &["a.b"]).logins("kuik-pull", &["a.b"]);
    let answer = world.ask("a.b/app").await.unwrap();
    let users = ["one", "two", "three", "four"];
    assert_eq!(shown(&answer), users.map(|name| format!("Secret {name}: {name}:hunter2")));
    assert_eq!((answer.tried, answer.problems), (users.map(str::to_owned).to_vec(), Vec::<String>::new()));
    assert_eq!(world.asked("secrets/"), 4, "{:?}", world.state().asked);
    assert_eq!(world.asked("serviceaccounts/"), 2);
}

#[tokio::test]
async fn the_old_form_is_read() {
    let old = json!({ "https://a.b/v1/": { "auth": "dXNlcjpwYXNz", "email": "x@y" } }).to_string();
    let world = World::default().pod("default", &["old"]).secret("old", "dockercfg", &old);
    assert_eq!(shown(&world.ask("a.b/app").await.unwrap()), ["Secret old: user:pass"]);
}

#[tokio::test]
async fn of_two_paths_on_one_host_each_has_its_own_secret_first() {
    let world = World::default()
        .pod("default", &["any", "blue", "red"])
        .logins("any", &["*.b", "docker.io"])
        .logins("blue", &["a.b/blue"])
        .logins("red", &["https://a.b/v2/red"]);
    let users = async |image: &str| {
        let answer = world.ask(image).await.unwrap();
        answer.credentials.into_iter().map(|given| given.from).collect::<Vec<_>>()
    };
    assert_eq!(users("a.b/blue/app").await, ["Secret blue", "Secret any"]);
    assert_eq!(users("a.b/red/app").await, ["Secret red", "Secret any"]);
    assert_eq!(users("a.b/green/app").await, ["Secret any"]);
    assert_eq!(users("docker.io/nginx").await, ["Secret any"]);
    assert_eq!(users("c.d/app").await, [""; 0]);
}

#[tokio::test]
async fn what_cannot_be_used_is_told_and_leaves_the_rest() {
    let names = ["gone", "opaque", "broken", "partly", "empty", "../../other/secrets/x", "hidden", "good"];
    let world = World::default()
        .pod("absent", &names)
        .pod("forbidden", &[])
        .put("serviceaccounts/absent", 404, Value::Null)
        .put("serviceaccounts/forbidden", 403, Value::Null)
        .put("secrets/opaque", 200, json!({ "type": "Opaque", "data": { ".dockerconfigjson": "aHVudGVyMg==" } }))
        .secret("broken", "dockerconfigjson", "{\"auths\": hunter2}")
        .secret("partly", "dockerconfigjson", r#"{"auths":{"a.b":{"username":"partly","password":"hunter2"},"c.d":{"auth":"hunter2!"}}}"#)
        .put("secrets/empty", 200, json!({ "type": "kubernetes.io/dockercfg", "data": { "hunter2": "" } }))
        .put("secrets/hidden", 403, Value::Null)
        .logins("good", &["a.b"]);
    let answer = world.ask("a.b/app").await.unwrap();
    assert_eq!(shown(&answer), ["Secret partly: partly:hunter2", "Secret good: good:hunter2"]);
    assert_eq!(answer.tried, names);
    assert_eq!(
        answer.problems,
        [
            "service account absent: it does not exist",
            "service account forbidden: kube-image-keeper may not read it",
            "Secret gone: it does not exist",
            "Secret opaque: its type is Opaque: expected kubernetes.io/dockerconfigjson or kubernetes.io/dockercfg",
            "Secret broken: the file: no JSON at line 1 column 11",
            "Secret partly: auths[\"c.d\"]: auth: expected base64 of user:password",
            "Secret empty: it has no .dockercfg",
            "Secret ../../other/secrets/x: this is no name of one",
            "Secret hidden: kube-image-keeper may not read it",
        ]
    );
    assert!(answer.incomplete, "two of them may hold a login, and we may not read them");
    assert_eq!(world.asked("other"), 0, "no other namespace's Secret is ever asked for");
}

#[tokio::test]
async fn only_what_we_may_not_read_leaves_an_answer_incomplete() {
    let incomplete = async |name: &str, account: u16, secret: u16| {
        let world = World::default().pod("default", &[name]);
        let world = if account == 200 { world } else { world.put("serviceaccounts/default", account, Value::Null) };
        let world = if secret == 200 { world.logins("one", &["a.b"]) } else { world.put("secrets/one", secret, Value::Null) };
        world.ask("a.b/app").await.unwrap().incomplete
    };
    assert!(incomplete("one", 200, 403).await);
    assert!(incomplete("one", 403, 200).await, "it may name further Secrets");
    assert!(!incomplete("one", 200, 200).await);
    // By these a namespace could keep a right that it has lost.
    assert!(!incomplete("one", 404, 404).await);
    assert!(!incomplete("../one", 200, 200).await);
    let many: Vec<String> = (0..60).map(|nth| format!("s{nth}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let world = World::default().pod("default", &[&["broken", "opaque"], &many[..]].concat());
    let world = world.secret("broken", "dockerconfigjson", "{").put("secrets/opaque", 200, json!({ "type": "Opaque" }));
    let answer = world.ask("a.b/app").await.unwrap();
    assert!(answer.problems.len() > 3 && !answer.incomplete, "{answer:?}");
}

#[tokio::test]
async fn a_secret_names_no_program() {
    let scripts = Scripts::default().script("evil", "echo '{\"Username\":\"u\",\"Secret\":\"s\"}'");
    let content = json!({ "credHelpers": { "a.b": "evil" }, "credsStore": "evil" }).to_string();
    let world = World::default().pod("default", &["helped"]).secret("helped", "dockerconfigjson", &content);
    let answer = ask(&world.desk(&scripts), "a.b/app").await.unwrap();
    assert_eq!((shown(&answer).len(), scripts.runs("evil")), (0, 0));
}

#[tokio::test]
async fn answers_have_bounds() {
    let names: Vec<String> = (0..60).map(|nth| format!("s{nth}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let world = names.iter().fold(World::default().pod("default", &names), |world, name| world.logins(name, &["a.b"]));
    let answer = world.ask("a.b/app").await.unwrap();
    assert_eq!((answer.credentials.len(), answer.tried.len(), world.asked("secrets/")), (20, 50, 50));
    assert_eq!(answer.problems, ["of 60 Secrets only the first 50 were looked at"]);
    let same = r#"{"auths":{"a.b":{"username":"u","password":"p"},"https://a.b":{"username":"u","password":"p"}}}"#;
    let world =
        World::default().pod("default", &["one", "two"]).secret("one", "dockerconfigjson", same).secret("two", "dockerconfigjson", same);
    assert_eq!(shown(&world.ask("a.b/app").await.unwrap()), ["Secret one: u:p"], "one login is shown once");
}
