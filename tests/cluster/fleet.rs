//! A gateway of several pods with its controllers, with the rights that the project ships and no others.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::rbac::v1::Role;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::folders::prepared;
use crate::namespace::Namespace;
use crate::node::{GatewayPod, LIVENESS_PATIENCE, Template};
use crate::plane::ControlPlane;
use crate::ports::free_address;
use crate::program::Program;
use crate::traffic::{Question, Traffic, ask, body, http_client};
use crate::verdict::Expected;
use crate::{PATIENCE, eventually};

pub(crate) const PROMPT: &str = "Once upon a time";
const MANIFESTS: [(&str, &str); 4] = [
    ("gateway", include_str!("../../manifests/rbac/gateway.yaml")),
    ("controller", include_str!("../../manifests/rbac/controller.yaml")),
    ("status-policy", include_str!("../../manifests/rbac/status-policy.yaml")),
    ("lease", include_str!("../../manifests/rbac/lease.yaml")),
];

/// What tests look at and change.
pub(crate) struct Fleet {
    pub(crate) namespace: Namespace,
    pub(crate) models: Api<DynamicObject>,
    pub(crate) replicas: Api<DynamicObject>,
    pub(crate) pods: Vec<GatewayPod>,
    pub(crate) controllers: Vec<Controller>,
    template: Template,
    next_pod: usize,
}

pub(crate) struct Controller {
    pub(crate) program: Program,
    pub(crate) ops: std::net::SocketAddr,
}

/// The documents of a manifest of this project.
fn manifest<T: DeserializeOwned>(name: &str) -> Vec<T> {
    let (_, text) = MANIFESTS.iter().find(|(known, _)| *known == name).unwrap();
    serde_yaml::Deserializer::from_str(text).filter_map(|document| T::deserialize(document).ok()).collect()
}

/// The objects of this project of one kind.
pub(crate) fn objects(namespace: &Namespace, kind: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("inference-gateway.io", "v1alpha1", kind));
    Api::namespaced_with(namespace.client.clone(), &namespace.name, &resource)
}

/// Makes the objects that a cluster needs once.
pub(crate) async fn install(plane: &ControlPlane) {
    for text in [include_str!("../../crd/models.yaml"), include_str!("../../crd/modelreplicas.yaml")] {
        let definition: CustomResourceDefinition = serde_yaml::from_str(text).unwrap();
        plane.apply_definition(&definition).await;
    }
    let admin = plane.admin().await;
    let ours = PatchParams::apply("tests").force();
    let named = |value: &Value| value["metadata"]["name"].as_str().unwrap().to_owned();
    for object in manifest::<Value>("status-policy") {
        let name = named(&object);
        if object["kind"] == "ValidatingAdmissionPolicy" {
            let all: Api<ValidatingAdmissionPolicy> = Api::all(admin.clone());
            all.patch(&name, &ours, &Patch::Apply(&object)).await.unwrap();
        } else {
            let all: Api<ValidatingAdmissionPolicyBinding> = Api::all(admin.clone());
            all.patch(&name, &ours, &Patch::Apply(&object)).await.unwrap();
        }
    }
}

impl Fleet {
    /// A gateway of so many pods, and one controller.
    pub(crate) async fn start(plane: &ControlPlane, name: &str, pods: usize) -> Self {
        let mut fleet = Self::prepare(plane, name).await;
        for _ in 0..pods {
            fleet.add_pod(&[]).await;
        }
        fleet.add_controller(&[]).await;
        fleet
    }

    /// Everything but pods and controllers.
    pub(crate) async fn prepare(plane: &ControlPlane, name: &str) -> Self {
        install(plane).await;
        Self::prepare_uninstalled(plane, name).await
    }

