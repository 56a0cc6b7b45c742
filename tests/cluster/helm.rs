//! Releases of the project's charts: a real helm against the apiserver, and what an apiserver has of a release.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace as NamespaceObject, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::discovery::{Discovery, Scope, verbs};
use kube::{Client, ResourceExt};
use serde::Deserialize;
use serde_json::json;

use crate::folders::{new_folder, prepared};
use crate::plane::ControlPlane;
use crate::{PATIENCE, eventually};

/// What a namespace has without anybody's doing.
const OF_NAMESPACES: [&str; 2] = ["ConfigMap kube-root-ca.crt", "ServiceAccount default"];

pub(crate) fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// helm, for somebody who may do everything in a cluster.
pub(crate) struct Helm {
    pub(crate) client: Client,
    kubeconfig: PathBuf,
    home: PathBuf,
}

impl Helm {
    /// With the controllers that make pods of Deployments and remove what has no owner any more.
    pub(crate) async fn of(plane: &ControlPlane) -> Self {
        let controllers = [
            "deployment-controller",
            "replicaset-controller",
            "garbage-collector-controller",
            "namespace-controller",
            "clusterrole-aggregation-controller",
            "serviceaccount-controller",
            "persistentvolumeclaim-protection-controller",
        ];
        plane.run_controllers(&controllers).await;
        Self { client: plane.admin().await, kubeconfig: plane.admin_kubeconfig(), home: new_folder("helm") }
    }

    /// Runs helm; gives what it prints, or what it complains about.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new(prepared("tools/helm"))
            .args(arguments)
            .env_clear()
            // What it remembers between runs is a test's own.
            .env("HOME", &self.home)
            .env("KUBECONFIG", &self.kubeconfig)
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(printed) } else { Err(complaint) }
    }

    /// A namespace whose pods keep to a Pod Security Standard.
    pub(crate) async fn namespace(&self, name: &str, standard: &str) {
        let object: NamespaceObject = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": standard}},
        }))
        .unwrap();
        Api::all(self.client.clone()).create(&PostParams::default(), &object).await.unwrap();
    }

    /// Applies the definitions of others whose objects the chart can make.
    pub(crate) async fn apply_definitions_of_others(&self, plane: &ControlPlane) {
        for file in files(&prepared("schemas/crds")) {
            for document in documents::<CustomResourceDefinition>(&file) {
                plane.apply_definition(&document).await;
            }
        }
    }

    /// As `kubectl apply --server-side` of a file.
    pub(crate) async fn apply(&self, file: &Path) {
        let discovery = Discovery::new(self.client.clone()).run().await.unwrap();
        for mut object in documents::<DynamicObject>(file) {
            let types = object.types.clone().unwrap();
            let kind = kube::core::GroupVersionKind::try_from(types).unwrap();
            let (resource, capabilities) = discovery.resolve_gvk(&kind).unwrap_or_else(|| panic!("{kind:?}"));
            let api: Api<DynamicObject> = match capabilities.scope {
                Scope::Cluster => Api::all_with(self.client.clone(), &resource),
                Scope::Namespaced => {
                    let namespace = object.metadata.namespace.get_or_insert_with(|| "default".to_owned());
                    Api::namespaced_with(self.client.clone(), namespace, &resource)
                }
            };
            let name = object.name_any();
            let ours = PatchParams::apply("tests").force();
            let applied = api.patch(&name, &ours, &Patch::Apply(&object)).await;
            applied.unwrap_or_else(|error| panic!("{}: {} {name}: {error}", file.display(), kind.kind));
        }
    }

    pub(crate) async fn deployments(&self, namespace: &str) -> Vec<Deployment> {
        let all: Api<Deployment> = Api::namespaced(self.client.clone(), namespace);
        all.list(&ListParams::default()).await.unwrap().items
    }

    /// Waits until every Deployment of a namespace has its pods: the apiserver has admitted them. They are never ready, so an
    /// upgrade begins with one pod more and stays there.
    pub(crate) async fn wait_pods(&self, namespace: &str) {
        for deployment in self.deployments(namespace).await {
            let name = deployment.name_any();
            eventually(&format!("the pods of {namespace}/{name}"), async || {
                let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), namespace);
                let deployment = deployments.get(&name).await.unwrap();
                assert_eq!(failure_of(&deployment), None, "{namespace}/{name}");
                let wanted = deployment.spec.as_ref().unwrap().replicas?;
                let status = deployment.status.as_ref()?;
                let current = status.observed_generation == deployment.metadata.generation;
                let updated = status.updated_replicas.unwrap_or(0);
                let upgrading = updated >= 1 && status.replicas.unwrap_or(0) > wanted;
                (current && (updated == wanted || upgrading)).then_some(())
            })
            .await;
        }
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        assert!(!pods.list(&ListParams::default()).await.unwrap().items.is_empty(), "{namespace}");
    }

    /// Waits until nothing but this is left of a release.
    pub(crate) async fn wait_left(&self, namespace: &str, release: &str, kept: &[&str]) {
        let began = Instant::now();
        loop {
            let left = self.left(namespace, release).await;
            if left == kept {
                return;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "of {release} in {namespace} is left: {left:?}, not {kept:?}"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Everything in a namespace, and everything of the cluster that names a release, as `Kind name`.
    async fn left(&self, namespace: &str, release: &str) -> Vec<String> {
        let discovery = Discovery::new(self.client.clone()).run().await.unwrap();
        let mut found = Vec::new();
        for group in discovery.groups() {
            for (resource, capabilities) in group.recommended_resources() {
                if !capabilities.supports_operation(verbs::LIST) || resource.kind == "Event" {
                    continue;
                }
                let (api, params): (Api<DynamicObject>, ListParams) = match capabilities.scope {
                    Scope::Namespaced => (
                        Api::namespaced_with(self.client.clone(), namespace, &resource),
                        ListParams::default(),
                    ),
                    Scope::Cluster => {
                        let of_release = format!("app.kubernetes.io/instance={release}");
                        (
                            Api::all_with(self.client.clone(), &resource),
                            ListParams::default().labels(&of_release),
                        )
                    }
                };
                // A kind may have been removed since it was asked for.
                let Ok(objects) = api.list(&params).await else { continue };
                found.extend(
                    objects.items.iter().map(|object| format!("{} {}", resource.kind, object.name_any())),
                );
            }
        }
        found.retain(|object| !OF_NAMESPACES.contains(&object.as_str()));
        found.sort();
        found.dedup();
        found
    }
}

/// Why a Deployment has no pods, if the apiserver refuses them.
pub(crate) fn failure_of(deployment: &Deployment) -> Option<String> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failure =
        conditions.iter().find(|one| one.type_ == "ReplicaFailure" && one.status == "True")?.message.clone();
    failure.or_else(|| Some("no message".to_owned()))
}

/// The YAML files of a folder, in the order of their names.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "yaml")).collect();
    found.sort();
    found
}

/// The documents of a YAML file.
pub(crate) fn documents<T: serde::de::DeserializeOwned>(file: &Path) -> Vec<T> {
    let text = std::fs::read_to_string(file).unwrap();
    let documents = serde_yaml::Deserializer::from_str(&text);
    let values = documents.map(|document| serde_json::Value::deserialize(document).unwrap());
    values.filter(|value| !value.is_null()).map(|value| serde_json::from_value(value).unwrap()).collect()
}
