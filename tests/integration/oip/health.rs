//! Health and metadata: `GET` below `/v2`.

use serde_json::json;

use super::{get, revision};
use crate::harness::{Gateway, ModelsList, PATIENCE, entry, settings, tiny};

#[tokio::test]
async fn the_server_and_its_models_tell_of_themselves() {
    let gateway = Gateway::tiny().await;
    let revision = revision(&gateway).await;
    let server = json!({"name": "inference-gateway", "version": env!("CARGO_PKG_VERSION"), "extensions": ["generate"]});
    assert_eq!(get(&gateway, "/v2").await, (200, server));
    assert_eq!(get(&gateway, "/v2/health/live").await, (200, json!({"live": true})));
    assert_eq!(get(&gateway, "/v2/health/ready").await, (200, json!({"live": true})));
    let model = json!({
        "name": "tiny", "versions": [revision], "platform": "onnx_onnxv1",
        "inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1]}],
        "outputs": [{"name": "text_output", "datatype": "BYTES", "shape": [1]}],
    });
    let ready = json!({"name": "tiny", "ready": true});
    for base in ["/v2/models/tiny".to_owned(), format!("/v2/models/tiny/versions/{revision}")] {
        assert_eq!(get(&gateway, &base).await, (200, model.clone()));
        assert_eq!(get(&gateway, &format!("{base}/ready")).await, (200, ready.clone()));
    }
}

#[tokio::test]
async fn models_are_known_by_every_name_also_with_slashes() {
    let yaml = entry("chat", &tiny("llama"), "servedName: org/chat, aliases: [small]")
        + &entry("b", &tiny("gpt2"), "");
    let list = ModelsList::new(&yaml);
    let gateway = list.gateway(&[]).await;
    gateway.wait_ready().await;
    for (path, name) in [("org/chat", "org/chat"), ("org%2Fchat", "org/chat"), ("small", "small"), ("b", "b")]
    {
        let (status, body) = get(&gateway, &format!("/v2/models/{path}/ready")).await;
        assert_eq!((status, body), (200, json!({"name": name, "ready": true})));
        let (status, body) = get(&gateway, &format!("/v2/models/{path}")).await;
        assert_eq!((status, &body["name"]), (200, &json!(name)));
    }
}

#[tokio::test]
async fn a_server_is_ready_when_all_of_its_models_are() {
    let list = ModelsList::new(&entry("a", &tiny("llama"), ""));
    let gateway = list.gateway(&[]).await;
    gateway.wait_ready().await;
    assert_eq!(get(&gateway, "/v2/health/ready").await, (200, json!({"live": true})));
    list.write(&(entry("a", &tiny("llama"), "") + &entry("b", "/no/such/folder", "")));
    gateway.reload();
    let began = std::time::Instant::now();
    while get(&gateway, "/v2/health/ready").await.0 == 200 {
        assert!(began.elapsed() < PATIENCE, "ready without one of its models");
    }
    assert_eq!(get(&gateway, "/v2/health/ready").await, (503, json!({"live": false})));
    assert_eq!(get(&gateway, "/v2/health/live").await, (200, json!({"live": true})));
    assert_eq!(get(&gateway, "/v2/models/b/ready").await, (503, json!({"name": "b", "ready": false})));
    assert_eq!(get(&gateway, "/v2/models/a/ready").await, (200, json!({"name": "a", "ready": true})));
    assert_eq!(
        gateway.readyz().await.0,
        200,
        "a model that comes later does not take the process out of service"
    );
}

#[tokio::test]
async fn a_model_that_does_not_answer_tells_why() {
    let gateway = Gateway::start(settings(&["--default-model-path=/no/such/folder"])).await;
    let (status, body) = get(&gateway, "/v2/models/tiny").await;
    let error = body["error"].as_str().unwrap();
    assert!(status == 503 && error.starts_with("the model `tiny` is not ready"), "{status}: {error}");
    assert_eq!(get(&gateway, "/v2/models/tiny/ready").await, (503, json!({"name": "tiny", "ready": false})));
    assert_eq!(get(&gateway, "/v2/health/ready").await, (503, json!({"live": false})));
}
