//! Our release on the cluster under test, and what tests ask it.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use kuik_crd::object_name;
use kuik_e2e::cluster::{Cluster, Upstream};
use kuik_e2e::images::{Destination, Image};
use kuik_e2e::kube::{Helm, Kube, Namespace, pod};
use serde_json::{Value, json};

use crate::env::Env;
use crate::runner::Skipped;

/// The documented names.
pub(crate) const RELEASE: &str = "kube-image-keeper";
pub(crate) const NAMESPACE: &str = "kuik-system";

/// A namespace whose pods are left alone by value, and a label that has the same effect.
pub(crate) const IGNORED_NAMESPACE: &str = "kuik-e2e-ignored";
pub(crate) const IGNORED_LABEL: (&str, &str) = ("team", "legacy");

/// What the status of an image may take to be right: the pull, the report, the leader's look at it.
pub(crate) const STATUS_LIMIT: Duration = Duration::from_secs(180);

/// The release, installed with what every test starts from.
pub(crate) struct Kuik<'a> {
    env: &'a Env,
    pub(crate) kube: &'a Kube,
    pub(crate) helm: Helm,
}

impl<'a> Kuik<'a> {
    /// The release as it is now, installed or not.
    pub(crate) fn here(env: &'a Env) -> Result<Self> {
        let kube = env.kube()?;
        let helm = kube.helm(RELEASE, NAMESPACE, &repository_root().join("chart"));
        Ok(Self { env, kube, helm })
    }

    /// The release with the values that every test starts from; installed, or brought back to them, if need be.
    pub(crate) fn installed(env: &'a Env) -> Result<Self> {
        Self::installed_with(env, &json!({}))
    }

    /// As [`Kuik::installed`], with these values besides.
    pub(crate) fn installed_with(env: &'a Env, more: &Value) -> Result<Self> {
        let kuik = Self::here(env)?;
        let mut wanted = kuik.values();
        merge(&mut wanted, more);
        if kuik.values_now()? != Some(wanted) {
            kuik.install(more)?;
        }
        Ok(kuik)
    }

    /// Installs or upgrades the release to the values of all tests and these, and waits until all of it is ready and the webhook
    /// rewrites.
    pub(crate) fn install(&self, more: &Value) -> Result<()> {
        if self.env.has_machines()? {
            import_images(self.cluster()?)?;
        }
        let mut all = self.values();
        merge(&mut all, more);
        self.helm.install(&all)?;
        self.wait_rewriting()
    }

    /// The release as the README installs it, with no values at all, on a cluster without one.
    pub(crate) fn install_anew_without_values(&self) -> Result<()> {
        import_images(self.cluster()?)?;
        self.helm.uninstall()?;
        let chart = repository_root().join("chart").display().to_string();
        self.helm.run(&["install", RELEASE, &chart, "--create-namespace", "--wait", "--timeout", "150s"])?;
        self.wait_rewriting()
    }

    /// Until the API server knows the webhook's authority, pods are admitted as they are.
    pub(crate) fn wait_rewriting(&self) -> Result<()> {
        kuik_e2e::wait::until_every(Duration::from_millis(300), "pods to be rewritten", STATUS_LIMIT, || {
            let admitted = self.dry_run("default", &pod("probe", "quay.io/probe/probe:1"))?;
            ensure!(image_of(&admitted).starts_with("localhost:7439/"), "{} is as it was", image_of(&admitted));
            Ok(Some(()))
        })
    }

    /// The pod as the API server would keep it.
    pub(crate) fn dry_run(&self, namespace: &str, pod: &Value) -> Result<Value> {
        self.dry_run_all(namespace, pod)?.pop().context("kubectl must print the pod")
    }

    /// The pods of a list as the API server would keep them.
    pub(crate) fn dry_run_all(&self, namespace: &str, list: &Value) -> Result<Vec<Value>> {
        let arguments = ["create", "-n", namespace, "--dry-run=server", "-o", "json", "-f", "-"];
        let text = self.kube.kubectl_with_input(&arguments, &list.to_string())?;
        // One document after the other, and no list.
        Ok(serde_json::Deserializer::from_str(&text).into_iter().collect::<Result<_, _>>()?)
    }

