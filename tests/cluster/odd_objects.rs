//! Objects that cannot be understood or are as large as the apiserver lets through, next to good ones.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::eventually;
use crate::fleet::{Fleet, condition, spec};
use crate::plane::ControlPlane;

/// etcd takes requests of a megabyte and a half; a part of that is for what the apiserver adds.
const LARGE: usize = 1 << 20;

/// A looser schema of models, as another version may have: what is below the spec is not looked at.
async fn loosen(plane: &ControlPlane, fleet: &Fleet) {
    let definitions: Api<CustomResourceDefinition> = Api::all(plane.admin().await);
    let mut definition = definitions.get("models.inference-gateway.io").await.unwrap();
    let schema = definition.spec.versions[0].schema.as_mut().unwrap().open_api_v3_schema.as_mut().unwrap();
    schema.x_kubernetes_validations = None;
    let spec_schema = schema.properties.as_mut().unwrap().get_mut("spec").unwrap();
    spec_schema.properties.as_mut().unwrap().retain(|name, _| name == "gatewayRef");
    spec_schema.x_kubernetes_preserve_unknown_fields = Some(true);
    (spec_schema.x_kubernetes_validations, spec_schema.required) = (None, None);
    definitions.replace("models.inference-gateway.io", &PostParams::default(), &definition).await.unwrap();
    // The apiserver takes a moment to serve the new schema.
    eventually("the looser schema", async || try_apply(fleet, "probe", &json!({"source": 7})).await.ok())
        .await;
    fleet.models.delete("probe", &DeleteParams::default()).await.unwrap();
}

async fn try_apply(fleet: &Fleet, name: &str, spec: &Value) -> kube::Result<()> {
    let mut spec = spec.clone();
    spec["gatewayRef"] = json!({"name": "default"});
    let object = json!({
        "apiVersion": "inference-gateway.io/v1alpha1", "kind": "Model", "metadata": {"name": name}, "spec": spec,
    });
    let ours = PatchParams::apply("tests").force();
    fleet.models.patch(name, &ours, &Patch::Apply(&object)).await.map(drop)
}

/// A spec that is as large as the schema lets it be.
fn largest() -> Value {
    let mut largest = spec("llama");
    let probe = json!({"prompt": "a".repeat(64), "maxTokens": 1});
    largest["verify"] = json!({"probes": vec![probe; 8]});
    largest["runtime"] = json!({"chatTemplate": format!("{{# {} #}}", "x".repeat(16_000))});
    largest["aliases"] = json!((0..8).map(|index| format!("{index}{}", "y".repeat(120))).collect::<Vec<_>>());
    largest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_that_make_no_sense_or_are_huge_hide_no_other() {
    let plane = ControlPlane::start("odd").await;
    let fleet = Fleet::start(&plane, "odd", 2).await;
    fleet.all_ready().await;
    fleet.apply("chat", &spec("llama")).await;
    fleet.wait_rolled_out("chat").await;
    let traffic = fleet.traffic("chat", &["llama", "gpt2"]).await;
    traffic.phase("odd objects");
    fleet.apply("largest", &largest()).await;
    loosen(&plane, &fleet).await;

    let huge = "z".repeat(LARGE);
    let odd = [
        ("not-an-object", json!({"source": 7}), "InvalidSpec"),
        ("no-source", json!({}), "InvalidSpec"),
        ("wrong-kind", json!({"source": {"path": ["a"]}, "paused": "maybe"}), "InvalidSpec"),
        ("of-the-future", json!({"source": {"path": "a"}, "torrent": huge}), "UnsupportedFeature"),
        ("huge-name", json!({"source": {"path": "a"}, "servedName": {"name": huge}}), "InvalidSpec"),
    ];
    for (name, spec, _) in &odd {
        try_apply(&fleet, name, spec).await.unwrap();
    }
    let too_large = try_apply(&fleet, "too-large", &json!({"torrent": "z".repeat(2 * LARGE)})).await;
    println!("two megabytes: {}", too_large.unwrap_err().to_string().chars().take(120).collect::<String>());
    for (name, _, reason) in &odd {
        let status =
            fleet.wait(name, reason, |status| condition(status, "Accepted").starts_with("False")).await;
        assert_eq!(condition(&status, "Accepted"), format!("False {reason}"), "{name}: {status}");
        assert!(status.to_string().len() < 10_000, "what cannot be understood is not repeated");
    }
    // Good ones, older and newer than those, move on.
    fleet.apply("chat", &spec("gpt2")).await;
    fleet.wait_rolled_out("chat").await;
    fleet.apply("newer", &spec("gpt2")).await;
    fleet.wait_rolled_out("newer").await;
    fleet.wait_rolled_out("largest").await;
    assert_eq!(traffic.stop().await.verdict(), Ok(()));
}
