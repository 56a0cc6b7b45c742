//! Objects that cannot be understood or are as large as the apiserver lets through, next to good ones.

use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::eventually;
use crate::fleet::{Fleet, condition, spec};
use crate::plane::ControlPlane;

/// etcd takes requests of a megabyte and a half; a part of that is for what the apiserver adds.
const LARGE: usize = 1 << 20;

/// A looser schema of models, as another version may have: what is below the spec is not looked at.
async fn loosen(plane: &ControlPlane, fleet: &Fleet) {
    plane
        .change_model_schema(|schema| {
            schema.x_kubernetes_validations = None;
            let spec_schema = schema.properties.as_mut().unwrap().get_mut("spec").unwrap();
            spec_schema.properties.as_mut().unwrap().retain(|name, _| name == "gatewayRef");
            spec_schema.x_kubernetes_preserve_unknown_fields = Some(true);
            (spec_schema.x_kubernetes_validations, spec_schema.required) = (None, None);
        })
        .await;
    // The apiserver takes a moment to serve the new schema.
    let loose = addressed(&json!({"source": 7}));
    eventually("the looser schema", async || fleet.try_apply("probe", &loose).await.ok()).await;
    fleet.models.delete("probe", &DeleteParams::default()).await.unwrap();
}

/// Of the gateway of the tests, which the looser schema does not fill in.
fn addressed(spec: &Value) -> Value {
    let mut spec = spec.clone();
    spec["gatewayRef"] = json!({"name": "default"});
    spec
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
        fleet.apply(name, &addressed(spec)).await;
    }
    let too_large = addressed(&json!({"torrent": "z".repeat(2 * LARGE)}));
    let too_large = fleet.try_apply("too-large", &too_large).await;
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
