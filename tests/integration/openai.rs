//! The OpenAI dialect on the wire: whole bodies, whole streams, whole errors.

mod chat;
mod completions;
mod errors;
mod formats;
mod models;
mod places;
mod tools;

use reqwest::Response;
use serde_json::{Value, json};

use crate::harness::Gateway;

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

/// What the tiny models' template makes of one message.
fn templated(content: &str) -> String {
    format!("<|bos|>user\n{content}<|eos|>\n<|bos|>assistant\n")
}

/// A request with the id `r-1`.
async fn send(gateway: &Gateway, path: &str, body: &Value) -> Response {
    let request = gateway.client.post(format!("http://{}{path}", gateway.api)).body(body.to_string());
    request.header("x-request-id", "r-1").send().await.unwrap()
}

/// Status and body of an answer, without what differs from one time to the next.
async fn ask(gateway: &Gateway, path: &str, body: &Value) -> (u16, Value) {
    let response = send(gateway, path, body).await;
    (response.status().as_u16(), timeless(response.json().await.unwrap()))
}

/// The data of every event of a stream, `[DONE]` as a text.
async fn stream(gateway: &Gateway, path: &str, body: &Value) -> Vec<Value> {
    let response = send(gateway, path, body).await;
    assert_eq!(response.status().as_u16(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    assert_eq!(response.headers()["x-request-id"], "r-1");
    assert_eq!(response.headers()["x-model-revision"].len(), 10);
    let text = response.text().await.unwrap();
    let events = text.split("\n\n").filter(|event| !event.is_empty() && !event.starts_with(':'));
    events
        .map(|event| match event.strip_prefix("data: ").expect("events are data") {
            "[DONE]" => json!("[DONE]"),
            data => timeless(serde_json::from_str(data).unwrap()),
        })
        .collect()
}

fn timeless(mut answer: Value) -> Value {
    if let Some(created) = answer.get_mut("created") {
        assert!(created.as_u64().unwrap() > 1_700_000_000, "{created}");
        *created = json!("now");
    }
    if let Some(fingerprint) = answer.get_mut("system_fingerprint") {
        assert_eq!(fingerprint.as_str().unwrap().len(), "fp_".len() + 10);
        *fingerprint = json!("fp");
    }
    answer
}

/// What follows a prompt, greedily and without an end.
pub(crate) async fn continuation(gateway: &Gateway, prompt: &str, tokens: usize) -> String {
    let request = json!({"text": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": true, "return_full_text": false});
    let (status, body) = gateway.infer(&request).await;
    assert_eq!(status.as_u16(), 200, "{body}");
    body["generated_text"].as_str().unwrap().to_owned()
}
