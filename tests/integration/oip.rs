//! The Open Inference Protocol on the wire: whole bodies, whole streams, whole errors.

mod errors;
mod generate;
mod health;
mod stream;

use reqwest::Response;
use serde_json::{Value, json};

use crate::harness::Gateway;

const GENERATE: &str = "/v2/models/tiny/generate";
const STREAM: &str = "/v2/models/tiny/generate_stream";
const EOS: u64 = 257;

/// A request with the id `r-1`.
async fn send(gateway: &Gateway, path: &str, body: &Value) -> Response {
    let request = gateway.client.post(format!("http://{}{path}", gateway.api)).body(body.to_string());
    request.header("x-request-id", "r-1").send().await.unwrap()
}

/// Status and body of an answer, without what differs from one time to the next.
async fn ask(gateway: &Gateway, path: &str, body: &Value) -> (u16, Value) {
    let response = send(gateway, path, body).await;
    assert_eq!(response.headers()["x-request-id"], "r-1");
    (response.status().as_u16(), told(response.json().await.unwrap()))
}

async fn get(gateway: &Gateway, path: &str) -> (u16, Value) {
    let response = gateway.get(path).await;
    (response.status().as_u16(), response.json().await.unwrap())
}

/// The revision of the only model.
async fn revision(gateway: &Gateway) -> String {
    gateway.readyz().await.1["models"][0]["serving"].as_str().unwrap().to_owned()
}

/// Numbers that belong to the model, and the revision, in words.
fn told(mut answer: Value) -> Value {
    if let Some(version) = answer.get_mut("model_version") {
        assert_eq!(version.as_str().unwrap().len(), 10);
        *version = json!("revision");
    }
    let logprobs = answer.pointer_mut("/details/logprobs").and_then(Value::as_array_mut);
    logprobs.into_iter().flatten().for_each(unnumbered);
    answer.pointer_mut("/details/token").into_iter().for_each(unnumbered);
    answer
}

/// A token whose log-probability is one.
fn unnumbered(token: &mut Value) {
    assert!(token["logprob"].as_f64().unwrap() <= 0.0, "{token}");
    token["logprob"] = json!("logprob");
}

fn token(id: u64, text: &str) -> Value {
    json!({"id": id, "text": text, "logprob": "logprob", "special": id >= 256})
}
