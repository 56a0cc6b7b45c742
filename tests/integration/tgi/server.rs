//! What the server tells of itself, and of the tokens of a text.

use serde_json::{Value, json};

use super::ask;
use crate::harness::{Gateway, settings, tiny};

async fn get(gateway: &Gateway, path: &str) -> (u16, String) {
    let response = gateway.get(path).await;
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test]
async fn the_limits_of_the_model_are_told() {
    let gateway = Gateway::serving(&tiny("llama"), &["--max-batch-size=2", "--queue-limit=6"]).await;
    let (status, body) = get(&gateway, "/info").await;
    let mut body: Value = serde_json::from_str(&body).unwrap();
    let revision = gateway.readyz().await.1["models"][0]["serving"].clone();
    assert!(body["validation_workers"].as_u64().unwrap() >= 1);
    body["validation_workers"] = json!("some");
    assert_eq!(
        (status, body),
        (
            200,
            json!({
                "model_id": "tiny", "model_sha": revision, "model_pipeline_tag": "text-generation",
                "max_concurrent_requests": 8, "max_best_of": 8, "max_stop_sequences": 16, "max_input_tokens": 255,
                "max_total_tokens": 256, "validation_workers": "some", "max_client_batch_size": 1,
                "router": "inference-gateway", "version": env!("CARGO_PKG_VERSION"), "sha": null, "docker_label": null,
            })
        )
    );
}

#[tokio::test]
async fn health_follows_readiness() {
    let gateway = Gateway::tiny().await;
    assert_eq!(get(&gateway, "/health").await, (200, String::new()));
    let gateway = Gateway::start(settings(&["--default-model-path=/no/such/folder"])).await;
    let (status, body) = get(&gateway, "/health").await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, body), (503, json!({"error": "unhealthy", "error_type": "healthcheck"})));
}

#[tokio::test]
async fn a_text_is_told_as_tokens_with_their_bytes() {
    let gateway = Gateway::tiny().await;
    let token = |id: u64, text: &str, start: usize, stop: usize| json!({"id": id, "text": text, "start": start, "stop": stop});
    let (status, body) = ask(&gateway, "/tokenize", &json!({"inputs": "ab<|eos|>"})).await;
    assert_eq!(
        (status, body),
        (200, json!([token(97, "a", 0, 1), token(98, "b", 1, 2), token(257, "<|eos|>", 2, 9)]))
    );
    let (_, body) = ask(&gateway, "/tokenize", &json!({"inputs": "é"})).await;
    let ids: Vec<u64> = body.as_array().unwrap().iter().map(|token| token["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, "é".bytes().map(u64::from).collect::<Vec<_>>());
    assert_eq!(ask(&gateway, "/tokenize", &json!({"inputs": ""})).await, (200, json!([])));
}
