//! Structured output through the API: every kind of format, alone and in company.

use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::harness::{Gateway, ids, tiny};

/// One of each kind, all bounded: whatever a tiny model says, it comes to an end.
fn formats() -> Vec<Value> {
    let schema = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "kind": {"enum": ["cat", "dog", null]},
        },
        "required": ["name", "age", "kind"],
        "additionalProperties": false,
    });
    vec![
        json!({"type": "json_schema", "schema": schema}),
        json!({"type": "regex", "pattern": "[a-f]{4,6}-[0-9]{2}"}),
        json!({"type": "choice", "choices": ["yes", "yes, but \"no\"", "né"]}),
        json!({"type": "grammar", "lark": "start: word (\" \" word)~1..2\nword: /[a-z]{2}/ | \"42\""}),
    ]
}

/// Whether a text holds to a format of [`formats`].
fn holds(format: &Value, text: &str) -> bool {
    match format["type"].as_str().unwrap() {
        "json_schema" => serde_json::from_str::<Value>(text).is_ok_and(|value| {
            value.as_object().is_some_and(|object| object.keys().eq(["name", "age", "kind"]))
                && value["name"].as_str().is_some_and(|name| name.chars().count() <= 8)
                && value["age"].as_i64().is_some_and(|age| (0..=120).contains(&age))
                && [json!("cat"), json!("dog"), Value::Null].contains(&value["kind"])
        }),
        "regex" => text.split_once('-').is_some_and(|(letters, digits)| {
            (4..=6).contains(&letters.len())
                && letters.bytes().all(|byte| (b'a'..=b'f').contains(&byte))
                && digits.len() == 2
                && digits.bytes().all(|byte| byte.is_ascii_digit())
        }),
        "choice" => format["choices"].as_array().unwrap().contains(&json!(text)),
        "grammar" => {
            let words: Vec<&str> = text.split(' ').collect();
            let word = |word: &&str| *word == "42" || word.bytes().all(|byte| byte.is_ascii_lowercase());
            (2..=3).contains(&words.len()) && words.iter().all(|one| one.len() == 2 && word(one))
        }
        other => panic!("no format of these tests: {other}"),
    }
}

fn asking(format: &Value, options: &Value) -> Value {
    let mut request = json!({"text": "Hello", "max_tokens": 200, "temperature": 0, "format": format});
    for (name, value) in options.as_object().unwrap() {
        request[name] = value.clone();
    }
    request
}

async fn answered(gateway: &Gateway, request: &Value) -> Value {
    let (status, body) = gateway.infer(request).await;
    assert_eq!(status, StatusCode::OK, "{request}: {body}");
    body
}

#[tokio::test]
async fn answers_hold_to_their_format_with_every_kind_of_graph() {
    for model in ["llama", "gpt2", "gpt2-no-cache"] {
        let gateway = Gateway::serving(&tiny(model), &[]).await;
        for format in formats() {
            let options = [
                json!({}),
                json!({"temperature": 2, "seed": 1}),
                json!({"temperature": 1, "seed": 2, "ignore_eos": true}),
            ];
            for options in options {
                let body = answered(&gateway, &asking(&format, &options)).await;
                let text = body["generated_text"].as_str().unwrap();
                assert!(holds(&format, text), "{model}: {format}: {text:?}");
                assert_eq!(body["metadata"]["finish_reason"], "eos", "{body}");
            }
        }
        let body =
            answered(&gateway, &asking(&json!({"type": "json_object"}), &json!({"max_tokens": 20}))).await;
        assert!(body["generated_text"].as_str().unwrap().starts_with('{'), "{body}");
    }
}

#[tokio::test]
async fn in_a_batch_free_rows_and_formatted_ones_say_what_they_say_alone() {
    let flags = ["--max-batch-size=8", "--speculative-tokens=0"];
    let gateway = Gateway::serving(&tiny("llama"), &flags).await;
    let free = |n: u64| {
        json!({
            "text": format!("Row {n} is free"), "max_tokens": 60, "temperature": 1, "seed": n, "ignore_eos": true,
            "return_token_ids": true,
        })
    };
    let mut requests: Vec<Value> = (0..6).map(free).collect();
    for (seed, format) in formats().iter().enumerate() {
        requests.push(asking(format, &json!({"temperature": 1, "seed": seed, "return_token_ids": true})));
    }
    let mut alone = Vec::new();
    for request in &requests {
        alone.push(ids(&answered(&gateway, request).await["metadata"]["token_ids"]));
    }
    let together = join_all(requests.iter().map(|request| answered(&gateway, request))).await;
    for ((request, alone), together) in requests.iter().zip(alone).zip(together) {
        assert_eq!(ids(&together["metadata"]["token_ids"]), alone, "{request}");
    }
}