    /// Pushes an image to the upstream under a repository that no other run of the tests has used; returns its reference.
    pub(crate) fn push(&self, repository: &str, tag: &str, image: &Image) -> Result<String> {
        let here = repository_of_this_run(repository);
        if self.env.has_machines()? {
            self.upstream()?.push(&here, tag, image)?;
        } else {
            Destination { host: self.env.registry()?, authorization: None }.push(&here, tag, image)?;
        }
        Ok(format!("{}:{tag}", self.repository(repository)?))
    }

    /// The full name of the repository that [`Kuik::push`] pushes to.
    pub(crate) fn repository(&self, repository: &str) -> Result<String> {
        Ok(format!("{}/{}", self.env.registry()?, repository_of_this_run(repository)))
    }

    /// The names of the nodes, sorted.
    pub(crate) fn nodes(&self) -> Result<Vec<String>> {
        let list = self.kube.json(&["get", "nodes", "-l", "kubernetes.io/os=linux"])?;
        let names = list["items"].as_array().into_iter().flatten().filter_map(|node| node["metadata"]["name"].as_str());
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    /// The name of the first, second or third node, which is `node1`, `node2` or `node3` in a cluster of ours.
    pub(crate) fn node(&self, number: usize) -> Result<String> {
        let skipped = || Skipped(format!("it needs {number} nodes"));
        Ok(self.nodes()?.into_iter().nth(number - 1).ok_or_else(skipped)?)
    }

    /// The machines of the cluster; a test that needs them is skipped where only the API is reached.
    pub(crate) fn cluster(&self) -> Result<&'a Cluster> {
        self.env.cluster()
    }

    /// The registry that [`Kuik::push`] pushes to, for what more can be done with it; such a test is skipped where only the API is reached.
    pub(crate) fn upstream(&self) -> Result<Upstream> {
        Ok(self.cluster()?.upstream())
    }

    /// The `CachedImage` of a reference, once `check` is content with it.
    pub(crate) fn wait_image<T>(&self, what: &str, image: &str, check: impl FnMut(&Value) -> Result<T>) -> Result<T> {
        let what = format!("the CachedImage of {image} to be {what}");
        self.kube.wait_json(&what, STATUS_LIMIT, &["get", "cachedimage", &name_of(image)?], check)
    }

    /// The `CachedImage` is there, and cached on these nodes, and maybe others.
    pub(crate) fn wait_cached(&self, image: &str, nodes: &[&str]) -> Result<Value> {
        self.wait_image("cached", image, |object| {
            let status = &object["status"];
            ensure!(status["phase"] == "Ready" && status["isCached"] == true, "{status}");
            let ready = copies(object, "Ready");
            ensure!(nodes.iter().all(|node| ready.contains(&(*node).to_owned())), "it is on {ready:?}: {status}");
            Ok(object.clone())
        })
    }

    /// The `CachedImage` is gone.
    pub(crate) fn wait_image_gone(&self, image: &str) -> Result<()> {
        let name = name_of(image)?;
        let what = format!("the CachedImage of {image} to be deleted");
        self.kube.wait_json(&what, STATUS_LIMIT, &["get", "cachedimages"], |list| {
            let object = list["items"].as_array().into_iter().flatten().find(|object| object["metadata"]["name"] == name.as_str());
            ensure!(object.is_none(), "it is there: {}", object.unwrap_or(&Value::Null));
            Ok(())
        })
    }

