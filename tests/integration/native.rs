//! `POST /api/v1/inference`, answered whole.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::harness::{Gateway, ids};

#[tokio::test]
async fn the_answer_has_the_documented_shape() {
    let gateway = Gateway::tiny().await;
    let response = gateway
        .post(json!({"text": "Hello", "max_tokens": 8, "temperature": 0}).to_string())
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(response.headers()["x-model-revision"].len(), 10);
    assert_eq!(response.headers()["x-request-id"].len(), 32);
    let body: Value = response.json().await.unwrap();
    assert!(body["generated_text"].as_str().unwrap().starts_with("Hello"), "{body}");
    let metadata = body["metadata"].as_object().unwrap();
    let mut keys: Vec<&str> = metadata.keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        ["finish_reason", "model", "processing_time_ms", "prompt_tokens", "seed", "tokens_generated"]
    );
    assert_eq!(metadata["tokens_generated"], 8);
    assert_eq!(metadata["prompt_tokens"], 5);
    assert_eq!(metadata["finish_reason"], "length");
    assert_eq!(metadata["model"], "tiny");
    assert!(metadata["processing_time_ms"].as_f64().unwrap() > 0.0);
}

#[tokio::test]
async fn without_the_full_text_the_prompt_is_left_out() {
    let gateway = Gateway::tiny().await;
    let request = json!({"text": "Hello", "max_tokens": 8, "temperature": 0});
    let (_, full) = gateway.infer(&request).await;
    let mut request = request;
    request["return_full_text"] = json!(false);
    let (_, continuation) = gateway.infer(&request).await;
    let full = full["generated_text"].as_str().unwrap();
    assert_eq!(full.strip_prefix("Hello"), continuation["generated_text"].as_str());
}

#[tokio::test]
async fn fifty_tokens_are_generated_when_nothing_is_said_and_fewer_when_the_context_ends() {
    let gateway = Gateway::tiny().await;
    let (_, body) = gateway.infer(&json!({"text": "abc", "ignore_eos": true})).await;
    assert_eq!(body["metadata"]["tokens_generated"], 50);
    let (_, body) = gateway.infer(&json!({"text": "a".repeat(250), "ignore_eos": true})).await;
    assert_eq!(body["metadata"]["tokens_generated"], 6);
}

#[tokio::test]
async fn the_same_seed_gives_the_same_text_and_another_seed_another() {
    let gateway = Gateway::tiny().await;
    let request = |seed: u64| json!({"text": "abc", "max_tokens": 30, "seed": seed, "ignore_eos": true});
    let (_, first) = gateway.infer(&request(7)).await;
    let (_, again) = gateway.infer(&request(7)).await;
    let (_, other) = gateway.infer(&request(8)).await;
    assert_eq!(first["generated_text"], again["generated_text"]);
    assert_ne!(first["generated_text"], other["generated_text"]);
    assert_eq!(first["metadata"]["seed"], 7);
}

#[tokio::test]
async fn a_seed_that_was_made_can_be_used_again() {
    let gateway = Gateway::tiny().await;
    let (_, first) = gateway.infer(&json!({"text": "abc", "max_tokens": 30})).await;
    let seed = &first["metadata"]["seed"];
    let (_, again) = gateway.infer(&json!({"text": "abc", "max_tokens": 30, "seed": seed})).await;
    assert_eq!(first["generated_text"], again["generated_text"]);
}

#[tokio::test]
async fn a_top_p_of_zero_is_greedy() {
    let gateway = Gateway::tiny().await;
    let greedy = gateway.greedy("abc", 20).await;
    let (_, body) = gateway
        .infer(&json!({"text": "abc", "max_tokens": 20, "top_p": 0, "ignore_eos": true, "return_token_ids": true}))
        .await;
    assert_eq!(ids(&body["metadata"]["token_ids"]), greedy);
}

#[tokio::test]
async fn a_stop_string_ends_the_text_before_it() {
    let gateway = Gateway::tiny().await;
    let request = json!({"text": "abc", "max_tokens": 40, "temperature": 0, "ignore_eos": true, "return_full_text": false});
    let (_, whole) = gateway.infer(&request).await;
    let whole = whole["generated_text"].as_str().unwrap();
    let stop: String = whole.chars().skip(10).take(3).collect();
    let expected = &whole[..whole.find(&stop).unwrap()];
    for form in [json!(stop), json!(["never to be seen", stop])] {
        let mut request = request.clone();
        request["stop"] = form;
        let (_, stopped) = gateway.infer(&request).await;
        assert_eq!(stopped["generated_text"], expected);
        assert_eq!(stopped["metadata"]["finish_reason"], "stop");
        assert!(stopped["metadata"]["tokens_generated"].as_u64().unwrap() < 40);
    }
}

