//! The charts and manifests in a real apiserver: everything is admitted, an upgrade keeps what must stay, and nothing is left behind.
//! There is no node, so pods are admitted and never run; `make e2e` has one.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use crate::access::client;
use crate::eventually;
use crate::fleet::objects;
use crate::helm::{Helm, documents, failure_of, files, project};
use crate::namespace::Namespace;
use crate::plane::ControlPlane;

const DEFINITIONS: [&str; 2] = [
    "CustomResourceDefinition modelreplicas.inference-gateway.io",
    "CustomResourceDefinition models.inference-gateway.io",
];

fn path(of: &str) -> String {
    project(of).display().to_string()
}

fn models(client: &Client, namespace: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("inference-gateway.io", "v1alpha1", "Model");
    Api::namespaced_with(client.clone(), namespace, &ApiResource::from_gvk(&kind))
}

/// Whether the cluster's definition of models knows a field of `spec.rollout`.
async fn knows(client: &Client, field: &str) -> bool {
    let all: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definition = all.get("models.inference-gateway.io").await.unwrap();
    let definition = serde_json::to_value(definition).unwrap();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    !schema["properties"]["spec"]["properties"]["rollout"]["properties"][field].is_null()
}

/// Each set of values in a namespace of its own, with the definitions of everything that can be turned on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_object_of_the_chart_is_admitted_to_a_restricted_namespace_and_removed_again() {
    let plane = ControlPlane::start("chart").await;
    let helm = Helm::of(&plane).await;
    helm.apply_definitions_of_others(&plane).await;
    helm.run(&["install", "crds", &path("charts/inference-gateway-crds")]).unwrap();

    let values = files(&project("charts/inference-gateway/ci"));
    assert!(values.len() >= 6, "{values:?}");
    for file in &values {
        let name = file.file_stem().unwrap().to_str().unwrap().trim_end_matches("-values");
        println!("{name}");
        helm.namespace(name, "restricted").await;
        let (release, chart) = (format!("rel-{name}"), path("charts/inference-gateway"));
        let file = file.display().to_string();
        let install = ["install", &release, &chart, "-n", name, "-f", &file, "--set=crds.enabled=false"];
        let printed = helm.run(&install).unwrap();
        assert!(printed.contains(&format!("helm test {release} -n {name}")), "{printed}");
        if name == "keda" {
            // Its folders of the node are what the standard forbids: the detector detects.
            let refusal =
                eventually("a refusal", async || helm.deployments(name).await.iter().find_map(failure_of))
                    .await;
            assert!(
                refusal.contains("violates PodSecurity \"restricted:latest\"")
                    && refusal.contains("hostPath"),
                "{refusal}"
            );
        } else {
            helm.wait_pods(name).await;
        }
        // A second release for the same gateway would move the same models.
        if name == "crd" {
            let refused = helm.run(&["install", "second", &chart, "-n", name, "--set=crds.enabled=false"]);
            let refused = refused.unwrap_err();
            assert!(refused.contains("Lease \"inference-gateway-controller\""), "{refused}");
            let other =
                ["install", "second", &chart, "-n", name, "--set=crds.enabled=false,gatewayName=blue"];
            helm.run(&other).unwrap();
            helm.run(&["uninstall", "second", "-n", name]).unwrap();
            people_may_see_and_change_models(&helm.client).await;
            pods_write_the_status_of_their_own_replicas_alone(&plane, &helm).await;
        }
        helm.run(&["uninstall", &release, "-n", name]).unwrap();
        let kept: &[&str] =
            if name == "everything" { &["PersistentVolumeClaim everything-cache"] } else { &[] };
        helm.wait_left(name, &release, kept).await;
    }
}

