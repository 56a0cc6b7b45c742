//! A request for several choices takes a place for each, and gives all of them back.

use futures_util::StreamExt;
use serde_json::{Value, json};

use super::{CHAT, COMPLETIONS, ask, send};
use crate::harness::{Gateway, tiny};

const RUNNING: &str = "inference_gateway_requests_running{model=\"tiny\"}";
const WAITING: &str = "inference_gateway_requests_waiting{model=\"tiny\"}";
const CANCELLED: &str = "inference_gateway_generations_total{finish_reason=\"cancelled\",model=\"tiny\"}";

#[tokio::test]
async fn a_client_that_goes_away_frees_the_places_of_all_choices() {
    let gateway = Gateway::serving(&tiny("gpt2-no-cache"), &["--max-batch-size=2", "--queue-limit=4"]).await;
    let messages = json!([{"role": "user", "content": "Hi"}]);
    let long = json!({"messages": messages, "max_tokens": 200, "n": 6, "stream": true, "ignore_eos": true});
    let mut body = send(&gateway, CHAT, &long).await.bytes_stream();
    body.next().await.unwrap().unwrap();
    let refused = send(&gateway, COMPLETIONS, &json!({"prompt": "a"})).await;
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (429, &"1".parse().unwrap()));
    let error = refused.json::<Value>().await.unwrap()["error"].clone();
    assert_eq!((&error["type"], &error["code"]), (&json!("rate_limit_error"), &json!("rate_limit_exceeded")));

    drop(body);
    gateway.wait_sample(CANCELLED, 6.0).await;
    gateway.wait_sample(RUNNING, 0.0).await;
    gateway.wait_sample(WAITING, 0.0).await;
    let (status, body) = ask(&gateway, COMPLETIONS, &json!({"prompt": "a", "n": 6, "max_tokens": 1})).await;
    assert_eq!(status, 200, "{body}");
}

#[tokio::test]
async fn a_client_that_does_not_wait_for_a_whole_answer_frees_them_too() {
    let gateway = Gateway::serving(&tiny("gpt2-no-cache"), &["--max-batch-size=2", "--queue-limit=4"]).await;
    let request = json!({"prompt": ["abc", "abd"], "n": 3, "max_tokens": 200, "ignore_eos": true});
    tokio::select! {
        _ = send(&gateway, COMPLETIONS, &request) => panic!("1,200 tokens were faster than a scrape"),
        () = gateway.wait_sample(RUNNING, 2.0) => {}
    }
    gateway.wait_sample(RUNNING, 0.0).await;
    gateway.wait_sample(WAITING, 0.0).await;
    gateway.wait_sample(CANCELLED, 6.0).await;
}
