//! The list of models in a ConfigMap: pods without a controller follow it by themselves.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::eventually;
use crate::fleet::{PROMPT, source};
use crate::namespace::{Namespace, rule};
use crate::node::{GatewayPod, LIVENESS_PATIENCE, Template};
use crate::plane::ControlPlane;
use crate::traffic::{ask, body, http_client};

async fn put(namespace: &Namespace, models: &str) {
    let maps: Api<ConfigMap> = namespace.all();
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "models"}, "data": {"models.yaml": models}});
    maps.patch("models", &PatchParams::apply("tests").force(), &Patch::Apply(&map)).await.unwrap();
}

fn list(tiny: &str) -> String {
    json!([{"name": "chat", "spec": {"source": source(tiny), "rollout": {"watch": {"windowSeconds": 0}}}}])
        .to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watched_config_map_is_followed_and_what_does_not_hold_changes_nothing() {
    let namespace = ControlPlane::shared().await.namespace("config-map").await;
    // Only this one map, only by its name.
    let mut watch = rule("", &["configmaps"], &["list", "watch"]);
    watch.resource_names = Some(vec!["models".to_owned()]);
    namespace.service_account("gateway", vec![watch]).await;
    let template = Template {
        gateway: "default".to_owned(),
        service_account: "gateway".to_owned(),
        arguments: vec!["--models-config-map=models".to_owned(), "--config-map-spread=1s".to_owned()],
        environment: Vec::new(),
        liveness_patience: LIVENESS_PATIENCE,
    };
    let pod = GatewayPod::start(&namespace, "gateway-0", &template).await;
    let missing = eventually("a reason", async || {
        pod.readiness().await.filter(|told| told.contains("there is no ConfigMap models"))
    })
    .await;
    assert!(missing.contains("\"ready\":false"), "{missing}");

    put(&namespace, &list("llama")).await;
    pod.wait_ready().await;
    let before = ask(&http_client(), pod.api, &body("chat", PROMPT, false)).await.unwrap();
    let maps: Api<ConfigMap> = namespace.all();
    for (bad, why) in [("- {name: chat, sepc: 1}", "unknown field"), ("a: [", "line"), ("", "is empty")] {
        put(&namespace, bad).await;
        let told = eventually(why, async || pod.readiness().await.filter(|told| told.contains(why))).await;
        assert!(told.contains("\"ready\":true"), "{told}");
    }
    maps.delete("models", &DeleteParams::default()).await.unwrap();
    eventually("a reason", async || pod.readiness().await.filter(|told| told.contains("no ConfigMap"))).await;
    assert_eq!(ask(&http_client(), pod.api, &body("chat", PROMPT, true)).await.unwrap(), before);

    put(&namespace, &list("gpt2")).await;
    eventually("the other model", async || {
        let answer = ask(&http_client(), pod.api, &body("chat", PROMPT, false)).await.unwrap();
        (answer.revision != before.revision).then_some(())
    })
    .await;
    assert!(
        !pod.readiness().await.unwrap().contains("reason\":\"what is known"),
        "nothing is wrong any more"
    );
}

/// The objects of a cluster and the list in a ConfigMap are two ways to say what is served: not both.
#[tokio::test]
async fn two_sources_of_models_are_refused() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_inference-gateway"))
        .args(["--gateway-name=a", "--models-config-map=b"])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && told.contains("cannot be used with"), "{told}");
}
