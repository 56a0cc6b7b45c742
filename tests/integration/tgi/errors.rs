//! Errors in the dialect's own shape, on all of its paths.

use reqwest::Method;
use serde_json::{Value, json};

use super::{ask, send};
use crate::harness::{Gateway, ModelsList, entry, settings, tiny};

/// Parameters, and how the error begins.
const BAD: &[(&str, &str)] = &[
    (r#""max_tokens": 1"#, "unknown field `max_tokens`, expected one of `best_of`"),
    (r#""max_new_tokens": 0"#, "max_new_tokens must be at least 1"),
    (r#""max_new_tokens": 256"#, "inputs: 1 prompt tokens and 256 tokens to generate exceed"),
    (r#""temperature": 0"#, "temperature must be above 0; for the most likely token each time leave it out"),
    (r#""temperature": 2.5"#, "temperature must be from 0 to 2, got 2.5"),
    (r#""temperature": "1""#, "parameters.temperature: invalid type: string"),
    (r#""top_k": 0"#, "top_k must be above 0"),
    (r#""top_k": -1"#, "parameters.top_k: invalid value: integer `-1`"),
    (r#""top_p": 0"#, "top_p must be above 0"),
    (r#""top_p": 1.1"#, "top_p must be from 0 to 1, got 1.1"),
    (r#""repetition_penalty": 0"#, "repetition_penalty must be from 0.01 to 100, got 0"),
    (r#""frequency_penalty": 3"#, "frequency_penalty must be from -2 to 2, got 3"),
    (r#""typical_p": 0.9"#, "typical_p is not supported"),
    (r#""watermark": true"#, "watermark is supported only as false"),
    (r#""decoder_input_details": true"#, "decoder_input_details is supported only as false"),
    (r#""adapter_id": "a""#, "adapter_id is not supported"),
    (r#""truncate": 0"#, "truncate must be at least 1"),
    (r#""stop": [""]"#, "stop text 0 must have"),
    (r#""stop": "a""#, "parameters.stop: invalid type: string"),
    (r#""seed": -1"#, "parameters.seed: invalid value: integer `-1`"),
    (r#""top_n_tokens": 21, "details": true"#, "top_n_tokens must be from 0 to 20, got 21"),
    (r#""best_of": 2"#, "best_of above 1 needs do_sample"),
    (r#""best_of": 9, "do_sample": true"#, "best_of: 9 generations are more than the 8"),
    (r#""grammar": {"type": "regex", "value": "a("}"#, "parameters.grammar: "),
    (r#""grammar": {"type": "json", "value": 7}"#, "parameters.grammar: "),
    (
        r#""grammar": {"type": "json", "value": "{"}"#,
        "parameters.grammar: the value is a text that is not valid JSON",
    ),
    (r#""grammar": {"type": "json_schema", "value": {}}"#, "missing field `schema`"),
    (r#""grammar": {"type": "lark", "value": ""}"#, "parameters.grammar.type: unknown variant `lark`"),
    (r#""grammar": {"type": "regex"}"#, "missing field `value`"),
];

#[tokio::test]
async fn a_bad_request_gets_status_422_and_a_text_that_names_the_field() {
    let gateway = Gateway::serving(&tiny("llama"), &["--max-batch-size=2", "--queue-limit=6"]).await;
    let parameters = BAD.iter().map(|(parameters, begins)| {
        (format!(r#"{{"inputs": "a", "parameters": {{{parameters}}}}}"#), *begins)
    });
    let bodies = [
        ("", "the body is not valid JSON"),
        ("{}", "missing field `inputs`"),
        (r#"{"inputs": ["a"]}"#, "inputs: invalid type: sequence, expected a string"),
        (r#"{"inputs": ""}"#, "inputs must not be empty"),
        (r#"{"inputs": "a", "model": "tiny"}"#, "unknown field `model`, expected one of `inputs`"),
        (r#"{"inputs": "a", "stream": true}"#, "stream is true, and this path answers with none"),
        (r#"{"inputs": "a", "parameters": {"top_n_tokens": 1}}"#, "top_n_tokens is told with details"),
    ];
    for (body, begins) in bodies.map(|(body, begins)| (body.to_owned(), begins)).into_iter().chain(parameters)
    {
        let url = format!("http://{}/generate", gateway.api);
        let response = gateway.client.post(url).body(body.clone()).send().await.unwrap();
        let (status, answer) = (response.status().as_u16(), response.json::<Value>().await.unwrap());
        assert_eq!((status, &answer["error_type"]), (422, &json!("validation")), "{body}: {answer}");
        assert!(answer["error"].as_str().unwrap().starts_with(begins), "{body}: {answer}");
        assert_eq!(answer.as_object().unwrap().len(), 2);
    }
    for (path, body, begins) in [
        (
            "/generate_stream",
            json!({"inputs": "a", "stream": false}),
            "stream is false, and this path answers with one",
        ),
        (
            "/generate_stream",
            json!({"inputs": "a", "parameters": {"best_of": 2, "do_sample": true}}),
            "best_of above 1 is not possible",
        ),
        ("/", json!({"inputs": "a", "stream": "yes"}), "stream: invalid type: string"),
        ("/tokenize", json!({"inputs": "a", "parameters": {"truncate": 1}}), "parameters is not supported"),
        ("/tokenize", json!({"text": "a"}), "unknown field `text`, expected"),
    ] {
        let (status, answer) = ask(&gateway, path, &body).await;
        assert_eq!((status, &answer["error_type"]), (422, &json!("validation")), "{path} {body}: {answer}");
        assert!(answer["error"].as_str().unwrap().starts_with(begins), "{body}: {answer}");
    }
}

#[tokio::test]
async fn wrong_methods_and_large_bodies_get_the_same_shape() {
    let gateway = Gateway::serving(&tiny("llama"), &["--max-body-bytes=1000"]).await;
    for (method, path) in [
        (Method::PUT, "/"),
        (Method::GET, "/generate"),
        (Method::DELETE, "/generate_stream"),
        (Method::GET, "/tokenize"),
        (Method::POST, "/info"),
        (Method::POST, "/health"),
    ] {
        let url = format!("http://{}{path}", gateway.api);
        let response = gateway.client.request(method.clone(), url).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 405, "{path}");
        let body = response.json::<Value>().await.unwrap();
        let error = format!("{method} is not allowed here");
        assert_eq!(body, json!({"error": error, "error_type": "method_not_allowed"}), "{path}");
    }
    let (status, body) = ask(&gateway, "/generate", &json!({"inputs": "a".repeat(1000)})).await;
    let error = json!({"error": "the body is larger than 1000 bytes", "error_type": "body_too_large"});
    assert_eq!((status, body), (413, error));
}

#[tokio::test]
async fn where_there_are_several_models_this_dialect_can_name_none() {
    let list = ModelsList::new(&(entry("a", &tiny("llama"), "") + &entry("b", &tiny("gpt2"), "")));
    let gateway = list.gateway(&[]).await;
    gateway.wait_ready().await;
    let (status, body) = ask(&gateway, "/generate", &json!({"inputs": "a"})).await;
    let error = "the request names no model; served are a, b; no field of this API names one: ask for it by /v1, /v2 or \
                 /api/v1/inference";
    assert_eq!((status, body), (422, json!({"error": error, "error_type": "validation"})));
}

#[tokio::test]
async fn too_many_requests_and_late_ones_have_the_statuses_of_the_dialect() {
    let flags = ["--max-batch-size=1", "--queue-limit=1"];
    let gateway = Gateway::serving(&tiny("gpt2-no-cache"), &flags).await;
    let long = json!({"inputs": "abc", "parameters": {"max_new_tokens": 200}});
    let streams =
        (send(&gateway, "/generate_stream", &long).await, send(&gateway, "/generate_stream", &long).await);
    let refused = send(&gateway, "/generate", &long).await;
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (429, &"1".parse().unwrap()));
    let body = refused.json::<Value>().await.unwrap();
    assert!(body["error"].as_str().unwrap().starts_with("the queue is full"), "{body}");
    assert_eq!(body["error_type"], "overloaded");
    drop(streams);

    let gateway = Gateway::serving(&tiny("gpt2-no-cache"), &["--request-timeout=30ms"]).await;
    let error = json!({"error": "the request did not end before its deadline", "error_type": "incomplete_generation"});
    assert_eq!(ask(&gateway, "/generate", &long).await, (500, error));
}

#[tokio::test]
async fn a_model_that_is_not_ready_is_the_servers_fault() {
    let gateway = Gateway::start(settings(&["--default-model-path=/no/such/folder"])).await;
    for path in ["/", "/generate", "/generate_stream", "/tokenize"] {
        let response = send(&gateway, path, &json!({"inputs": "a"})).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["retry-after"]),
            (503, &"5".parse().unwrap())
        );
        let body = response.json::<Value>().await.unwrap();
        assert!(body["error"].as_str().unwrap().starts_with("the model `tiny` is not ready"), "{body}");
        assert_eq!(body["error_type"], "model_not_ready");
    }
}
