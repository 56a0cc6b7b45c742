//! `logit_bias`, `stop_token_ids` and `logprobs` of the native API.

use serde_json::{Value, json};

use crate::adapters::{PROMPTS, reference_with_logprobs};
use crate::harness::{Gateway, ids, tiny};
use crate::streaming::events;

/// The reference computes the same logits with other kernels: batches of one, no padding.
const LOGPROB_TOLERANCE: f64 = 2e-4;

fn greedy(prompt: &str, tokens: usize) -> Value {
    json!({"text": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": true,
        "return_token_ids": true, "return_full_text": false})
}

fn with(mut request: Value, field: &str, value: Value) -> Value {
    request[field] = value;
    request
}

/// The id and the log-probability of an entry.
fn entry(entry: &Value) -> (u64, f64) {
    (entry["id"].as_u64().unwrap(), entry["logprob"].as_f64().unwrap())
}

#[tokio::test]
async fn log_probabilities_are_those_of_the_reference() {
    let prompts: Vec<Vec<u64>> = PROMPTS.iter().map(|text| text.bytes().map(u64::from).collect()).collect();
    for model in ["llama", "gpt2-merged"] {
        let expected = reference_with_logprobs(&tiny(model), &prompts, 24);
        let gateway = Gateway::serving(&tiny(model), &[]).await;
        for (prompt, (tokens, expected)) in PROMPTS.iter().zip(expected) {
            let (_, body) = gateway.infer(&with(greedy(prompt, 24), "logprobs", json!(5))).await;
            assert_eq!(ids(&body["metadata"]["token_ids"]), tokens);
            let answered = body["logprobs"].as_array().unwrap();
            assert_eq!(answered.len(), expected.len());
            for ((answered, token), expected) in answered.iter().zip(&tokens).zip(&expected) {
                // Greedy: the picked token is the most likely one, and the first of the alternatives.
                let top: Vec<(u64, f64)> =
                    answered["top_tokens"].as_array().unwrap().iter().map(entry).collect();
                assert_eq!((top.len(), top[0]), (5, entry(answered)), "{answered}");
                assert_eq!(top[0].0, *token);
                for ((_, logprob), expected) in top.iter().zip(expected) {
                    assert!((logprob - expected).abs() < LOGPROB_TOLERANCE, "{answered}: {expected}");
                }
            }
        }
    }
}

#[tokio::test]
async fn log_probabilities_are_the_models_own_whatever_changes_the_draw() {
    let gateway = Gateway::tiny().await;
    let plain = with(greedy("abc", 1), "logprobs", json!(20));
    let (_, body) = gateway.infer(&plain).await;
    let top = body["logprobs"][0]["top_tokens"].clone();
    let (last, logprob) = entry(&top[19]);
    let forced = with(plain, "logit_bias", json!({last.to_string(): 100}));
    let mut forced = with(forced, "temperature", json!(1.7));
    forced["repetition_penalty"] = json!(1.3);
    let (_, body) = gateway.infer(&forced).await;
    assert_eq!(body["logprobs"][0]["top_tokens"], top);
    assert_eq!(entry(&body["logprobs"][0]), (last, logprob));
}

#[tokio::test]
async fn there_are_log_probabilities_only_when_asked_and_without_alternatives_for_0() {
    let gateway = Gateway::tiny().await;
    let (_, body) = gateway.infer(&greedy("abc", 3)).await;
    assert!(body.get("logprobs").is_none(), "{body}");
    let (_, body) = gateway.infer(&with(greedy("abc", 3), "logprobs", json!(0))).await;
    let answered = body["logprobs"].as_array().unwrap();
    assert_eq!(answered.len(), 3);
    assert!(answered.iter().all(|token| token["top_tokens"] == json!([])), "{body}");
}

#[tokio::test]
async fn the_events_of_a_stream_carry_the_log_probabilities_of_the_whole_answer() {
    let gateway = Gateway::tiny().await;
    let (_, plain) = gateway.infer(&greedy("abc", 30)).await;
    // Ends inside the text, so that tokens are left whose text never goes out.
    let stop: String = plain["generated_text"].as_str().unwrap().chars().skip(10).take(3).collect();
    let request = with(with(greedy("abc", 30), "logprobs", json!(2)), "stop", json!(stop));
    let (_, whole) = gateway.infer(&request).await;
    let response = gateway.post(with(request, "stream", json!(true)).to_string()).send().await.unwrap();
    let events = events(response).await;
    let joined: Vec<Value> =
        events.iter().filter_map(|event| event["logprobs"].as_array()).flatten().cloned().collect();
    assert_eq!(whole["logprobs"], json!(joined));
    assert_eq!(whole["metadata"]["tokens_generated"], joined.len());
    assert!(events[0]["text"].is_string() && events[0]["logprobs"].is_array(), "{events:?}");
}

