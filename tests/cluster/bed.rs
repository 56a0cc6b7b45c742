//! What the other tests stand on: each part does what they take for granted.

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DynamicObject, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use crate::access::client;
use crate::eventually;
use crate::folders::{new_folder, prepared};
use crate::namespace::{Namespace, named, rule};
use crate::node::{GatewayPod, LIVENESS_PATIENCE, Template};
use crate::plane::ControlPlane;
use crate::program::Program;
use crate::traffic::{Question, Traffic, ask, body, http_client};
use crate::verdict::{Answer, Expected};

const PROMPT: &str = "Once upon a time";

/// A list of models with one entry, `chat`, which is a tiny model.
fn models_file(namespace: &Namespace, tiny: &str) -> String {
    let model = prepared("tiny").join(tiny).display().to_string();
    let path = model.strip_prefix('/').unwrap();
    let list = format!("- {{name: chat, spec: {{source: {{path: {path}, inPlace: true}}}}}}\n");
    let file = namespace.folder.join(format!("{tiny}.yaml"));
    std::fs::write(&file, list).unwrap();
    file.display().to_string()
}

/// Pods that serve a tiny model from a file, and may look at pods.
async fn template(namespace: &Namespace, tiny: &str) -> Template {
    namespace.service_account("gateway", vec![rule("", &["pods"], &["get", "list"])]).await;
    Template {
        gateway: "default".to_owned(),
        service_account: "gateway".to_owned(),
        arguments: vec![format!("--models-file={}", models_file(namespace, tiny))],
        environment: vec![("RUST_LOG".to_owned(), "info".to_owned())],
        liveness_patience: LIVENESS_PATIENCE,
    }
}

/// What a pod answers now.
async fn answer_of(pod: &GatewayPod) -> Answer {
    ask(&http_client(), pod.api, &body("chat", PROMPT, false)).await.unwrap()
}

fn question(expected: Expected) -> Question {
    Question { model: "chat".to_owned(), prompt: PROMPT.to_owned(), expected }
}

async fn restart_count(namespace: &Namespace, pod: &GatewayPod) -> i32 {
    let pods: Api<Pod> = namespace.all();
    let object = pods.get(&pod.name).await.unwrap();
    object.status.unwrap().container_statuses.unwrap()[0].restart_count
}

#[tokio::test]
async fn the_apiserver_is_of_the_version_that_is_pinned() {
    let version = ControlPlane::shared().await.admin().await.apiserver_version().await.unwrap();
    let modules = include_str!("../../scripts/kubernetes/go.mod");
    assert!(modules.contains(&format!("k8s.io/kubernetes {} ", version.git_version)), "{version:?}");
}

#[tokio::test]
async fn a_definition_can_be_applied_and_a_bad_object_is_refused() {
    let plane = ControlPlane::shared().await;
    let schema = json!({"type": "object", "properties": {"spec": {
        "type": "object",
        "properties": {"size": {"type": "integer", "minimum": 1}},
        "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "the size stays"}],
    }}});
    let definition: CustomResourceDefinition = serde_json::from_value(json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "boxes.tests.example"},
        "spec": {
            "group": "tests.example", "scope": "Namespaced",
            "names": {"kind": "Box", "plural": "boxes"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
    }))
    .unwrap();
    plane.apply_definition(&definition).await;
    let namespace = plane.namespace("definition").await;
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("tests.example", "v1", "Box"));
    let kind = ApiResource { plural: "boxes".to_owned(), ..kind };
    let boxes: Api<DynamicObject> = Api::namespaced_with(namespace.client.clone(), &namespace.name, &kind);
    let object = |size: Value| DynamicObject::new("one", &kind).data(json!({"spec": {"size": size}}));
    for (bad, reason) in [(json!(0), "greater than or equal to 1"), (json!("big"), "must be of type integer")]
    {
        let refused = boxes.create(&PostParams::default(), &object(bad)).await.unwrap_err();
        assert!(refused.to_string().contains(reason), "{refused}");
    }
    let mut made = boxes.create(&PostParams::default(), &object(json!(1))).await.unwrap();
    made.data["spec"]["size"] = json!(2);
    let refused = boxes.replace("one", &PostParams::default(), &made).await.unwrap_err();
    assert!(refused.to_string().contains("the size stays"), "{refused}");
}

