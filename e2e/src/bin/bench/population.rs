//! A cluster's worth of objects, made by hand: nodes without kubelets, pods bound to them, and which images those use.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::api::{Api, for_each};
use crate::workload::{Images, pod, rewrite};

/// Images that some tens of pods or more share: their init containers, proxies and exporters.
const SHARED: usize = 40;

/// How many of what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) nodes: usize,
    pub(crate) namespaces: usize,
    pub(crate) pods: usize,
    pub(crate) images: usize,
}

/// A pod that exists.
#[derive(Debug, Clone)]
pub(crate) struct Resident {
    namespace: String,
    name: String,
    node: String,
    images: Images,
}

/// All pods that exist.
#[derive(Debug)]
pub(crate) struct Population {
    size: Size,
    pub(crate) pods: Vec<Resident>,
    /// Images that pods used once.
    known: BTreeSet<String>,
    born: usize,
}

impl Population {
    /// Makes nodes, namespaces and pods.
    pub(crate) fn create(api: &Api, size: Size) -> Result<Self> {
        let nodes: Vec<usize> = (0..size.nodes).collect();
        for_each(&nodes, |&number| api.create("/api/v1/nodes", &node(number)).map(drop))?;
        let namespaces: Vec<usize> = (0..size.namespaces).collect();
        for_each(&namespaces, |&number| create_namespace(api, &namespace(number)))?;
        let mut population = Self { size, pods: Vec::new(), known: BTreeSet::new(), born: 0 };
        let own = size.images.checked_sub(SHARED).context("too few images")?;
        population.add(api, (0..size.pods).map(|number| program_image(number % own)).collect())?;
        ensure!(population.known.len() == size.images, "{} images, not {}", population.known.len(), size.images);
        Ok(population)
    }

    /// Makes a pod for each of these programs.
    fn add(&mut self, api: &Api, programs: Vec<String>) -> Result<()> {
        let born = programs.into_iter().zip(self.born..).map(|(program, number)| self.resident(number, program)).collect::<Vec<_>>();
        for_each(&born, |resident| resident.create(api))?;
        self.born += born.len();
        self.known.extend(born.iter().flat_map(|resident| resident.images.iter().cloned()));
        self.pods.extend(born);
        Ok(())
    }

    fn resident(&self, number: usize, program: String) -> Resident {
        let shared = |kind: &str, of: usize| format!("registry-{}.example.com/platform/{kind}-{}:v2.7.0", of % 3, number % of);
        Resident {
            namespace: namespace(number % self.size.namespaces),
            name: format!("service-{number}-0"),
            node: node_name(number % self.size.nodes),
            images: [shared("init", SHARED / 4), program, shared("proxy", SHARED / 2), shared("exporter", SHARED / 4)],
        }
    }

    /// Deletes all pods of some programs, and makes as many of programs that nobody had before.
    pub(crate) fn change(&mut self, api: &Api, programs: usize) -> Result<usize> {
        let gone: BTreeSet<String> = (0..programs).map(program_image).collect();
        let uses = |resident: &Resident| resident.images.iter().any(|image| gone.contains(image));
        let (leaving, staying): (Vec<_>, Vec<_>) = self.pods.drain(..).partition(uses);
        for_each(&leaving, |resident| api.delete(&format!("/api/v1/namespaces/{}/pods/{}", resident.namespace, resident.name)))?;
        self.pods = staying;
        self.add(api, (0..leaving.len()).map(|number| program_image(self.size.images + number % programs)).collect())?;
        Ok(leaving.len())
    }

    /// Each image that was ever used, with the number of pods that use it now.
    pub(crate) fn users(&self) -> BTreeMap<&str, usize> {
        let mut users: BTreeMap<&str, usize> = self.known.iter().map(|image| (image.as_str(), 0)).collect();
        for image in self.pods.iter().flat_map(|resident| &resident.images) {
            *users.entry(image).or_default() += 1;
        }
        users
    }

    /// The images that the pods of a node use.
    pub(crate) fn images_on(&self, number: usize) -> BTreeSet<&str> {
        let node = node_name(number);
        self.pods.iter().filter(|resident| resident.node == node).flat_map(|resident| resident.images.iter().map(String::as_str)).collect()
    }
}

impl Resident {
    fn create(&self, api: &Api) -> Result<()> {
        let mut pod = pod(&self.namespace, &self.name, &self.images);
        rewrite(&mut pod);
        pod["spec"]["nodeName"] = self.node.as_str().into();
        api.create(&format!("/api/v1/namespaces/{}/pods", self.namespace), &pod).map(drop)
    }
}

/// The name of a node.
pub(crate) fn node_name(number: usize) -> String {
    format!("worker-{number:03}")
}

fn namespace(number: usize) -> String {
    format!("team-{number}")
}

fn program_image(number: usize) -> String {
    format!("registry-{}.example.com:5000/team-{}/service-{number}:1.{}.0", number % 4, number % 40, number % 17)
}

fn node(number: usize) -> Value {
    let zone = ["a", "b", "c"].get(number % 3).copied().unwrap_or_default();
    let labels = json!({ "kubernetes.io/hostname": node_name(number), "topology.kubernetes.io/zone": zone });
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": node_name(number), "labels": labels } })
}

/// With the service account that pods have, which otherwise a controller makes.
fn create_namespace(api: &Api, name: &str) -> Result<()> {
    api.create("/api/v1/namespaces", &json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }))?;
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } });
    api.create(&format!("/api/v1/namespaces/{name}/serviceaccounts"), &account).map(drop)
}
