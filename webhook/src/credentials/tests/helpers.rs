//! Credential helpers, which are scripts here.

use super::*;

/// Lets time pass, without a wait.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
    // The task that remembers what was found has to notice.
    tokio::task::yield_now().await;
}

#[tokio::test]
async fn a_helper_says_who_we_are_and_is_remembered() {
    let scripts = Scripts::default()
        .script("docker-credential-cloud", r#"echo '{"ServerURL":"x","Username":"AWS","Secret":"hunter3"}'"#)
        .script("docker-credential-none", "echo 'credentials not found in native keychain'; exit 1")
        .helper("*.cloud.test", &["docker-credential-none"])
        .helper("*.ecr.*.cloud.test", &["docker-credential-cloud", "--region", "eu"]);
    let world = World::default().pod("default", &["one"]).logins("one", &["*.ecr.eu.cloud.test"]);
    let desk = world.desk(&scripts);
    let want = ["Secret one: one:hunter2", "credential helper docker-credential-cloud: AWS:hunter3"];
    assert_eq!(shown(&ask(&desk, "1.ecr.eu.cloud.test/app").await.unwrap()), want);
    assert_eq!(scripts.log("docker-credential-cloud"), "--region eu get 1.ecr.eu.cloud.test\n");
    pass(60 * SECOND).await;
    assert_eq!(shown(&ask(&desk, "1.ecr.eu.cloud.test/other").await.unwrap()), want);
    assert_eq!(scripts.runs("docker-credential-cloud"), 1, "an answer is good for five minutes, whatever the repository");
    pass(300 * SECOND).await;
    assert_eq!(shown(&ask(&desk, "1.ecr.eu.cloud.test/app").await.unwrap()), want);
    assert_eq!(scripts.runs("docker-credential-cloud"), 2);
    let none = ask(&desk, "a.cloud.test/app").await.unwrap();
    assert_eq!((shown(&none).len(), none.problems.len(), scripts.runs("docker-credential-none")), (0, 0, 1));
    assert!(!none.incomplete, "a helper that knows no login has been asked");
    assert_eq!(shown(&ask(&desk, "a.b/app").await.unwrap()).len(), 0, "a helper is asked for its own registries alone");
    let runs = |result| desk.metrics.helper_runs.get_or_create(&ResultLabels { result }).get();
    assert_eq!((runs("answered"), runs("none"), runs("failed")), (2, 1, 0));
}

#[tokio::test]
async fn a_helper_that_fails_or_hangs_holds_up_nothing_else() {
    let scripts = Scripts::default()
        .script("fails", "echo hunter2; exit 3")
        .script("hangs", "exec sleep 1000")
        .helper("a.b", &["fails"])
        .helper("a.b", &["absent"])
        .helper("c.d", &["hangs"]);
    let world = World::default().pod("default", &["one"]).logins("one", &["a.b", "c.d"]);
    let desk = world.desk(&scripts);
    let answer = ask(&desk, "a.b/app").await.unwrap();
    assert_eq!(shown(&answer), ["Secret one: one:hunter2"]);
    assert_eq!(answer.problems[0], "fails: it ended with exit status: 3");
    assert!(answer.problems[1].starts_with("absent: it cannot be started: "), "{:?}", answer.problems);
    let runs = |result| desk.metrics.helper_runs.get_or_create(&ResultLabels { result }).get();
    assert_eq!(runs("failed"), 2);
    assert!(answer.incomplete);

    let hanging = async {
        while scripts.runs("hangs") == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        pass(3 * SECOND).await;
    };
    let (answer, ()) = tokio::join!(ask(&desk, "c.d/app"), hanging);
    let answer = answer.unwrap();
    assert_eq!(shown(&answer), ["Secret one: one:hunter2"]);
    assert_eq!(answer.problems, ["hangs: it has not answered within 3 s yet"]);
    assert!(answer.incomplete);
}

#[tokio::test]
async fn a_namespace_without_a_pod_runs_no_helper() {
    let scripts = Scripts::default().script("cloud", r#"echo '{"Username":"u","Secret":"s"}'"#).helper("a.b", &["cloud"]);
    let world = World::default();
    assert!(matches!(ask(&world.desk(&scripts), "a.b/app").await, Err(Refused::NoPod { .. })));
    assert_eq!(scripts.runs("cloud"), 0);
}