/// The rights and the policy of a release, with the token of a pod of it.
async fn pods_write_the_status_of_their_own_replicas_alone(plane: &ControlPlane, helm: &Helm) {
    let own = plane.namespace("policy").await;
    let (chart, namespace) = (path("charts/inference-gateway"), own.name.as_str());
    helm.run(&["install", "gw", &chart, "-n", namespace, "--set=crds.enabled=false"]).unwrap();
    helm.wait_pods(namespace).await;
    let gateways = ListParams::default().labels("app.kubernetes.io/component=gateway");
    let pod = own.all::<Pod>().list(&gateways).await.unwrap().items.remove(0);
    let replicas = objects(&own, "ModelReplica");
    let replica = async |pod: &str| {
        let object = json!({
            "apiVersion": "inference-gateway.io/v1alpha1", "kind": "ModelReplica",
            "metadata": {"name": format!("{pod}.chat")},
            "spec": {"podName": pod, "modelName": "chat", "modelUID": "1", "epoch": 1},
        });
        let object = serde_json::from_value(object).unwrap();
        replicas.create(&PostParams::default(), &object).await.unwrap().name_any()
    };
    let (mine, other) = (replica(&pod.name_any()).await, replica("other").await);
    let token = own.kubeconfig("gw-inference-gateway", Some(&pod)).await;
    let as_pod = Namespace { client: client(&token).await, ..own.clone() };
    let write = async |name: &str| {
        let status = Patch::Merge(json!({"status": {"message": "hello"}}));
        objects(&as_pod, "ModelReplica").patch_status(name, &PatchParams::default(), &status).await
    };
    // The apiserver follows roles and policies a moment after it has stored them.
    eventually("the right to write", async || write(&mine).await.ok()).await;
    let refused = eventually("the policy", async || write(&other).await.err()).await;
    assert!(refused.to_string().contains("its own replicas only"), "{refused}");
    write(&mine).await.unwrap();

    let without = "--set=crds.enabled=false,admissionPolicy.enabled=false";
    helm.run(&["upgrade", "gw", &chart, "-n", namespace, without]).unwrap();
    eventually("a release without the policy", async || write(&other).await.ok()).await;
}

/// The cluster's own roles include models.
async fn people_may_see_and_change_models(client: &Client) {
    for (role, verb) in [("view", "watch"), ("edit", "patch"), ("admin", "delete")] {
        eventually(&format!("{verb} in the role {role}"), async || {
            let all: Api<ClusterRole> = Api::all(client.clone());
            let rules = all.get(role).await.unwrap().rules?;
            let has = |list: Option<&Vec<String>>, word: &str| {
                list.is_some_and(|list| list.iter().any(|one| one == word))
            };
            let found = rules
                .iter()
                .any(|rule| has(rule.resources.as_ref(), "models") && rule.verbs.iter().any(|v| v == verb));
            found.then_some(())
        })
        .await;
    }
}

/// What users without helm apply.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_manifest_can_be_applied_and_its_pods_are_admitted() {
    let plane = ControlPlane::start("manifests").await;
    let helm = Helm::of(&plane).await;
    helm.apply_definitions_of_others(&plane).await;
    // Objects of a kind can be made when its definition is established.
    for definition in documents::<CustomResourceDefinition>(&project("manifests/crds.yaml")) {
        plane.apply_definition(&definition).await;
    }
    helm.apply(&project("manifests/install.yaml")).await;
    helm.wait_pods("inference-gateway").await;
    for folder in ["manifests", "manifests/rbac", "manifests/monitoring", "manifests/examples"] {
        for file in files(&project(folder)) {
            // Values of another chart.
            if !file.ends_with("prometheus-adapter.yaml") {
                helm.apply(&file).await;
            }
        }
    }
    helm.wait_pods("inference-gateway").await;
    let chat = models(&helm.client, "inference-gateway").get("chat").await.unwrap();
    assert_eq!(chat.data["spec"]["servedName"], "gpt2");
}