    /// The same, in a cluster whose definitions are another's matter.
    pub(crate) async fn prepare_uninstalled(plane: &ControlPlane, name: &str) -> Self {
        let namespace = plane.namespace(name).await;
        for account in ["gateway", "controller"] {
            let roles: Vec<Role> = manifest(account);
            namespace.service_account(account, roles[0].rules.clone().unwrap()).await;
        }
        let leases: Vec<Lease> = manifest("lease");
        namespace.create_object(&leases[0]).await;
        let template = Template {
            gateway: "default".to_owned(),
            service_account: "gateway".to_owned(),
            arguments: vec!["--gateway-name=default".to_owned()],
            environment: vec![("RUST_LOG".to_owned(), "info".to_owned())],
            liveness_patience: LIVENESS_PATIENCE,
        };
        Self {
            models: objects(&namespace, "Model"),
            replicas: objects(&namespace, "ModelReplica"),
            namespace,
            pods: Vec::new(),
            controllers: Vec::new(),
            template,
            next_pod: 0,
        }
    }

    /// Another pod, with variables of its own.
    pub(crate) async fn add_pod(&mut self, environment: &[(&str, &str)]) {
        let mut template = self.template.clone();
        let owned = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        template.environment.extend(owned);
        let name = format!("gateway-{}", self.next_pod);
        self.next_pod += 1;
        self.pods.push(GatewayPod::start(&self.namespace, &name, &template).await);
    }

