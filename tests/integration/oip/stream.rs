//! `POST /v2/models/{name}/generate_stream`

use serde_json::{Value, json};

use super::{EOS, GENERATE, STREAM, ask, send, token, told};
use crate::harness::{Gateway, tiny};

/// The data of every event.
async fn stream(gateway: &Gateway, body: &Value) -> Vec<Value> {
    let response = send(gateway, STREAM, body).await;
    assert_eq!(response.status().as_u16(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    assert_eq!(response.headers()["x-model-revision"].len(), 10);
    let text = response.text().await.unwrap();
    let events = text.split("\n\n").filter(|event| !event.is_empty() && !event.starts_with(':'));
    events
        .map(|event| {
            told(serde_json::from_str(event.strip_prefix("data: ").expect("events are data")).unwrap())
        })
        .collect()
}

fn event(text: &str) -> Value {
    json!({"model_name": "tiny", "model_version": "revision", "text_output": text})
}

fn detailed(finish_reason: Option<&str>, token: &Value, text: &str) -> Value {
    let mut event = event(text);
    event["details"] = json!({"finish_reason": finish_reason, "token": token});
    event
}

#[tokio::test]
async fn pieces_of_the_text_come_as_events() {
    let gateway = Gateway::tiny().await;
    let request = json!({"text_input": "Hello", "stream": true, "parameters": {"logit_bias": {"97": 100}, "max_tokens": 3}});
    assert_eq!(stream(&gateway, &request).await, vec![event("a"); 3]);
    let mut identified = event("a");
    identified["id"] = json!("x");
    let request =
        json!({"id": "x", "text_input": "Hello", "parameters": {"logit_bias": {"97": 100}, "max_tokens": 1}});
    assert_eq!(stream(&gateway, &request).await, [identified]);
    let request = json!({"text_input": "Hello", "parameters": {"logit_bias": {EOS.to_string(): 100}}});
    assert_eq!(stream(&gateway, &request).await, [event("")], "a text without anything is told as well");
}

#[tokio::test]
async fn with_details_each_token_is_an_event_and_the_last_one_tells_why_the_text_ended() {
    let gateway = Gateway::tiny().await;
    let parameters = json!({"logit_bias": {"97": 100}, "max_tokens": 3, "details": true});
    let mut request = json!({"text_input": "Hello", "parameters": parameters});
    let a = || detailed(None, &token(97, "a"), "a");
    let last = detailed(Some("length"), &token(97, "a"), "a");
    assert_eq!(stream(&gateway, &request).await, [a(), a(), last]);

    request["parameters"]["logit_bias"] = json!({EOS.to_string(): 100});
    assert_eq!(stream(&gateway, &request).await, [detailed(Some("eos_token"), &token(EOS, "<|eos|>"), "")]);

    request["parameters"]["logit_bias"] = json!({"97": 100});
    request["parameters"]["max_tokens"] = json!(9);
    request["parameters"]["stop"] = json!("aa");
    let nothing = |reason| detailed(reason, &token(97, ""), "");
    assert_eq!(stream(&gateway, &request).await, [nothing(None), nothing(Some("stop_sequence"))]);
}

#[tokio::test]
async fn the_events_of_a_stream_are_the_answer() {
    let gateway = Gateway::tiny().await;
    for (parameters, prompts) in [
        (json!({"max_tokens": 60}), 12),
        (json!({"max_tokens": 60, "stop": ["e", "tt", "\u{fffd}\u{fffd}a"]}), 12),
        (json!({"format": {"type": "regex", "pattern": "[a-é]{3,9}x?"}}), 12),
    ] {
        for seed in 0..prompts {
            let mut request = json!({"text_input": "Hello", "parameters": parameters});
            request["parameters"]["seed"] = json!(seed);
            let (status, plain) = ask(&gateway, GENERATE, &request).await;
            assert_eq!(status, 200, "{plain}");
            let pieces = stream(&gateway, &request).await;
            request["parameters"]["details"] = json!(true);
            let (_, whole) = ask(&gateway, GENERATE, &request).await;
            let events = stream(&gateway, &request).await;
            let joined = |events: &[Value]| {
                events.iter().map(|event| event["text_output"].as_str().unwrap()).collect::<String>()
            };
            assert_eq!(plain["text_output"], whole["text_output"]);
            assert_eq!(plain["text_output"], joined(&pieces), "{request}");
            assert_eq!(plain["text_output"], joined(&events), "{request}");
            let tokens: Vec<&Value> = events.iter().map(|event| &event["details"]["token"]).collect();
            assert_eq!(json!(tokens), whole["details"]["logprobs"], "{request}");
            let (last, others) = events.split_last().unwrap();
            assert_eq!(last["details"]["finish_reason"], whole["details"]["finish_reason"]);
            assert!(others.iter().all(|event| event["details"]["finish_reason"].is_null()));
        }
    }
}

#[tokio::test]
async fn a_stream_that_fails_ends_with_the_error() {
    let gateway = Gateway::serving(&tiny("gpt2-no-cache"), &["--request-timeout=50ms"]).await;
    let request = json!({"text_input": "abc", "max_tokens": 200, "ignore_eos": true});
    let events = stream(&gateway, &request).await;
    let error = json!({"error": "the request did not end before its deadline"});
    assert_eq!(events.last(), Some(&error));
    assert!(events.iter().rev().skip(1).all(|event| event.get("error").is_none()));
}
