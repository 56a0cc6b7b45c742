//! Text Generation Inference on the wire: whole bodies, whole streams, whole errors, headers.

mod errors;
mod generate;
mod server;
mod stream;

use reqwest::Response;
use serde_json::{Value, json};

use crate::harness::Gateway;

/// A request with the id `r-1`.
async fn send(gateway: &Gateway, path: &str, body: &Value) -> Response {
    let request = gateway.client.post(format!("http://{}{path}", gateway.api)).body(body.to_string());
    request.header("x-request-id", "r-1").send().await.unwrap()
}

/// Status and body of an answer, without what differs from one time to the next.
async fn ask(gateway: &Gateway, path: &str, body: &Value) -> (u16, Value) {
    let response = send(gateway, path, body).await;
    assert_eq!(response.headers()["x-request-id"], "r-1");
    (response.status().as_u16(), unnumbered(response.json().await.unwrap()))
}

/// The data of every event of a stream.
async fn stream(gateway: &Gateway, path: &str, body: &Value) -> Vec<Value> {
    let response = send(gateway, path, body).await;
    assert_eq!(response.status().as_u16(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    let text = response.text().await.unwrap();
    let events = text.split("\n\n").filter(|event| !event.is_empty() && !event.starts_with(':'));
    let data = events.map(|event| event.strip_prefix("data: ").expect("events are data"));
    data.map(|data| unnumbered(serde_json::from_str(data).unwrap())).collect()
}

/// With a word in place of each log-probability that is one.
fn unnumbered(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let field = |(name, value): (String, Value)| {
                if name == "logprob" {
                    assert!(value.as_f64().unwrap() <= 0.0, "{value}");
                    return (name, json!("logprob"));
                }
                (name, unnumbered(value))
            };
            Value::Object(fields.into_iter().map(field).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(unnumbered).collect()),
        other => other,
    }
}

fn token(id: u64, text: &str) -> Value {
    json!({"id": id, "text": text, "logprob": "logprob", "special": id >= 256})
}

/// A request that can only be answered with `a`s: this dialect has no bias.
fn only_a(tokens: u64, parameters: &Value) -> Value {
    let grammar = json!({"type": "regex", "value": "a{1000}"});
    let mut request =
        json!({"inputs": "Hello", "parameters": {"max_new_tokens": tokens, "grammar": grammar}});
    for (name, value) in parameters.as_object().unwrap() {
        request["parameters"][name] = value.clone();
    }
    request
}