/// From the chart of one version ago, with objects of its definitions; then back, forth, away, and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_from_the_previous_chart_keeps_what_there_is_and_an_uninstall_leaves_the_definitions() {
    let plane = ControlPlane::start("upgrade").await;
    let helm = Helm::of(&plane).await;
    let client = &helm.client;
    helm.namespace("llm", "restricted").await;
    let (previous, current) = (path("tests/fixtures/charts/previous"), path("charts/inference-gateway"));
    helm.run(&["install", "gw", &previous, "-n", "llm", "--set=replicaCount=2"]).unwrap();
    helm.wait_pods("llm").await;
    assert!(!knows(client, "watch").await);

    let ours = PatchParams::apply("tests").force();
    let leases: Api<Lease> = Api::namespaced(client.clone(), "llm");
    let leader = json!({"spec": {"holderIdentity": "a controller", "leaseDurationSeconds": 15}});
    leases
        .patch("inference-gateway-controller", &PatchParams::default(), &Patch::Merge(&leader))
        .await
        .unwrap();
    let model = |rollout: &Value| {
        json!({
            "apiVersion": "inference-gateway.io/v1alpha1", "kind": "Model", "metadata": {"name": "chat"},
            "spec": {"source": {"path": "chat/1"}, "rollout": rollout},
        })
    };
    let models = models(client, "llm");
    let old = json!({"maxUnavailable": 1});
    let before =
        eventually("a model", async || models.patch("chat", &ours, &Patch::Apply(&model(&old))).await.ok())
            .await;
    let stays = Stays::of(&helm).await;

    let replicas = "--set=replicaCount=2,cache.type=persistentVolumeClaim";
    helm.run(&["upgrade", "gw", &current, "-n", "llm", replicas]).unwrap();
    helm.wait_pods("llm").await;
    assert_eq!(Stays::of(&helm).await, stays);
    let lease = leases.get("inference-gateway-controller").await.unwrap();
    assert_eq!(lease.spec.unwrap().holder_identity.as_deref(), Some("a controller"), "helm writes no spec");
    // Variables, labels and ports that are no more are gone.
    for deployment in helm.deployments("llm").await {
        let text = serde_json::to_string(&deployment.spec).unwrap();
        assert!(!text.contains("REMOVED_SINCE") && !text.contains("helm.sh/chart"), "{text}");
    }
    assert!(knows(client, "watch").await, "definitions are upgraded with the release");
    let after = models.get("chat").await.unwrap();
    assert_eq!(after.data["spec"]["source"], before.data["spec"]["source"]);
    assert_eq!(after.uid(), before.uid());
    let new = json!({"maxUnavailable": 1, "watch": {"windowSeconds": 7}});
    eventually("the new field", async || {
        let changed = models.patch("chat", &ours, &Patch::Apply(&model(&new))).await.ok()?;
        (changed.data["spec"]["rollout"]["watch"]["windowSeconds"] == 7).then_some(())
    })
    .await;

    helm.run(&["rollback", "gw", "1", "-n", "llm"]).unwrap();
    helm.wait_pods("llm").await;
    assert_eq!(Stays::of(&helm).await, stays);
    helm.run(&["upgrade", "gw", &current, "-n", "llm", replicas]).unwrap();
    helm.wait_pods("llm").await;

    helm.run(&["uninstall", "gw", "-n", "llm"]).unwrap();
    helm.wait_left("llm", "gw", &[&DEFINITIONS[..], &["Model chat"][..]].concat()).await;

    // The definitions are still those of the release `gw`.
    let refused = helm.run(&["install", "other", &current, "-n", "llm"]).unwrap_err();
    assert!(refused.contains("CustomResourceDefinition"), "{refused}");
    helm.run(&["install", "other", &current, "-n", "llm", "--take-ownership"]).unwrap();
    helm.wait_pods("llm").await;
    assert_eq!(models.get("chat").await.unwrap().uid(), before.uid());
}

/// What may not change while a release is upgraded: a Deployment that is made anew loses its pods, a claim its models.
#[derive(Debug, PartialEq)]
struct Stays {
    /// Name, identity and selector.
    deployments: Vec<(String, Option<String>, Value)>,
    claims: Vec<(String, Option<String>)>,
    lease: Option<String>,
}

impl Stays {
    async fn of(helm: &Helm) -> Self {
        let deployments = helm.deployments("llm").await;
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(helm.client.clone(), "llm");
        let claims = claims.list(&ListParams::default()).await.unwrap().items;
        let leases: Api<Lease> = Api::namespaced(helm.client.clone(), "llm");
        let selector = |one: &k8s_openapi::api::apps::v1::Deployment| {
            serde_json::to_value(&one.spec.as_ref().unwrap().selector).unwrap()
        };
        Self {
            deployments: deployments.iter().map(|one| (one.name_any(), one.uid(), selector(one))).collect(),
            claims: claims.iter().map(|one| (one.name_any(), one.uid())).collect(),
            lease: leases.get("inference-gateway-controller").await.unwrap().uid(),
        }
    }
}
