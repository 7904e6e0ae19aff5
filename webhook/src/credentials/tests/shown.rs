//! No secret is in any `Debug`, error or line of the log.

use std::io::Write;

use super::*;

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_secret_is_ever_shown() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let scripts = Scripts::default()
        .script("fails", "echo hunter2; echo hunter2 >&2; exit 3")
        .script("babbles", "echo hunter2")
        .script("works", r#"echo '{"Username":"<token>","Secret":"hunter2"}'"#)
        .helper("a.b", &["fails"])
        .helper("a.b", &["babbles"])
        .helper("a.b", &["works"]);
    let world = World::default().pod("default", &["good", "broken"]).logins("good", &["a.b"]).secret(
        "broken",
        "dockerconfigjson",
        r#"{"auths":{"a.b":{"password":"hunter2"},"c.d":{"auth":["hunter2"]}},"credsStore":7}"#,
    );
    let desk = world.desk(&scripts);
    let found = desk.ask(wanted("a.b/app")).await.unwrap();
    assert_eq!(found.credentials, 2);
    let mut shown = format!("{found:?} {desk:?} {:?}", ask(&desk, "a.b/app").await.unwrap());
    // What the API server should never send: kube would log it.
    let world = world.put("secrets/good", 200, json!({ "type": ["hunter2"], "data": "hunter2" }));
    let error = ask(&world.desk(&scripts), "a.b/app").await.unwrap_err();
    shown += &format!("{error:?} {error}");
    assert!(error.to_string().contains("the Secret good"), "{error}");
    assert!(!shown.contains("hunter2"), "{shown}");
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("a credential helper failed"), "{log}");
    assert!(!log.contains("hunter2"), "{log}");
}