/// Body, status, code and field.
const BAD_REQUESTS: &[(&str, u16, &str, Option<&str>)] = &[
    ("", 400, "invalid_json", None),
    ("not json", 400, "invalid_json", None),
    ("\u{feff}{}", 400, "invalid_json", None),
    (r#"{"text": "\ud800"}"#, 400, "invalid_json", Some("text")),
    ("{}", 422, "missing_field", Some("text")),
    (r#"{"text": ""}"#, 422, "invalid_value", Some("text")),
    (r#"{"text": 5}"#, 422, "invalid_value", Some("text")),
    (r#"{"text": "a", "temprature": 1}"#, 422, "unknown_field", Some("temprature")),
    (r#"{"text": "a", "text": "b"}"#, 422, "duplicate_field", Some("text")),
    (r#"{"text": "a", "temperature": 1e39}"#, 422, "invalid_value", Some("temperature")),
    (r#"{"text": "a", "temperature": 1e-60}"#, 422, "invalid_value", Some("temperature")),
    (r#"{"text": "a", "temperature": -1}"#, 422, "invalid_value", Some("temperature")),
    (r#"{"text": "a", "temperature": 2.01}"#, 422, "invalid_value", Some("temperature")),
    (r#"{"text": "a", "temperature": "1"}"#, 422, "invalid_value", Some("temperature")),
    (r#"{"text": "a", "temperature": NaN}"#, 400, "invalid_json", Some("temperature")),
    (r#"{"text": "a", "top_p": 1.5}"#, 422, "invalid_value", Some("top_p")),
    (r#"{"text": "a", "min_p": -0.1}"#, 422, "invalid_value", Some("min_p")),
    (r#"{"text": "a", "top_k": -1}"#, 422, "invalid_value", Some("top_k")),
    (r#"{"text": "a", "repetition_penalty": 0}"#, 422, "invalid_value", Some("repetition_penalty")),
    (r#"{"text": "a", "presence_penalty": 3}"#, 422, "invalid_value", Some("presence_penalty")),
    (r#"{"text": "a", "frequency_penalty": -3}"#, 422, "invalid_value", Some("frequency_penalty")),
    (r#"{"text": "a", "max_tokens": 0}"#, 422, "invalid_value", Some("max_tokens")),
    (r#"{"text": "a", "max_tokens": -1}"#, 422, "invalid_value", Some("max_tokens")),
    (r#"{"text": "a", "max_tokens": 2.5}"#, 422, "invalid_value", Some("max_tokens")),
    (r#"{"text": "a", "max_tokens": 4294967296}"#, 422, "invalid_value", Some("max_tokens")),
    (r#"{"text": "a", "max_tokens": 256}"#, 400, "context_length_exceeded", Some("text")),
    (r#"{"text": "a", "seed": -1}"#, 422, "invalid_value", Some("seed")),
    (r#"{"text": "a", "seed": 18446744073709551616}"#, 422, "invalid_value", Some("seed")),
    (r#"{"text": "a", "stop": [1]}"#, 422, "invalid_value", Some("stop")),
    (r#"{"text": "a", "stop": [""]}"#, 422, "invalid_value", Some("stop")),
    (r#"{"text": "a", "stream": "yes"}"#, 422, "invalid_value", Some("stream")),
    (r#"{"text": "a", "model": "gpt-5"}"#, 404, "model_not_found", Some("model")),
];

#[tokio::test]
async fn bad_requests_name_the_field_and_are_never_clamped() {
    let gateway = Gateway::tiny().await;
    for (body, status, code, field) in BAD_REQUESTS {
        let response = gateway.post(*body).header("x-request-id", "case-1").send().await.unwrap();
        assert_eq!(response.status().as_u16(), *status, "{body}");
        let answer: Value = response.json().await.unwrap();
        let error = &answer["error"];
        assert_eq!(error["code"], *code, "{body}: {answer}");
        assert_eq!(error["field"].as_str(), *field, "{body}: {answer}");
        assert_eq!(error["request_id"], "case-1", "{body}");
        assert!(error["message"].as_str().unwrap().len() > 10, "{body}: {answer}");
        assert_eq!(error.as_object().unwrap().len(), 4, "{answer}");
    }
}

#[tokio::test]
async fn too_many_stop_strings_are_refused() {
    let gateway = Gateway::tiny().await;
    let stop: Vec<String> = (0..100_000).map(|n| format!("s{n}")).collect();
    let (status, body) = gateway.infer(&json!({"text": "a", "stop": stop})).await;
    assert_eq!((status.as_u16(), &body["error"]["field"]), (422, &json!("stop")));
}

#[tokio::test]
async fn a_prompt_that_fills_the_context_is_refused() {
    let gateway = Gateway::tiny().await;
    let (status, body) = gateway.infer(&json!({"text": "a".repeat(256)})).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(body["error"]["code"], "context_length_exceeded");
    assert!(body["error"]["message"].as_str().unwrap().contains("256"), "{body}");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let model = crate::harness::tiny("llama");
    let gateway = Gateway::serving(&model, &["--max-body-bytes=1000"]).await;
    let (status, body) = gateway.infer(&json!({"text": "a".repeat(1000)})).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(body["error"]["code"], "body_too_large");
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_get_the_same_error_shape() {
    let gateway = Gateway::tiny().await;
    let response = gateway.get("/api/v2/inference").await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert_eq!(response.json::<Value>().await.unwrap()["error"]["code"], "not_found");
    let response = gateway.get("/api/v1/inference").await;
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(response.headers()["allow"], "POST");
    assert_eq!(response.json::<Value>().await.unwrap()["error"]["code"], "method_not_allowed");
}

#[tokio::test]
async fn a_request_id_is_echoed_when_it_is_plain_and_replaced_when_it_is_not() {
    let gateway = Gateway::tiny().await;
    let ask = async |id: &[u8]| {
        let value = reqwest::header::HeaderValue::from_bytes(id).unwrap();
        let response = gateway.post("{}").header("x-request-id", value).send().await.unwrap();
        let echoed = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["error"]["request_id"], echoed.as_str());
        echoed
    };
    assert_eq!(ask(b"abc-123").await, "abc-123");
    for bad in [&b"a b"[..], "ä".as_bytes(), &[b'x'; 10_000]] {
        let echoed = ask(bad).await;
        assert_eq!(echoed.len(), 32, "{echoed}");
    }
}

#[tokio::test]
async fn special_tokens_are_left_out_unless_asked_for() {
    let gateway = Gateway::tiny().await;
    // A penalty-free draw at the highest temperature reaches special tokens soon.
    for seed in 0..200 {
        let request = json!({"text": "a", "max_tokens": 60, "temperature": 2, "seed": seed, "ignore_eos": true,
            "return_token_ids": true, "return_full_text": false, "skip_special_tokens": false});
        let (_, kept) = gateway.infer(&request).await;
        if !ids(&kept["metadata"]["token_ids"]).contains(&257) {
            continue;
        }
        assert!(kept["generated_text"].as_str().unwrap().contains("<|eos|>"), "{kept}");
        let mut request = request;
        request["skip_special_tokens"] = json!(true);
        let (_, skipped) = gateway.infer(&request).await;
        assert!(!skipped["generated_text"].as_str().unwrap().contains("<|eos|>"), "{skipped}");
        assert_eq!(kept["metadata"]["token_ids"], skipped["metadata"]["token_ids"]);
        return;
    }
    panic!("no draw reached the end-of-text token");
}

#[tokio::test]
async fn the_end_of_text_token_ends_the_text_and_is_not_counted() {
    let gateway = Gateway::tiny().await;
    for seed in 0..200 {
        let request =
            json!({"text": "a", "max_tokens": 60, "temperature": 2, "seed": seed, "return_token_ids": true});
        let (_, body) = gateway.infer(&request).await;
        let metadata = &body["metadata"];
        if metadata["finish_reason"] == "eos" {
            let tokens = ids(&metadata["token_ids"]);
            assert!(!tokens.contains(&257), "{body}");
            assert_eq!(metadata["tokens_generated"], tokens.len());
            return;
        }
    }
    panic!("no draw reached the end-of-text token");
}
