//! `GET /v1/models` and `GET /v1/models/{id}`

use serde_json::{Value, json};

use super::timeless;
use crate::harness::{Gateway, ModelsList, entry, settings, tiny};

async fn get(gateway: &Gateway, path: &str) -> (u16, Value) {
    let response = gateway.get(path).await;
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test]
async fn models_are_listed_by_every_name_and_found_by_one() {
    let yaml = entry("chat", &tiny("llama"), "servedName: org/chat, aliases: [small]")
        + &entry("b", &tiny("gpt2"), "");
    let list = ModelsList::new(&yaml);
    let gateway = list.gateway(&[]).await;
    gateway.wait_ready().await;
    let (status, body) = get(&gateway, "/v1/models").await;
    let model =
        |id: &str| json!({"id": id, "object": "model", "created": "now", "owned_by": "inference-gateway"});
    let data: Vec<Value> = body["data"].as_array().unwrap().iter().cloned().map(timeless).collect();
    assert_eq!((status, &body["object"]), (200, &json!("list")));
    assert_eq!(data, ["b", "org/chat", "small"].map(model));
    assert_eq!(body.as_object().unwrap().len(), 2);
    for path in ["/v1/models/org/chat", "/v1/models/org%2Fchat"] {
        let (status, body) = get(&gateway, path).await;
        assert_eq!((status, timeless(body)), (200, model("org/chat")));
    }
    let (status, body) = get(&gateway, "/v1/models/gpt-5").await;
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("there is no model `gpt-5`"), "{message}");
    assert_eq!((status, &body["error"]["code"]), (404, &json!("model_not_found")));
}

#[tokio::test]
async fn a_model_that_does_not_answer_is_not_listed() {
    let gateway = Gateway::start(settings(&["--default-model-path=/no/such/folder"])).await;
    let list = json!({"object": "list", "data": []});
    assert_eq!(get(&gateway, "/v1/models").await, (200, list));
    let (status, body) = get(&gateway, "/v1/models/tiny").await;
    assert_eq!((status, &body["error"]["code"]), (503, &json!("model_not_ready")));
}