#[tokio::test]
async fn a_user_may_do_nothing_until_somebody_allows_it() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("rights").await;
    let stranger = client(&plane.user_kubeconfig("stranger")).await;
    let theirs: Api<ConfigMap> = Api::namespaced(stranger, &namespace.name);
    let refused = theirs.get_opt("settings").await.unwrap_err();
    assert!(refused.to_string().contains("User \"stranger\" cannot get"), "{refused}");

    namespace.service_account("reader", vec![rule("", &["configmaps"], &["get"])]).await;
    let reader = client(&namespace.kubeconfig("reader", None).await).await;
    let theirs: Api<ConfigMap> = Api::namespaced(reader, &namespace.name);
    // The apiserver learns of new roles a moment after it has stored them.
    eventually("the right to read", async || theirs.get_opt("settings").await.ok()).await;
    let refused = theirs.list(&kube::api::ListParams::default()).await.unwrap_err();
    assert!(refused.to_string().contains("cannot list"), "{refused}");
}

#[tokio::test]
async fn a_pod_serves_says_so_and_has_a_token_with_its_name() {
    let namespace = ControlPlane::shared().await.namespace("pod").await;
    let pod = GatewayPod::start(&namespace, "gateway-0", &template(&namespace, "llama").await).await;
    pod.wait_ready().await;
    answer_of(&pod).await;
    for address in [pod.ops, pod.admin] {
        assert!(http_client().get(format!("http://{address}/")).send().await.is_ok(), "{address}");
    }

    let kubeconfig = namespace.folder.join("gateway-0.kubeconfig");
    let own = client(&kubeconfig).await;
    let reviews: Api<SelfSubjectReview> = Api::all(own.clone());
    let review = reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await.unwrap();
    let user = review.status.unwrap().user_info.unwrap();
    assert_eq!(user.username.unwrap(), format!("system:serviceaccount:{}:gateway", namespace.name));
    let extra = user.extra.unwrap();
    assert_eq!(extra["authentication.kubernetes.io/pod-name"], ["gateway-0"]);
    assert_eq!(extra["authentication.kubernetes.io/pod-uid"], std::slice::from_ref(&pod.uid));
    let pods: Api<Pod> = Api::namespaced(own, &namespace.name);
    eventually("the right to read pods", async || pods.get("gateway-0").await.ok()).await;

    let status = pod.delete().await;
    assert!(status.success(), "an orderly end, not {status}");
    assert!(namespace.all::<Pod>().get_opt("gateway-0").await.unwrap().is_none());
    // What the apiserver has found out about a token it takes for true for ten seconds.
    eventually("the end of the token", async || {
        let refused = reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await.err()?;
        assert!(matches!(&refused, kube::Error::Api(status) if status.code == 401), "{refused}");
        Some(())
    })
    .await;
}

#[tokio::test]
async fn a_container_that_dies_starts_again_and_one_that_stalls_is_not_ready() {
    let namespace = ControlPlane::shared().await.namespace("restarts").await;
    let pod = GatewayPod::start(&namespace, "gateway-0", &template(&namespace, "llama").await).await;
    pod.wait_ready().await;
    let before = answer_of(&pod).await;

    pod.container(Program::freeze);
    pod.wait_unready().await;
    pod.container(Program::thaw);
    pod.wait_ready().await;
    assert_eq!(restart_count(&namespace, &pod).await, 0);

    pod.container(Program::kill);
    eventually("a restart", async || (restart_count(&namespace, &pod).await == 1).then_some(())).await;
    pod.wait_ready().await;
    assert_eq!(answer_of(&pod).await, before, "the same address, the same model");
}

/// A step that never ends: the pod is not ready, then not alive, and its container is started again.
#[tokio::test]
async fn a_container_that_is_not_alive_is_started_again() {
    let namespace = ControlPlane::shared().await.namespace("livez").await;
    let mut template = template(&namespace, "llama").await;
    template.liveness_patience = std::time::Duration::from_secs(2);
    template.arguments.push("--step-timeout=1s".to_owned());
    template.environment.push(("FAILPOINTS".to_owned(), "in-engine-step=20*off->return(hang)".to_owned()));
    let pod = GatewayPod::start(&namespace, "gateway-0", &template).await;
    pod.wait_ready().await;
    let long = serde_json::json!({"model": "chat", "text": PROMPT, "max_tokens": 60, "ignore_eos": true});
    ask(&http_client(), pod.api, &long).await.expect_err("nobody answers");
    eventually("a restart", async || (restart_count(&namespace, &pod).await == 1).then_some(())).await;
    pod.wait_ready().await;
}

