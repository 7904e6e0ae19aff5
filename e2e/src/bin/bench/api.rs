//! The Kubernetes API as administrator, quick enough for ten thousand objects: plain HTTP through `kubectl proxy`,
//! on kept connections of several threads.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use kuik_e2e::{http, tools, wait};
use serde_json::Value;
use ureq::http::Request;

use crate::lab::{Lab, free_port};
use crate::process::Process;

const START_LIMIT: Duration = Duration::from_secs(20);
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
const BODY_BYTES_MAX: u64 = 1 << 30;
const THREADS: usize = 6;
const JSON: (&str, &str) = ("content-type", "application/json");
const MERGE: (&str, &str) = ("content-type", "application/merge-patch+json");

/// A way to the API server. Dropping it ends the proxy.
pub(crate) struct Api {
    base: String,
    agent: ureq::Agent,
    _proxy: Process,
}

impl Api {
    /// Starts the proxy, where the calling thread is.
    pub(crate) fn open(lab: &Lab, kubeconfig: &Path) -> Result<Self> {
        let port = free_port()?;
        let arguments = ["proxy".to_owned(), format!("--port={port}"), format!("--kubeconfig={}", kubeconfig.display())];
        let log = lab.folder("proxy")?.join("log");
        let mut proxy = Process::start(&tools::built("kubectl")?, &arguments, &[], &log)?;
        let base = format!("http://127.0.0.1:{port}");
        wait::until("kubectl proxy to answer", START_LIMIT, || {
            proxy.check()?;
            Ok((http::get(&format!("{base}/readyz"))?.status == 200).then_some(()))
        })?;
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(REQUEST_LIMIT));
        let agent = config.max_idle_connections_per_host(2 * THREADS).build().into();
        Ok(Self { base, agent, _proxy: proxy })
    }

    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        parse(path, &self.send("GET", path, &[JSON], &[])?)
    }

    pub(crate) fn create(&self, path: &str, object: &Value) -> Result<Value> {
        parse(path, &self.send("POST", path, &[JSON], &serde_json::to_vec(object)?)?)
    }

    pub(crate) fn merge(&self, path: &str, patch: &Value) -> Result<Value> {
        parse(path, &self.send("PATCH", path, &[MERGE], &serde_json::to_vec(patch)?)?)
    }

    /// As somebody else.
    pub(crate) fn merge_as(&self, user: &str, path: &str, patch: &Value) -> Result<()> {
        self.send("PATCH", path, &[MERGE, ("impersonate-user", user)], &serde_json::to_vec(patch)?).map(drop)
    }

    /// Deletes an object at once, even a pod that nobody stops.
    pub(crate) fn delete(&self, path: &str) -> Result<()> {
        self.send("DELETE", &format!("{path}?gracePeriodSeconds=0"), &[JSON], &[]).map(drop)
    }

    /// The API server's own metrics.
    pub(crate) fn metrics(&self) -> Result<String> {
        String::from_utf8(self.send("GET", "/metrics", &[], &[])?).context("metrics must be text")
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Vec<u8>> {
        let what = || format!("{method} {path}");
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = self.agent.run(request.body(body).with_context(what)?).with_context(what)?;
        let answer = response.body_mut().with_config().limit(BODY_BYTES_MAX).read_to_vec().with_context(what)?;
        let status = response.status();
        ensure!(status.is_success(), "{method} {path}: {status}: {}", String::from_utf8_lossy(&answer));
        Ok(answer)
    }
}

fn parse(path: &str, answer: &[u8]) -> Result<Value> {
    serde_json::from_slice(answer).with_context(|| format!("{path}: no JSON"))
}

/// Does `work` for each item, on several threads; stops at the first error.
pub(crate) fn for_each<T: Sync>(items: &[T], work: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    let next = AtomicUsize::new(0);
    let run = || -> Result<()> {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(item).inspect_err(|_| next.store(items.len(), Ordering::Relaxed))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(run)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
    })
}
