//! `POST /api/v1/inference` as server-sent events.

use futures_util::StreamExt;
use futures_util::future::join_all;
use reqwest::Response;
use serde_json::{Value, json};

use crate::harness::{Gateway, tiny};

/// The data of every event.
pub(crate) async fn events(response: Response) -> Vec<Value> {
    let text = response.text().await.unwrap();
    text.split("\n\n")
        .filter(|event| !event.is_empty() && !event.starts_with(':'))
        .map(|event| serde_json::from_str(event.strip_prefix("data: ").expect("events are data")).unwrap())
        .collect()
}

#[tokio::test]
async fn the_pieces_of_a_stream_are_the_whole_answer() {
    let gateway = Gateway::tiny().await;
    for (prompt, tokens) in [("Hello", 40), ("abc", 1), ("The quick brown fox", 100)] {
        let mut request = json!({"text": prompt, "max_tokens": tokens, "temperature": 0.8, "seed": 3, "return_full_text": false});
        let (_, whole) = gateway.infer(&request).await;
        request["stream"] = json!(true);
        let response = gateway.post(request.to_string()).send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["x-model-revision"].len(), 10);
        let events = events(response).await;
        let (last, pieces) = events.split_last().unwrap();
        let text: String = pieces.iter().map(|event| event["text"].as_str().unwrap()).collect();
        assert_eq!(text, whole["generated_text"].as_str().unwrap());
        for key in ["tokens_generated", "finish_reason", "prompt_tokens", "model", "seed"] {
            assert_eq!(last["metadata"][key], whole["metadata"][key], "{key}");
        }
    }
}

#[tokio::test]
async fn a_stream_can_begin_with_the_prompt() {
    let gateway = Gateway::tiny().await;
    let request = json!({"text": "Hello", "max_tokens": 3, "stream": true, "return_full_text": true});
    let events = events(gateway.post(request.to_string()).send().await.unwrap()).await;
    assert_eq!(events[0], json!({"text": "Hello"}));
}

#[tokio::test]
async fn bad_requests_are_answered_with_a_status_not_with_a_stream() {
    let gateway = Gateway::tiny().await;
    let (status, body) = gateway.infer(&json!({"text": "a", "stream": true, "max_tokens": 1000})).await;
    assert_eq!((status.as_u16(), &body["error"]["code"]), (400, &json!("context_length_exceeded")));
}

const RUNNING: &str = "inference_gateway_requests_running{model=\"tiny\"}";
const CANCELLED: &str = "inference_gateway_generations_total{finish_reason=\"cancelled\",model=\"tiny\"}";

#[tokio::test]
async fn a_client_that_stops_reading_a_stream_frees_its_place() {
    let gateway = Gateway::serving(&tiny("gpt2-no-cache"), &["--max-batch-size=1", "--queue-limit=0"]).await;
    let request = json!({"text": "abc", "max_tokens": 200, "stream": true, "ignore_eos": true});
    let mut body = gateway.post(request.to_string()).send().await.unwrap().bytes_stream();
    body.next().await.unwrap().unwrap();
    drop(body);
    gateway.wait_sample(CANCELLED, 1.0).await;
    gateway.wait_sample(RUNNING, 0.0).await;
    // The step in which the client went may still be running.
    let began = std::time::Instant::now();
    loop {
        let (status, body) = gateway.infer(&json!({"text": "abc", "max_tokens": 1})).await;
        if status.as_u16() == 200 {
            return;
        }
        assert!(status.as_u16() == 429 && began.elapsed() < crate::harness::PATIENCE, "{body}");
    }
}

#[tokio::test]
async fn clients_that_do_not_wait_for_a_whole_answer_free_their_places() {
    let gateway = Gateway::serving(&tiny("gpt2-no-cache"), &["--max-batch-size=1", "--queue-limit=19"]).await;
    let request = json!({"text": "abc", "max_tokens": 200, "ignore_eos": true}).to_string();
    // One runs and the others wait; all together take long enough to be seen.
    let all = join_all((0..20).map(|_| gateway.post(request.clone()).send()));
    tokio::select! {
        _ = all => panic!("4,000 steps were faster than a scrape"),
        () = gateway.wait_sample(RUNNING, 1.0) => {}
    }
    // Dropping the futures has closed their connections.
    gateway.wait_sample(RUNNING, 0.0).await;
    gateway.wait_sample("inference_gateway_requests_waiting{model=\"tiny\"}", 0.0).await;
    assert!(gateway.sample(CANCELLED).await >= 10.0, "requests that nobody waits for were run");
    let (status, _) = gateway.infer(&json!({"text": "abc", "max_tokens": 1})).await;
    assert_eq!(status.as_u16(), 200);
}

#[tokio::test]
async fn a_full_queue_is_told_at_once() {
    let gateway = Gateway::serving(&tiny("gpt2-no-cache"), &["--max-batch-size=1", "--queue-limit=0"]).await;
    let long = json!({"text": "abc", "max_tokens": 200, "stream": true, "ignore_eos": true});
    let mut running = gateway.post(long.to_string()).send().await.unwrap().bytes_stream();
    running.next().await.unwrap().unwrap();
    let refused = gateway.post(json!({"text": "abc"}).to_string()).send().await.unwrap();
    assert_eq!(refused.status().as_u16(), 429);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(refused.json::<Value>().await.unwrap()["error"]["code"], "overloaded");
}