    /// Another controller, with variables of its own.
    pub(crate) async fn add_controller(&mut self, environment: &[(&str, &str)]) {
        let kubeconfig = self.namespace.kubeconfig("controller", None).await;
        let ops = free_address();
        let name = format!("controller-{}", self.controllers.len());
        let arguments = vec!["controller".to_owned(), format!("--ops-address={ops}")];
        let mut variables: Vec<(String, String)> = [
            ("KUBECONFIG", kubeconfig.to_str().unwrap()),
            ("POD_NAME", &name),
            ("POD_NAMESPACE", &self.namespace.name),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        variables.extend(environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let folder = self.namespace.folder.join(&name);
        std::fs::create_dir_all(&folder).unwrap();
        let program = Program::start(arguments, variables, &folder.join("log"));
        self.controllers.push(Controller { program, ops });
    }

    pub(crate) async fn all_ready(&self) {
        for pod in &self.pods {
            pod.wait_ready().await;
        }
    }

    /// As `kubectl apply`.
    pub(crate) async fn apply(&self, name: &str, spec: &Value) {
        self.try_apply(name, spec).await.unwrap();
    }

    /// As `kubectl apply`, which the apiserver may refuse.
    pub(crate) async fn try_apply(&self, name: &str, spec: &Value) -> kube::Result<DynamicObject> {
        let object = json!({
            "apiVersion": "inference-gateway.io/v1alpha1", "kind": "Model", "metadata": {"name": name}, "spec": spec,
        });
        self.models.patch(name, &PatchParams::apply("tests").force(), &Patch::Apply(&object)).await
    }

    /// The status of a model.
    pub(crate) async fn status(&self, name: &str) -> Value {
        let object = self.models.get(name).await.unwrap();
        object.data["status"].clone()
    }

    /// Waits until the model's status is as `holds` says, about its newest generation; gives the status.
    pub(crate) async fn wait(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let object = self.models.get(name).await;
            if let Ok(object) = &object {
                let status = object.data["status"].clone();
                let current = status["observedGeneration"].as_i64() == object.metadata.generation;
                if current && holds(&status) {
                    return status;
                }
            }
            assert!(
                began.elapsed() < PATIENCE,
                "{name} never was {what}: {:?}; {:?}",
                object.map(|object| object.data["status"].to_string()),
                self.serving().await
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until every pod serves what the spec asks for; gives the revision.
    pub(crate) async fn wait_rolled_out(&self, name: &str) -> String {
        let pods = self.pods.len();
        let status = self
            .wait(name, "rolled out", |status| {
                condition(status, "Ready") == "True RolledOut" && status["updatedReplicas"] == pods
            })
            .await;
        status["stable"]["revision"].as_str().unwrap().to_owned()
    }

    /// Revisions by pod: what it was told to serve, and what it serves.
    pub(crate) async fn serving(&self) -> BTreeMap<String, (String, String)> {
        let all = self.replicas.list(&kube::api::ListParams::default()).await.unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let of = |object: &DynamicObject| {
            let spec = &object.data["spec"];
            let serving = text(&object.data["status"]["servingRevision"]);
            (text(&spec["podName"]), (text(&spec["revision"]), serving))
        };
        all.items.iter().map(of).collect()
    }

    /// What `kubectl get models` prints.
    pub(crate) async fn table(&self) -> String {
        let path = format!("/apis/inference-gateway.io/v1alpha1/namespaces/{}/models", self.namespace.name);
        let request = http::Request::get(path)
            .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
            .body(Vec::new())
            .unwrap();
        let table: Value = self.namespace.client.request(request).await.unwrap();
        let shown: Vec<usize> = (0..table["columnDefinitions"].as_array().unwrap().len())
            .filter(|column| table["columnDefinitions"][column]["priority"] == 0)
            .collect();
        let line = |cells: &dyn Fn(usize) -> String| {
            let cells: Vec<String> = shown.iter().map(|column| format!("{:<16}", cells(*column))).collect();
            cells.join(" ").trim_end().to_owned()
        };
        let mut lines =
            vec![line(&|column| table["columnDefinitions"][column]["name"].as_str().unwrap().to_uppercase())];
        for row in table["rows"].as_array().unwrap() {
            lines.push(line(&|column| match &row["cells"][column] {
                Value::String(text) => text.clone(),
                Value::Null => String::new(),
                other => other.to_string(),
            }));
        }
        lines.join("\n")
    }

    /// Clients of a model whose revisions give the texts of these tiny models.
    pub(crate) async fn traffic(&self, model: &str, tiny: &[&str]) -> Traffic {
        let mut texts = Vec::new();
        for name in tiny {
            texts.push(text_of(name).await);
        }
        let question = Question {
            model: model.to_owned(),
            prompt: PROMPT.to_owned(),
            expected: Expected::one_of(texts),
        };
        Traffic::start(&self.namespace, "default", vec![question]).await
    }

    /// A number of the metrics of a controller.
    pub(crate) async fn metric(&self, controller: usize, sample: &str) -> f64 {
        let url = format!("http://{}/metrics", self.controllers[controller].ops);
        let text = http_client().get(url).send().await.unwrap().text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }
}

/// What a tiny model answers, asked where nothing else goes on.
async fn text_of(tiny: &str) -> String {
    static KNOWN: tokio::sync::Mutex<BTreeMap<String, String>> =
        tokio::sync::Mutex::const_new(BTreeMap::new());
    let mut known = KNOWN.lock().await;
    if let Some(text) = known.get(tiny) {
        return text.clone();
    }
    let folder = crate::folders::new_folder(&format!("alone-{tiny}"));
    let addresses = [(); 3].map(|()| free_address());
    let arguments = vec![
        format!("--default-model-path={}", prepared("tiny").join(tiny).display()),
        "--default-model-name=chat".to_owned(),
        format!("--listen-address={}", addresses[0]),
        format!("--ops-address={}", addresses[1]),
        format!("--admin-address={}", addresses[2]),
        format!("--cache-dir={}", folder.join("cache").display()),
        "--threads=1".to_owned(),
        "--spinning=false".to_owned(),
    ];
    let _program = Program::start(arguments, Vec::new(), &folder.join("log"));
    let answer = eventually("an answer", async || {
        ask(&http_client(), addresses[0], &body("chat", PROMPT, false)).await.ok()
    })
    .await;
    known.insert(tiny.to_owned(), answer.text.clone());
    answer.text
}

/// The source of a tiny model.
pub(crate) fn source(tiny: &str) -> Value {
    source_of(&prepared("tiny").join(tiny))
}

/// The source of a model in a folder.
pub(crate) fn source_of(folder: &std::path::Path) -> Value {
    json!({"path": folder.strip_prefix("/").unwrap()})
}

/// A spec whose rollouts lose no time.
pub(crate) fn spec(tiny: &str) -> Value {
    json!({
        "source": source(tiny),
        "rollout": {"minReadySeconds": 1, "progressDeadlineSeconds": 300, "watch": {"windowSeconds": 2}},
    })
}

/// `True RolledOut`, or `-`.
pub(crate) fn condition(status: &Value, type_: &str) -> String {
    let none = Vec::new();
    let all = status["conditions"].as_array().unwrap_or(&none);
    let found = all.iter().find(|condition| condition["type"] == type_);
    found.map_or_else(
        || "-".to_owned(),
        |found| format!("{} {}", found["status"].as_str().unwrap(), found["reason"].as_str().unwrap()),
    )
}