#[tokio::test]
async fn traffic_goes_to_ready_pods_and_notices_no_orderly_end() {
    let namespace = ControlPlane::shared().await.namespace("traffic").await;
    let template = template(&namespace, "llama").await;
    let first = GatewayPod::start(&namespace, "gateway-0", &template).await;
    first.wait_ready().await;
    let Answer { revision, text } = answer_of(&first).await;
    let expected = Expected::one_of(Vec::<String>::new()).and(&revision, &text);
    let traffic = Traffic::start(&namespace, "default", vec![question(expected)]).await;
    traffic.phase("one pod");
    traffic.wait_answers(20).await;

    let second = GatewayPod::start(&namespace, "gateway-1", &template).await;
    second.wait_ready().await;
    traffic.phase("the first ends");
    assert!(first.delete().await.success());
    traffic.wait_answers(20).await;
    let tally = traffic.stop().await;
    assert_eq!(tally.verdict(), Ok(()));
    let count = &tally.phases["the first ends"];
    assert_eq!(count.by_revision[&("chat".to_owned(), revision)], count.whole + count.streamed);
}

#[tokio::test]
async fn traffic_sees_a_pod_that_breaks_and_a_model_that_is_another() {
    let namespace = ControlPlane::shared().await.namespace("breaks").await;
    let pod = GatewayPod::start(&namespace, "gateway-0", &template(&namespace, "llama").await).await;
    pod.wait_ready().await;
    let answer = answer_of(&pod).await;
    let wrong = question(Expected::default().and(&answer.revision, "another text"));
    let traffic = Traffic::start(&namespace, "default", vec![wrong]).await;
    traffic.wait_answers(2).await;
    let failures = traffic.stop().await.verdict().unwrap_err();
    assert!(failures.contains("not \"another text\""), "{failures}");

    let traffic =
        Traffic::start(&namespace, "default", vec![question(Expected::one_of([answer.text]))]).await;
    traffic.wait_answers(10).await;
    pod.container(Program::kill);
    eventually("a restart", async || (restart_count(&namespace, &pod).await == 1).then_some(())).await;
    pod.wait_ready().await;
    let failures = traffic.stop().await.verdict().unwrap_err();
    assert!(failures.contains("answers are wrong"), "{failures}");
}

#[tokio::test]
async fn objects_of_a_deleted_pod_are_collected() {
    let plane = ControlPlane::shared().await;
    plane.collect_garbage().await;
    let namespace = plane.namespace("garbage").await;
    let pod = GatewayPod::start(&namespace, "gateway-0", &template(&namespace, "llama").await).await;
    let mut metadata = named("owned");
    metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        ..OwnerReference::default()
    }]);
    let owned = namespace.create_object(&ConfigMap { metadata, ..ConfigMap::default() }).await;
    let other = named("another");
    namespace.create_object(&ConfigMap { metadata: other, ..ConfigMap::default() }).await;
    pod.delete().await;
    let maps: Api<ConfigMap> = namespace.all();
    let name = owned.metadata.name.unwrap();
    eventually("the collector", async || maps.get_opt(&name).await.unwrap().is_none().then_some(())).await;
    assert!(maps.get_opt("another").await.unwrap().is_some());
}

#[tokio::test]
async fn an_apiserver_that_went_away_comes_back_with_its_data_and_pods_serve_meanwhile() {
    let mut plane = ControlPlane::start("outage").await;
    let namespace = plane.namespace("outage").await;
    let pod = GatewayPod::start(&namespace, "gateway-0", &template(&namespace, "llama").await).await;
    pod.wait_ready().await;
    let expected = Expected::one_of([answer_of(&pod).await.text]);
    let traffic = Traffic::start(&namespace, "default", vec![question(expected)]).await;
    let pods: Api<Pod> = namespace.all();

    plane.stop_apiserver();
    assert!(pods.get("gateway-0").await.is_err(), "nobody answers");
    traffic.phase("no apiserver");
    traffic.wait_answers(10).await;
    plane.start_apiserver().await;
    let object = eventually("the pod", async || pods.get("gateway-0").await.ok()).await;
    assert_eq!(object.metadata.uid.as_deref(), Some(pod.uid.as_str()));

    plane.freeze_apiserver();
    let short = std::time::Duration::from_millis(300);
    // It may answer once more before it is stopped.
    eventually("silence", async || {
        tokio::time::timeout(short, pods.get("gateway-0")).await.is_err().then_some(())
    })
    .await;
    traffic.phase("frozen apiserver");
    traffic.wait_answers(10).await;
    plane.thaw_apiserver();
    eventually("the pod", async || pods.get("gateway-0").await.ok()).await;
    assert_eq!(traffic.stop().await.verdict(), Ok(()));
}

#[test]
fn a_folder_of_this_run_is_held_by_this_run() {
    let folder = new_folder("held");
    let lock = std::fs::File::open(folder.parent().unwrap().join("lock")).unwrap();
    assert!(lock.try_lock().is_err(), "another run would remove it");
}
