//! How long something is remembered, and how long is waited.

use futures_util::future::join_all;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_namespace_without_a_pod_that_is_not_finished_on_the_node_gets_nothing() {
    let message = "the namespace team has no pod on the node node1 that is not finished: a node is given the pull secrets of namespaces with pods \
                   on it, and of no others";
    let empty = World::default();
    let finished = World::default().pod_on("node1", "Succeeded", "default", &["one"]).pod_on("node1", "Failed", "default", &["one"]);
    let elsewhere = World::default().pod_on("node2", "Running", "default", &["one"]).pod_on("", "Pending", "default", &["one"]);
    for world in [empty, finished, elsewhere] {
        let world = world.logins("one", &["a.b"]);
        let desk = world.desk(&Scripts::default());
        assert_eq!(ask(&desk, "a.b/app").await.unwrap_err().to_string(), message);
        assert_eq!((world.asked("secrets/"), count(&desk, "forbidden")), (0, 1));
        let world = world.pod_on("node1", "Pending", "default", &["one"]);
        tokio::time::sleep(2 * SECOND).await;
        assert_eq!(ask(&desk, "a.b/app").await.unwrap().credentials.len(), 1, "a pod that was scheduled just now counts");
        assert_eq!((world.asked("secrets/"), count(&desk, "answered")), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_is_changed_or_deleted_counts_within_a_minute() {
    let world = World::default().pod("default", &["one"]).logins("one", &["a.b"]);
    let desk = world.desk(&Scripts::default());
    let users = async || shown(&ask(&desk, "a.b/app").await.unwrap());
    assert_eq!(users().await, ["Secret one: one:hunter2"]);
    let changed = r#"{"auths":{"a.b":{"username":"u","password":"new"}}}"#;
    let world = world.secret("one", "dockerconfigjson", changed);
    assert_eq!(users().await, ["Secret one: one:hunter2"], "what was found is remembered for a moment");
    tokio::time::sleep(11 * SECOND).await;
    assert_eq!(users().await, ["Secret one: u:new"]);
    world.state().objects.remove("/api/v1/namespaces/team/secrets/one");
    tokio::time::sleep(11 * SECOND).await;
    let answer = ask(&desk, "a.b/app").await.unwrap();
    assert_eq!((shown(&answer).len(), answer.problems), (0, vec!["Secret one: it does not exist".to_owned()]));
    assert_eq!(count(&desk, "none"), 1);
    let _world = world.logins("one", &["a.b"]);
    tokio::time::sleep(3 * SECOND).await;
    assert_eq!(users().await, ["Secret one: one:hunter2"], "and the absence of one is remembered for less");
}

#[tokio::test(start_paused = true)]
async fn one_look_is_for_all_who_ask_at_once() {
    let world = World::default().pod("default", &["one"]).logins("one", &["a.b"]);
    let desk = world.desk(&Scripts::default());
    let answers = join_all((0..50).map(|_| ask(&desk, "a.b/app"))).await;
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap().credentials.len() == 1));
    assert_eq!((world.asked("pods"), world.asked("secrets/one")), (1, 1));
    ask(&desk, "a.b/other").await.unwrap();
    assert_eq!(world.asked("pods"), 2, "another repository is another question");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_fails_is_no_answer_and_is_asked_again_soon() {
    let failing = ["pods", "serviceaccounts/default", "secrets/one"];
    for path in failing {
        let world = World::default().pod("default", &["one"]).logins("one", &["a.b"]);
        let before = world.state().objects.get(&format!("/api/v1/namespaces/team/{path}")).cloned();
        let world = world.put(path, 500, Value::Null);
        let desk = world.desk(&Scripts::default());
        let error = ask(&desk, "a.b/app").await.unwrap_err();
        assert!(matches!(error, Refused::Later(_)) && error.to_string().contains("the API server did not"), "{path}: {error}");
        assert_eq!(count(&desk, "failed"), 1);
        let key = format!("/api/v1/namespaces/team/{path}");
        match before {
            Some(object) => drop(world.state().objects.insert(key, object)),
            None => drop(world.state().objects.remove(&key)),
        }
        tokio::time::sleep(2 * SECOND).await;
        assert_eq!(ask(&desk, "a.b/app").await.unwrap().credentials.len(), 1, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_is_answered_in_time_and_the_look_goes_on() {
    let (open, gate) = tokio::sync::watch::channel(false);
    let world = World::default().pod("default", &["one"]).logins("one", &["a.b"]);
    let answers = world.clone();
    let client = mock::client(move |method, uri, _| {
        let (answers, mut gate) = (answers.clone(), gate.clone());
        async move {
            gate.wait_for(|open| *open).await.unwrap();
            answers.answer(&method, &uri)
        }
    });
    let desk = PullSecrets::new(client, Vec::new(), Metrics::default());
    let began = tokio::time::Instant::now();
    let error = ask(&desk, "a.b/app").await.unwrap_err();
    assert_eq!((error.to_string().as_str(), began.elapsed()), ("the pull secrets were not found within 4 s: ask again", 4 * SECOND));
    open.send_replace(true);
    assert_eq!(ask(&desk, "a.b/app").await.unwrap().credentials.len(), 1);
    assert_eq!(world.asked("pods"), 1);
}