#[tokio::test]
async fn drafts_do_not_change_an_answer_with_a_format() {
    let schema = json!({"type": "array", "minItems": 12, "maxItems": 12, "items": {"enum": ["again", "and", "again again"]}});
    let request = asking(&json!({"type": "json_schema", "schema": schema}), &json!({"max_tokens": 240}));
    let mut answers = Vec::new();
    for drafts in ["--speculative-tokens=0", "--speculative-tokens=7"] {
        let gateway = Gateway::serving(&tiny("llama"), &[drafts]).await;
        let body = answered(&gateway, &request).await;
        assert_eq!(body["metadata"]["finish_reason"], "eos");
        answers.push(body["generated_text"].clone());
    }
    assert_eq!(answers[0], answers[1]);
}

#[tokio::test]
async fn limits_stop_texts_log_probabilities_and_streams_go_with_a_format() {
    let gateway = Gateway::tiny().await;
    let digits = json!({"type": "regex", "pattern": "0123456789"});
    let cut = answered(&gateway, &asking(&digits, &json!({"max_tokens": 4}))).await;
    assert_eq!(
        (&cut["generated_text"], &cut["metadata"]["finish_reason"]),
        (&json!("0123"), &json!("length"))
    );
    let whole = answered(&gateway, &asking(&digits, &json!({"max_tokens": 10}))).await;
    assert_eq!(
        (&whole["generated_text"], &whole["metadata"]["finish_reason"]),
        (&json!("0123456789"), &json!("eos"))
    );
    let stopped = answered(&gateway, &asking(&digits, &json!({"stop": "56"}))).await;
    assert_eq!(
        (&stopped["generated_text"], &stopped["metadata"]["finish_reason"]),
        (&json!("01234"), &json!("stop"))
    );
    let full = answered(&gateway, &asking(&digits, &json!({"return_full_text": true}))).await;
    assert_eq!(full["generated_text"], "Hello0123456789");

    // The model's own opinion: what the format forces is not certain to the model.
    let told = answered(&gateway, &asking(&digits, &json!({"logprobs": 2}))).await;
    let logprobs = told["logprobs"].as_array().unwrap();
    assert_eq!(logprobs.len(), 10);
    assert!(logprobs.iter().all(|entry| entry["logprob"].as_f64().unwrap() < -0.1), "{told}");
    assert!(logprobs.iter().any(|entry| entry["top_tokens"][0]["id"] != entry["id"]), "{told}");

    let response = gateway.post(asking(&digits, &json!({"stream": true})).to_string()).send().await.unwrap();
    let events = response.text().await.unwrap();
    let text: String = events
        .split("\n\n")
        .filter_map(|event| serde_json::from_str::<Value>(event.strip_prefix("data: ")?).ok())
        .filter_map(|event| Some(event["text"].as_str()?.to_owned()))
        .collect();
    assert_eq!(text, "0123456789", "{events}");
}

#[tokio::test]
async fn what_is_no_format_is_refused_by_the_name_of_its_field() {
    let gateway = Gateway::tiny().await;
    let cases = [
        (
            json!({"type": "json_schema", "schema": {"properties": {"a": {"not": {}}}}}),
            "format.schema",
            "(at #/properties/a/not)",
        ),
        (json!({"type": "json_schema", "schema": 7}), "format.schema", "an object or `true`"),
        (json!({"type": "regex", "pattern": "a("}), "format.pattern", "unclosed group"),
        (json!({"type": "regex", "pattern": "a".repeat(9000)}), "format.pattern", "at most 4096"),
        (json!({"type": "choice", "choices": []}), "format.choices", "1 to 4096"),
        (json!({"type": "grammar", "lark": "start: nowhere"}), "format.lark", "nowhere"),
        (json!({"type": "yaml"}), "format.type", "yaml"),
        (json!({"type": "regex"}), "format.pattern", "missing field"),
        (json!({"type": "json_object", "schema": {}}), "format.schema", "unknown field"),
        (json!("json"), "format", "invalid type"),
    ];
    for (format, field, says) in cases {
        let (status, body) = gateway.infer(&asking(&format, &json!({}))).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{format}: {body}");
        assert_eq!(body["error"]["field"], field, "{body}");
        assert!(body["error"]["message"].as_str().unwrap().contains(says), "{body}");
    }
    answered(&gateway, &json!({"text": "Hello", "max_tokens": 2, "format": null})).await;
}

#[tokio::test]
async fn a_format_that_grows_too_complex_fails_its_own_request_only() {
    let gateway = Gateway::tiny().await;
    let everything = asking(&json!({"type": "regex", "pattern": "(a|b)*a(a|b){60}c"}), &json!({}));
    let (status, body) = gateway.infer(&everything).await;
    if status != StatusCode::OK {
        assert_eq!(
            (status.as_u16(), body["error"]["code"].as_str()),
            (422, Some("format_too_complex")),
            "{body}"
        );
    }
    let hostile = asking(&json!({"type": "regex", "pattern": "(a{1000}){1000}"}), &json!({}));
    let usual = asking(&formats()[1], &json!({}));
    let (hostile, other) = tokio::join!(gateway.infer(&hostile), gateway.infer(&usual));
    assert!(hostile.0 == StatusCode::OK || hostile.0 == StatusCode::UNPROCESSABLE_ENTITY, "{}", hostile.1);
    assert_eq!(other.0, StatusCode::OK, "{}", other.1);
}
