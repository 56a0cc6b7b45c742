//! `POST /api/v1/inference` with a list of texts.

use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::harness::{Gateway, tiny};
use crate::streaming::events;

const TEXTS: [&str; 3] = ["Hello", "abc", "The quick brown fox"];

/// Without what differs from one time to the next.
fn timeless(mut answer: Value) -> Value {
    answer["metadata"].as_object_mut().unwrap().remove("processing_time_ms").unwrap();
    answer
}

#[tokio::test]
async fn a_list_is_answered_in_its_order_each_text_as_if_it_came_alone() {
    let gateway = Gateway::tiny().await;
    let request = |text: Value| json!({"text": text, "max_tokens": 12, "seed": 7, "logprobs": 1, "return_token_ids": true});
    let (status, body) = gateway.infer(&request(json!(TEXTS))).await;
    assert_eq!((status.as_u16(), body.as_object().unwrap().len()), (200, 1), "{body}");
    let results = body["results"].as_array().unwrap();
    assert_eq!(results.len(), TEXTS.len());
    for (text, result) in TEXTS.iter().zip(results) {
        let (_, alone) = gateway.infer(&request(json!(text))).await;
        assert_eq!(timeless(result.clone()), timeless(alone));
    }
    let (_, body) = gateway.infer(&request(json!(["abc"]))).await;
    assert_eq!(body["results"].as_array().unwrap().len(), 1, "a list of one is a list");
}

#[tokio::test]
async fn texts_of_a_list_without_a_seed_have_seeds_of_their_own() {
    let gateway = Gateway::tiny().await;
    let (_, body) = gateway.infer(&json!({"text": ["abc", "abc"], "max_tokens": 30})).await;
    let results = &body["results"];
    assert_ne!(results[0]["metadata"]["seed"], results[1]["metadata"]["seed"]);
    assert_ne!(results[0]["generated_text"], results[1]["generated_text"]);
}

#[tokio::test]
async fn the_events_of_a_list_say_to_which_text_they_belong() {
    let gateway = Gateway::tiny().await;
    let mut request = json!({"text": TEXTS, "max_tokens": 20, "seed": 7, "return_full_text": true});
    let (_, whole) = gateway.infer(&request).await;
    request["stream"] = json!(true);
    let mut texts = [const { String::new() }; TEXTS.len()];
    let mut ends = [const { Value::Null }; TEXTS.len()];
    for event in events(gateway.post(request.to_string()).send().await.unwrap()).await {
        let index = event["index"].as_u64().unwrap() as usize;
        assert!(ends[index].is_null(), "nothing comes after the metadata: {event}");
        texts[index].push_str(event["text"].as_str().unwrap_or_default());
        ends[index] = event["metadata"].clone();
    }
    for ((text, end), whole) in texts.iter().zip(ends).zip(whole["results"].as_array().unwrap()) {
        assert_eq!(text, whole["generated_text"].as_str().unwrap());
        assert_eq!(end["tokens_generated"], whole["metadata"]["tokens_generated"]);
    }
}

#[tokio::test]
async fn an_error_says_which_text_of_a_list_is_at_fault() {
    let gateway = Gateway::serving(&tiny("llama"), &["--max-batch-size=2", "--queue-limit=6"]).await;
    for (text, status, code, field) in [
        (json!([]), 422, "invalid_value", "text"),
        (json!(["a", ""]), 422, "invalid_value", "text[1]"),
        (json!(["a", 1]), 422, "invalid_value", "text"),
        (json!(vec!["a"; 65]), 422, "invalid_value", "text"),
        (json!(vec!["a"; 9]), 422, "invalid_value", "text"),
        (json!(["a", "b", "c".repeat(300)]), 400, "context_length_exceeded", "text[2]"),
    ] {
        let (found, body) = gateway.infer(&json!({"text": text, "max_tokens": 2})).await;
        let error = &body["error"];
        assert_eq!(
            (found.as_u16(), error["code"].as_str(), error["field"].as_str()),
            (status, Some(code), Some(field)),
            "{body}"
        );
    }
    let (_, body) = gateway.infer(&json!({"text": vec!["a"; 9]})).await;
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains("9 generations are more than the 8"), "{message}");
    let (status, _) = gateway.infer(&json!({"text": vec!["a"; 8], "max_tokens": 2})).await;
    assert_eq!(status.as_u16(), 200, "as many as there are places");
}

#[tokio::test]
async fn a_list_has_all_its_places_or_none_and_gives_all_of_them_back() {
    let gateway = Gateway::serving(&tiny("gpt2-no-cache"), &["--max-batch-size=2", "--queue-limit=2"]).await;
    let long = json!({"text": ["abc", "abd", "abe"], "max_tokens": 200, "stream": true, "ignore_eos": true});
    let mut running = gateway.post(long.to_string()).send().await.unwrap().bytes_stream();
    running.next().await.unwrap().unwrap();
    let (status, body) = gateway.infer(&json!({"text": ["a", "b"], "max_tokens": 1})).await;
    assert_eq!((status.as_u16(), &body["error"]["code"]), (429, &json!("overloaded")));
    drop(running);
    gateway.wait_sample("inference_gateway_requests_running{model=\"tiny\"}", 0.0).await;
    gateway.wait_sample("inference_gateway_requests_waiting{model=\"tiny\"}", 0.0).await;
    let (status, body) = gateway.infer(&json!({"text": vec!["a"; 4], "max_tokens": 1})).await;
    assert_eq!(status.as_u16(), 200, "{body}");
}