    /// The name of the agent's pod on a node.
    pub(crate) fn agent(&self, node: &str) -> Result<String> {
        let selector = "app.kubernetes.io/component=agent";
        let field = format!("spec.nodeName={node}");
        let pods = self.kube.json(&["get", "pods", "-n", NAMESPACE, "-l", selector, "--field-selector", &field])?;
        let live = pods["items"].as_array().into_iter().flatten().find(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        Ok(live.and_then(|pod| pod["metadata"]["name"].as_str()).with_context(|| format!("{node} must have an agent"))?.to_owned())
    }

    /// Runs the agent's own command on a node, and returns what it prints.
    pub(crate) fn on_agent(&self, node: &str, arguments: &[&str]) -> Result<String> {
        let agent = self.agent(node)?;
        let command = ["exec", "-n", NAMESPACE, &agent, "--", "/kuik-agent"];
        self.kube.kubectl(&command.into_iter().chain(arguments.iter().copied()).collect::<Vec<_>>())
    }

    /// The references that a node's agent holds as a whole.
    pub(crate) fn held(&self, node: &str) -> Result<Vec<String>> {
        let text = self.on_agent(node, &["ls", "--output", "json"])?;
        let list: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        let images = list["images"].as_array().with_context(|| text.clone())?;
        let whole = images.iter().filter(|image| image["complete"] == true);
        Ok(whole.filter_map(|image| image["reference"].as_str().map(str::to_owned)).collect())
    }

    /// What all tests start from: registries without TLS, and something for the filters to filter.
    fn values(&self) -> Value {
        let (key, value) = IGNORED_LABEL;
        let hosts = match self.env.cluster() {
            Ok(cluster) => cluster.registries().to_vec(),
            Err(_) => self.env.registry().into_iter().collect(),
        };
        let registries: serde_json::Map<_, _> = hosts.into_iter().map(|host| (host, json!({ "plainHttp": true }))).collect();
        json!({
            "registries": registries,
            // How full the disk of the machine is must not decide what is cached.
            "agent": { "tags": { "freshFor": "1s" }, "cache": { "minFree": "64Mi" } },
            "controllers": { "webhook": {
                // A machine that is busy with tests may be slow; what is tested is whether reviews are answered at all.
                "timeoutSeconds": 30,
                "ignoredNamespaces": [IGNORED_NAMESPACE],
                "objectSelector": { "matchExpressions": [{ "key": key, "operator": "NotIn", "values": [value] }] },
            } },
        })
    }

    fn values_now(&self) -> Result<Option<Value>> {
        let list = self.helm.run(&["list", "--deployed", "--short"])?;
        if !list.lines().any(|name| name == RELEASE) {
            return Ok(None);
        }
        Ok(Some(serde_json::from_str(&self.helm.run(&["get", "values", RELEASE, "-o", "json"])?)?))
    }
}

/// A pod of one container on this node.
pub(crate) fn pod_on(node: &str, name: &str, image: &str) -> Value {
    let mut pod = pod(name, image);
    pod["spec"]["nodeName"] = node.into();
    pod
}

/// The reference of a pod's first container.
pub(crate) fn image_of(pod: &Value) -> &str {
    pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default()
}

/// What the webhook makes of a reference with a port.
pub(crate) fn rewritten(image: &str) -> Result<String> {
    Ok(image.parse::<kuik_crd::Image>()?.to_local("localhost:7439")?)
}

/// The name of the `CachedImage` of a reference.
pub(crate) fn name_of(image: &str) -> Result<String> {
    Ok(object_name(&image.parse()?))
}

/// The nodes of a `CachedImage`'s copies in this state, sorted.
pub(crate) fn copies(object: &Value, state: &str) -> Vec<String> {
    let copies = object["status"]["copies"].as_array().into_iter().flatten();
    let mut nodes: Vec<String> =
        copies.filter(|copy| copy["state"] == state).filter_map(|copy| copy["node"].as_str().map(str::to_owned)).collect();
    nodes.sort();
    nodes
}

/// Starts a pod of this image on a node, expects it to be rewritten and to run, and returns it.
pub(crate) fn run_rewritten(ns: &Namespace, node: &str, name: &str, image: &str) -> Result<Value> {
    ns.apply(&pod_on(node, name, image))?;
    let pod = ns.wait_running(name)?;
    ensure!(image_of(&pod) == rewritten(image)?, "{name} has the image {}", image_of(&pod));
    Ok(pod)
}

/// `repository`, for this run of the tests alone: a kept cluster remembers those of earlier ones.
pub(crate) fn repository_of_this_run(repository: &str) -> String {
    static RUN: OnceLock<u64> = OnceLock::new();
    let run = RUN.get_or_init(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs()));
    format!("run-{run}/{repository}")
}

/// Lays `more` over `base`: objects key by key, anything else as a whole.
fn merge(base: &mut Value, more: &Value) {
    match (base, more) {
        (Value::Object(base), Value::Object(more)) => {
            for (key, value) in more {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, more) => *base = more.clone(),
    }
}

/// Our images on every node, as `make images` wrote them.
fn import_images(cluster: &Cluster) -> Result<()> {
    static DONE: OnceLock<()> = OnceLock::new();
    if DONE.get().is_none() {
        for program in ["agent", "webhook"] {
            let archive = repository_root().join(format!("target/images/{program}.tar"));
            ensure!(archive.exists(), "{} is missing: run `make images`", archive.display());
            cluster.import(&archive)?;
        }
        DONE.get_or_init(|| ());
    }
    Ok(())
}

/// The root of this repository.
pub(crate) fn repository_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate must be in the workspace").to_owned()
}
