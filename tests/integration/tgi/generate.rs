//! `POST /generate`, and `POST /` without a stream.

use serde_json::{Value, json};

use super::{ask, only_a, send, token};
use crate::harness::{Gateway, tiny};
use crate::openai::continuation;

const GENERATE: &str = "/generate";

#[tokio::test]
async fn a_text_is_continued_greedily_unless_a_draw_is_asked_for() {
    let gateway = Gateway::tiny().await;
    let text = continuation(&gateway, "Hello", 6).await;
    let request = json!({"inputs": "Hello", "parameters": {"max_new_tokens": 6}});
    assert_eq!(ask(&gateway, GENERATE, &request).await, (200, json!({"generated_text": text})));
    let drawn = |seed: u64| json!({"inputs": "Hello", "parameters": {"max_new_tokens": 20, "do_sample": true, "seed": seed}});
    let first = ask(&gateway, GENERATE, &drawn(1)).await;
    assert_eq!(first, ask(&gateway, GENERATE, &drawn(1)).await);
    assert_ne!(first, ask(&gateway, GENERATE, &drawn(2)).await);
}

#[tokio::test]
async fn at_the_root_the_answer_is_a_list_and_begins_with_the_prompt() {
    let gateway = Gateway::tiny().await;
    let text = continuation(&gateway, "Hello", 6).await;
    let mut request = json!({"inputs": "Hello", "stream": false, "parameters": {"max_new_tokens": 6}});
    let full = json!([{"generated_text": format!("Hello{text}")}]);
    assert_eq!(ask(&gateway, "/", &request).await, (200, full));
    request["parameters"]["return_full_text"] = json!(false);
    assert_eq!(ask(&gateway, "/", &request).await, (200, json!([{"generated_text": text}])));
    request["parameters"]["return_full_text"] = json!(true);
    let full = json!({"generated_text": format!("Hello{text}")});
    assert_eq!(ask(&gateway, GENERATE, &request).await, (200, full));
}

#[tokio::test]
async fn details_tell_every_token_and_why_the_text_ended() {
    let gateway = Gateway::tiny().await;
    let (status, body) =
        ask(&gateway, GENERATE, &only_a(2, &json!({"details": true, "do_sample": true, "seed": 7}))).await;
    assert_eq!(
        (status, body),
        (
            200,
            json!({
                "generated_text": "aa",
                "details": {
                    "finish_reason": "length", "generated_tokens": 2, "seed": 7, "prefill": [],
                    "tokens": [token(97, "a"), token(97, "a")],
                },
            })
        )
    );
    let (_, body) = ask(&gateway, GENERATE, &only_a(1, &json!({"details": true, "top_n_tokens": 2}))).await;
    assert_eq!(body["details"]["seed"], Value::Null, "nothing is drawn");
    let top = body["details"]["top_tokens"].as_array().unwrap();
    assert_eq!((top.len(), top[0].as_array().unwrap().len()), (1, 2));
    assert_eq!(top[0][0].as_object().unwrap().len(), 4);
}

#[tokio::test]
async fn a_stop_text_ends_the_answer_and_is_a_part_of_it() {
    let gateway = Gateway::tiny().await;
    let (status, body) =
        ask(&gateway, GENERATE, &only_a(9, &json!({"details": true, "stop": ["aaa"]}))).await;
    let (text, details) = (&body["generated_text"], &body["details"]);
    assert_eq!((status, text, &details["finish_reason"]), (200, &json!("aaa"), &json!("stop_sequence")));
    assert_eq!(details["tokens"], json!([token(97, ""), token(97, ""), token(97, "aaa")]));
}

#[tokio::test]
async fn the_token_that_ended_the_text_is_the_last_one_and_special() {
    let gateway = Gateway::tiny().await;
    let mut ended = None;
    for seed in 0..200 {
        let parameters = json!({"seed": seed, "temperature": 1.8, "details": true, "max_new_tokens": 200});
        let (_, body) = ask(&gateway, GENERATE, &json!({"inputs": "Hello", "parameters": parameters})).await;
        if body["details"]["finish_reason"] == "eos_token" {
            ended = Some(body);
            break;
        }
    }
    let body = ended.expect("one of so many texts ends by itself");
    let tokens = body["details"]["tokens"].as_array().unwrap();
    assert_eq!(tokens.last(), Some(&token(257, "<|eos|>")));
    assert_eq!(body["details"]["generated_tokens"], tokens.len());
    let ordinary = tokens.iter().filter(|token| token["special"] == false);
    let text: String = ordinary.map(|token| token["text"].as_str().unwrap()).collect();
    assert_eq!(body["generated_text"], text);
}