#[tokio::test]
async fn a_bias_of_100_forces_a_token_and_of_minus_100_forbids_it() {
    let gateway = Gateway::tiny().await;
    let tokens = gateway.greedy("abc", 12).await;
    for request in [greedy("abc", 12), with(greedy("abc", 12), "temperature", json!(1))] {
        let forced = with(with(request.clone(), "logit_bias", json!({"65": 100})), "logprobs", json!(0));
        let (_, forced) = gateway.infer(&forced).await;
        assert_eq!(ids(&forced["metadata"]["token_ids"]), [65; 12]);
        assert_eq!(forced["logprobs"][0]["text"], "A");
        let bias = json!({tokens[0].to_string(): -100});
        let (_, forbidden) = gateway.infer(&with(request, "logit_bias", bias)).await;
        let forbidden = ids(&forbidden["metadata"]["token_ids"]);
        assert!(forbidden.len() == 12 && !forbidden.contains(&tokens[0]), "{forbidden:?}");
    }
}

#[tokio::test]
async fn a_stop_token_ends_the_text_before_it() {
    let gateway = Gateway::tiny().await;
    let tokens = gateway.greedy("abc", 20).await;
    let stop = tokens[7];
    let expected = &tokens[..tokens.iter().position(|token| *token == stop).unwrap()];
    let request = with(greedy("abc", 20), "stop_token_ids", json!([3, stop]));
    let (_, body) = gateway.infer(&request).await;
    assert_eq!(ids(&body["metadata"]["token_ids"]), expected);
    assert_eq!(body["metadata"]["finish_reason"], "stop");
}

/// Fields of a request, and the field that the error names.
const BAD_OPTIONS: &[(&str, &str)] = &[
    (r#""logit_bias": {"100000": 1}"#, "logit_bias"),
    (r#""logit_bias": {"99999999999999999999": 1}"#, "logit_bias"),
    (r#""logit_bias": {"-1": 1}"#, "logit_bias"),
    (r#""logit_bias": {"+1": 1}"#, "logit_bias"),
    (r#""logit_bias": {"01": 1}"#, "logit_bias"),
    (r#""logit_bias": {"hello": 1}"#, "logit_bias"),
    (r#""logit_bias": {"": 1}"#, "logit_bias"),
    (r#""logit_bias": {"5": 1, "5": 2}"#, "logit_bias"),
    (r#""logit_bias": {"5": 100.1}"#, "logit_bias"),
    (r#""logit_bias": {"5": -101}"#, "logit_bias"),
    (r#""logit_bias": {"5": 1e39}"#, "logit_bias"),
    (r#""logit_bias": {"5": 1e-60}"#, "logit_bias"),
    (r#""logit_bias": {"5": "1"}"#, "logit_bias"),
    (r#""logit_bias": {"5": null}"#, "logit_bias"),
    (r#""logit_bias": [[5, 1]]"#, "logit_bias"),
    (r#""logit_bias": 5"#, "logit_bias"),
    (r#""logprobs": 21"#, "logprobs"),
    (r#""logprobs": -1"#, "logprobs"),
    (r#""logprobs": 1.5"#, "logprobs"),
    (r#""logprobs": true"#, "logprobs"),
    (r#""stop_token_ids": [100000]"#, "stop_token_ids"),
    (r#""stop_token_ids": [18446744073709551615]"#, "stop_token_ids"),
    (r#""stop_token_ids": [-1]"#, "stop_token_ids"),
    (r#""stop_token_ids": ["5"]"#, "stop_token_ids"),
    (r#""stop_token_ids": [2.5]"#, "stop_token_ids"),
    (r#""stop_token_ids": 5"#, "stop_token_ids"),
];

#[tokio::test]
async fn bad_token_options_name_the_field() {
    let gateway = Gateway::tiny().await;
    let refused = async |body: String, field: &str| {
        let response = gateway.post(body.clone()).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 422, "{body}");
        let answer: Value = response.json().await.unwrap();
        assert_eq!(answer["error"]["code"], "invalid_value", "{body}: {answer}");
        // What serde refuses is named to the entry: `stop_token_ids[0]`.
        let named = answer["error"]["field"].as_str().unwrap();
        assert_eq!(named.split(['.', '[']).next(), Some(field), "{body}: {answer}");
    };
    for (fields, field) in BAD_OPTIONS {
        refused(format!(r#"{{"text": "a", {fields}}}"#), field).await;
    }
    let biases: serde_json::Map<String, Value> = (0..1025).map(|id| (id.to_string(), json!(1))).collect();
    refused(json!({"text": "a", "logit_bias": biases}).to_string(), "logit_bias").await;
    let ids: Vec<u64> = (0..65).collect();
    refused(json!({"text": "a", "stop_token_ids": ids}).to_string(), "stop_token_ids").await;
}
