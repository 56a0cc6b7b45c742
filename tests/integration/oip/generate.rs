//! `POST /v2/models/{name}/generate`

use serde_json::{Value, json};

use super::{EOS, GENERATE, ask, revision, send, token};
use crate::harness::Gateway;
use crate::openai::continuation;

fn response(text: &str) -> Value {
    json!({"model_name": "tiny", "model_version": "revision", "text_output": text})
}

#[tokio::test]
async fn a_text_is_continued_in_the_shape_of_the_specification() {
    let gateway = Gateway::tiny().await;
    let text = continuation(&gateway, "Hello", 6).await;
    let request =
        json!({"text_input": "Hello", "parameters": {"temperature": 0, "max_tokens": 6, "ignore_eos": true}});
    assert_eq!(ask(&gateway, GENERATE, &request).await, (200, response(&text)));
    let headers = send(&gateway, GENERATE, &request).await.headers().clone();
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["x-model-revision"], *revision(&gateway).await);
    let versioned = format!("/v2/models/tiny/versions/{}/generate", revision(&gateway).await);
    assert_eq!(ask(&gateway, &versioned, &request).await, (200, response(&text)));
}

#[tokio::test]
async fn an_id_comes_back_and_parameters_may_stand_beside_the_text() {
    let gateway = Gateway::tiny().await;
    let text = continuation(&gateway, "Hello", 6).await;
    let request = json!({
        "id": "42", "text_input": "Hello", "max_tokens": 6, "ignore_eos": true, "stream": false,
        "parameters": {"temperature": 0, "exclude_input_in_output": true},
    });
    let mut expected = response(&text);
    expected["id"] = json!("42");
    assert_eq!(ask(&gateway, GENERATE, &request).await, (200, expected));
}

#[tokio::test]
async fn without_a_limit_twenty_tokens_are_generated() {
    let gateway = Gateway::tiny().await;
    let request = json!({"text_input": "Hello", "parameters": {"logit_bias": {"97": 100}}});
    assert_eq!(ask(&gateway, GENERATE, &request).await, (200, response(&"a".repeat(20))));
}

#[tokio::test]
async fn details_tell_every_token_and_why_the_text_ended() {
    let gateway = Gateway::tiny().await;
    let details = async |parameters: Value| {
        let mut request = json!({"text_input": "Hello", "parameters": parameters});
        request["parameters"]["details"] = json!(true);
        let (status, body) = ask(&gateway, GENERATE, &request).await;
        assert_eq!(status, 200, "{body}");
        (body["text_output"].as_str().unwrap().to_owned(), body["details"].clone())
    };
    let whole = details(json!({"logit_bias": {"97": 100}, "max_tokens": 2})).await;
    let expected = json!({"finish_reason": "length", "logprobs": [token(97, "a"), token(97, "a")]});
    assert_eq!(whole, ("aa".to_owned(), expected));

    let ended = details(json!({"logit_bias": {EOS.to_string(): 100}})).await;
    let expected = json!({"finish_reason": "eos_token", "logprobs": [token(EOS, "<|eos|>")]});
    assert_eq!(ended, (String::new(), expected));

    // The stop text is no part of the answer; tokens that are only a part of it add nothing.
    let stopped = details(json!({"logit_bias": {"97": 100}, "stop": ["aaa"]})).await;
    let expected =
        json!({"finish_reason": "stop_sequence", "logprobs": [token(97, ""), token(97, ""), token(97, "")]});
    assert_eq!(stopped, (String::new(), expected));

    let formatted =
        details(json!({"format": {"type": "regex", "pattern": "né[0-9]"}, "temperature": 0})).await;
    let (text, details) = formatted;
    let told: Vec<&str> =
        details["logprobs"].as_array().unwrap().iter().map(|one| one["text"].as_str().unwrap()).collect();
    assert_eq!((told[..3].join("|"), told[3..].concat()), ("n||é".to_owned(), text["né".len()..].to_owned()));
    assert_eq!(details["finish_reason"], "eos_token");
}

#[tokio::test]
async fn the_same_seed_gives_the_same_text() {
    let gateway = Gateway::tiny().await;
    let request = |seed: u64| json!({"text_input": "abc", "parameters": {"seed": seed, "temperature": 1.3}});
    let (first, again) =
        (ask(&gateway, GENERATE, &request(7)).await, ask(&gateway, GENERATE, &request(7)).await);
    assert_eq!(first, again);
    assert_ne!(first, ask(&gateway, GENERATE, &request(8)).await);
}