#[tokio::test]
async fn the_most_likely_of_several_sequences_is_the_answer() {
    let gateway = Gateway::tiny().await;
    let parameters = json!({"best_of": 3, "do_sample": true, "temperature": 1.5, "max_new_tokens": 12, "details": true, "return_full_text": true});
    let response = send(&gateway, GENERATE, &json!({"inputs": "abc", "parameters": parameters})).await;
    let body: Value = response.json().await.unwrap();
    let mean = |sequence: &Value| {
        let tokens = sequence["tokens"].as_array().unwrap();
        tokens.iter().map(|token| token["logprob"].as_f64().unwrap()).sum::<f64>() / tokens.len() as f64
    };
    let details = &body["details"];
    let others = details["best_of_sequences"].as_array().unwrap();
    assert_eq!(others.len(), 2);
    assert!(others.iter().all(|other| mean(other) <= mean(details)), "{body}");
    for other in others {
        assert!(other["generated_text"].as_str().unwrap().starts_with("abc"), "{other}");
        assert_eq!(other.as_object().unwrap().len(), 6, "{other}");
        assert_ne!(other["seed"], details["seed"]);
    }
    // The seed of the best gives its text alone.
    let parameters =
        json!({"seed": details["seed"], "temperature": 1.5, "max_new_tokens": 12, "return_full_text": true});
    let (_, alone) = ask(&gateway, GENERATE, &json!({"inputs": "abc", "parameters": parameters})).await;
    assert_eq!(alone["generated_text"], body["generated_text"]);
}

#[tokio::test]
async fn a_prompt_is_cut_to_its_last_tokens() {
    let gateway = Gateway::tiny().await;
    let text = continuation(&gateway, "llo", 6).await;
    let request =
        json!({"inputs": "Hello", "parameters": {"max_new_tokens": 6, "truncate": 3, "details": true}});
    let response = send(&gateway, GENERATE, &request).await;
    assert_eq!(response.headers()["x-prompt-tokens"], "3");
    assert_eq!(response.json::<Value>().await.unwrap()["generated_text"], text);
    let request = json!({"inputs": "llo", "parameters": {"max_new_tokens": 6, "truncate": 99}});
    assert_eq!(ask(&gateway, GENERATE, &request).await, (200, json!({"generated_text": text})));
}

#[tokio::test]
async fn every_kind_of_grammar_is_held_to() {
    let gateway = Gateway::tiny().await;
    let schema = json!({"type": "object", "properties": {"kind": {"enum": ["cat", "dog"]}}, "required": ["kind"], "additionalProperties": false});
    for grammar in [
        json!({"type": "json", "value": schema}),
        json!({"type": "json", "value": schema.to_string()}),
        json!({"type": "json_object", "value": schema}),
        json!({"type": "json_schema", "value": {"name": "pet", "strict": true, "schema": schema}}),
    ] {
        let request = json!({"inputs": "Hello", "parameters": {"max_new_tokens": 100, "grammar": grammar}});
        let (status, body) = ask(&gateway, GENERATE, &request).await;
        assert_eq!(status, 200, "{body}");
        let parsed: Value = serde_json::from_str(body["generated_text"].as_str().unwrap()).unwrap();
        assert!([json!("cat"), json!("dog")].contains(&parsed["kind"]), "{grammar}: {parsed}");
    }
    let grammar = json!({"type": "regex", "value": "[ab]{4}"});
    let request = json!({"inputs": "Hello", "parameters": {"grammar": grammar, "details": true}});
    let (_, body) = ask(&gateway, GENERATE, &request).await;
    assert_eq!(
        (body["generated_text"].as_str().unwrap().len(), &body["details"]["finish_reason"]),
        (4, &json!("eos_token"))
    );
}

#[tokio::test]
async fn headers_tell_how_long_it_took_and_of_how_much() {
    let gateway = Gateway::serving(&tiny("llama"), &[]).await;
    let response =
        send(&gateway, GENERATE, &json!({"inputs": "Häuser", "parameters": {"max_new_tokens": 3}})).await;
    let headers = response.headers();
    let number = |name: &str| headers[name].to_str().unwrap().parse::<f64>().unwrap();
    for (name, value) in
        [("x-compute-characters", 6.0), ("x-prompt-tokens", 7.0), ("x-generated-tokens", 3.0)]
    {
        assert!((number(name) - value).abs() < 1e-9, "{name}");
    }
    assert_eq!(
        (&headers["x-compute-type"], headers["x-model-revision"].len()),
        (&"cpu".parse().unwrap(), 10)
    );
    let (seconds, total) = (number("x-compute-time"), number("x-total-time"));
    assert!(seconds > 0.0 && (seconds * 1e3 - total).abs() <= 1.0, "{headers:?}");
    let parts = ["x-validation-time", "x-queue-time", "x-inference-time"].map(number);
    assert!(parts.iter().sum::<f64>() <= total, "{headers:?}");
    assert!(number("x-time-per-token") <= number("x-inference-time"));
}
