//! `POST /generate_stream`, and `POST /` with a stream.

use serde_json::{Value, json};

use super::{ask, only_a, send, stream, token};
use crate::harness::{Gateway, tiny};

const STREAM: &str = "/generate_stream";

fn event(index: usize, text: &str) -> Value {
    json!({"index": index, "token": token(97, text), "generated_text": null, "details": null})
}

#[tokio::test]
async fn each_token_is_an_event_and_the_last_one_has_the_text() {
    let gateway = Gateway::tiny().await;
    let mut last = event(3, "a");
    last["generated_text"] = json!("aaa");
    let request = only_a(3, &json!({}));
    assert_eq!(stream(&gateway, STREAM, &request).await, [event(1, "a"), event(2, "a"), last.clone()]);

    let request = only_a(3, &json!({"details": true, "do_sample": true, "seed": 5}));
    last["details"] = json!({"finish_reason": "length", "generated_tokens": 3, "seed": 5, "input_length": 5});
    assert_eq!(stream(&gateway, STREAM, &request).await, [event(1, "a"), event(2, "a"), last.clone()]);

    // At the root the text begins with the prompt, and the tokens do not.
    let mut request = only_a(3, &json!({"details": true}));
    request["stream"] = json!(true);
    last["generated_text"] = json!("Helloaaa");
    last["details"]["seed"] = Value::Null;
    assert_eq!(stream(&gateway, "/", &request).await, [event(1, "a"), event(2, "a"), last]);

    let events = stream(&gateway, STREAM, &only_a(2, &json!({"top_n_tokens": 3}))).await;
    assert!(events.iter().all(|event| event["top_tokens"].as_array().unwrap().len() == 3), "{events:?}");

    let response = send(&gateway, STREAM, &only_a(1, &json!({}))).await;
    let headers = response.headers();
    assert_eq!(
        (&headers["x-compute-type"], &headers["x-compute-characters"]),
        (&"cpu".parse().unwrap(), &"5".parse().unwrap())
    );
    assert_eq!(headers["x-model-revision"].len(), 10);
}

#[tokio::test]
async fn the_events_of_a_stream_are_the_answer() {
    let gateway = Gateway::tiny().await;
    let grammar = json!({"type": "regex", "value": "[a-é]{3,9}x?"});
    let mut reasons = std::collections::BTreeSet::new();
    for parameters in [
        json!({"max_new_tokens": 200, "temperature": 1.6}),
        json!({"max_new_tokens": 60, "stop": ["e", "tt", "\u{fffd}\u{fffd}a"]}),
        json!({"max_new_tokens": 60, "grammar": grammar}),
    ] {
        for seed in 0..12 {
            let mut request = json!({"inputs": "Hello", "parameters": parameters});
            request["parameters"]["seed"] = json!(seed);
            request["parameters"]["do_sample"] = json!(true);
            let (_, plain) = ask(&gateway, "/generate", &request).await;
            request["parameters"]["details"] = json!(true);
            let (_, whole) = ask(&gateway, "/generate", &request).await;
            let events = stream(&gateway, STREAM, &request).await;
            let (last, others) = events.split_last().unwrap();
            assert_eq!(plain["generated_text"], whole["generated_text"]);
            assert_eq!(last["generated_text"], whole["generated_text"]);
            assert!(
                others.iter().all(|event| event["generated_text"].is_null() && event["details"].is_null())
            );
            let tokens: Vec<&Value> = events.iter().map(|event| &event["token"]).collect();
            assert_eq!(json!(tokens), whole["details"]["tokens"], "{request}");
            let ordinary = tokens.iter().filter(|token| token["special"] == false);
            let text: String = ordinary.map(|token| token["text"].as_str().unwrap()).collect();
            assert_eq!(whole["generated_text"], text, "{request}");
            for field in ["finish_reason", "generated_tokens", "seed"] {
                assert_eq!(last["details"][field], whole["details"][field]);
            }
            reasons.insert(last["details"]["finish_reason"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(Vec::from_iter(reasons), ["eos_token", "length", "stop_sequence"], "all ends were seen");
}

#[tokio::test]
async fn a_stream_that_fails_ends_with_the_error() {
    let gateway = Gateway::serving(&tiny("gpt2-no-cache"), &["--request-timeout=50ms"]).await;
    let events =
        stream(&gateway, STREAM, &json!({"inputs": "abc", "parameters": {"max_new_tokens": 200}})).await;
    let error = json!({"error": "the request did not end before its deadline", "error_type": "incomplete_generation"});
    assert_eq!(events.last(), Some(&error));
    assert!(events.iter().rev().skip(1).all(|event| event["generated_text"].is_null()));
}
