//! Errors in the dialect's own shape, on every route below `/v1` and in streams.

use reqwest::Method;
use serde_json::{Value, json};

use super::{CHAT, COMPLETIONS, ask, send};
use crate::harness::{Gateway, settings, tiny};

/// An error whose message says something, by type, param and code.
fn told(body: &Value) -> (&str, Option<&str>, &str) {
    let error = body["error"].as_object().unwrap_or_else(|| panic!("{body}"));
    let mut keys: Vec<&str> = error.keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!((keys, body.as_object().unwrap().len()), (vec!["code", "message", "param", "type"], 1));
    assert!(error["message"].as_str().unwrap().len() > 10, "{body}");
    (error["type"].as_str().unwrap(), error["param"].as_str(), error["code"].as_str().unwrap())
}

/// Fields of a completion, the field that is at fault, and the code.
const BAD_COMPLETIONS: &[(&str, &str, &str)] = &[
    (r#"{"prompt": "a", "temprature": 1}"#, "temprature", "unknown_parameter"),
    (r#"{"prompt": "a", "messages": []}"#, "messages", "unknown_parameter"),
    (r#"{"model": "tiny"}"#, "prompt", "missing_required_parameter"),
    (r#"{"prompt": "a", "prompt": "b"}"#, "prompt", "duplicate_parameter"),
    (r#"{"prompt": null}"#, "prompt", "invalid_value"),
    (r#"{"prompt": ""}"#, "prompt", "invalid_value"),
    (r#"{"prompt": []}"#, "prompt", "invalid_value"),
    (r#"{"prompt": [[]]}"#, "prompt", "invalid_value"),
    (r#"{"prompt": ["a", ""]}"#, "prompt[1]", "invalid_value"),
    (r#"{"prompt": ["a", 1]}"#, "prompt", "invalid_value"),
    (r#"{"prompt": [1, 1000]}"#, "prompt", "invalid_value"),
    (r#"{"prompt": [[1], [1, 1000]]}"#, "prompt[1]", "invalid_value"),
    (r#"{"prompt": "a", "max_tokens": 0}"#, "max_tokens", "invalid_value"),
    (r#"{"prompt": "a", "max_tokens": 256}"#, "prompt", "context_length_exceeded"),
    (r#"{"prompt": "a", "n": 0}"#, "n", "invalid_value"),
    (r#"{"prompt": "a", "n": 65}"#, "n", "invalid_value"),
    (r#"{"prompt": "a", "n": 9}"#, "n", "invalid_value"),
    (r#"{"prompt": ["a", "b", "c"], "n": 3}"#, "n", "invalid_value"),
    (r#"{"prompt": "a", "best_of": 2}"#, "best_of", "unsupported_parameter"),
    (r#"{"prompt": "a", "suffix": "b"}"#, "suffix", "unsupported_parameter"),
    (r#"{"prompt": "a", "echo": true, "logprobs": 1}"#, "echo", "unsupported_parameter"),
    (r#"{"prompt": "a", "logprobs": 21}"#, "logprobs", "invalid_value"),
    (r#"{"prompt": "a", "logprobs": true}"#, "logprobs", "invalid_value"),
    (r#"{"prompt": "a", "temperature": 2.1}"#, "temperature", "invalid_value"),
    (r#"{"prompt": "a", "top_k": -2}"#, "top_k", "invalid_value"),
    (r#"{"prompt": "a", "seed": 1.5}"#, "seed", "invalid_value"),
    (r#"{"prompt": "a", "seed": 18446744073709551616}"#, "seed", "invalid_value"),
    (r#"{"prompt": "a", "logit_bias": {"a": 1}}"#, "logit_bias", "invalid_value"),
    (r#"{"prompt": "a", "stop": [""]}"#, "stop", "invalid_value"),
    (r#"{"prompt": "a", "stop_token_ids": [1000]}"#, "stop_token_ids", "invalid_value"),
    (
        r#"{"prompt": "a", "include_stop_str_in_output": true}"#,
        "include_stop_str_in_output",
        "unsupported_parameter",
    ),
    (r#"{"prompt": "a", "stream_options": {"include_usage": true}}"#, "stream_options", "invalid_value"),
    (
        r#"{"prompt": "a", "stream": true, "stream_options": {"include_usag": true}}"#,
        "stream_options.include_usag",
        "unknown_parameter",
    ),
    (
        r#"{"prompt": "a", "stream": true, "stream_options": {"include_obfuscation": true}}"#,
        "stream_options.include_obfuscation",
        "unsupported_parameter",
    ),
    (r#"{"prompt": "a", "store": true}"#, "store", "unsupported_parameter"),
    (r#"{"prompt": "a", "service_tier": "priority"}"#, "service_tier", "unsupported_parameter"),
];

/// The same of a chat.
const BAD_CHATS: &[(&str, &str, &str)] = &[
    (r#"{"model": "tiny"}"#, "messages", "missing_required_parameter"),
    (r#"{"messages": []}"#, "messages", "invalid_value"),
    (r#"{"messages": "Hi"}"#, "messages", "invalid_value"),
    (r#"{"messages": [{"role": "user"}]}"#, "messages[0].content", "invalid_value"),
    (r#"{"messages": [{"role": "user", "content": 1}]}"#, "messages[0].content", "invalid_value"),
    (r#"{"messages": [{"content": "a"}]}"#, "messages[0].role", "missing_required_parameter"),
    (r#"{"messages": [{"role": "robot", "content": "a"}]}"#, "messages[0].role", "invalid_value"),
    (r#"{"messages": [{"role": "tool", "content": "a"}]}"#, "messages[0].tool_call_id", "invalid_value"),
    (
        r#"{"messages": [{"role": "assistant", "content": "a", "tool_calls": [{"id": "a", "type": "custom"}]}]}"#,
        "messages[0].tool_calls[0].type",
        "unsupported_parameter",
    ),
    (r#"{"messages": [{"role": "user", "content": "a", "x": 1}]}"#, "messages[0].x", "unknown_parameter"),
    (
        r#"{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}"#,
        "messages[0].content[0].type",
        "unsupported_parameter",
    ),
    (
        r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {}}]}]}"#,
        "messages[0].content[0].cache_control",
        "unknown_parameter",
    ),
    (
        r#"{"messages": [{"role": "user", "content": [{"type": "text"}]}]}"#,
        "messages[0].content[0]",
        "invalid_value",
    ),
];

/// Fields of a chat beside its messages.
const BAD_CHAT_FIELDS: &[(&str, &str, &str)] = &[
    (r#""prompt": "a""#, "prompt", "unknown_parameter"),
    (r#""tools": []"#, "tools", "invalid_value"),
    (r#""tool_choice": "auto""#, "tool_choice", "invalid_value"),
    (r#""parallel_tool_calls": false"#, "parallel_tool_calls", "invalid_value"),
    (r#""functions": []"#, "functions", "unsupported_parameter"),
    (r#""function_call": "none""#, "function_call", "unsupported_parameter"),
    (r#""response_format": {"type": "yaml"}"#, "response_format.type", "invalid_value"),
    (r#""response_format": {"type": "text", "x": 1}"#, "response_format.x", "unknown_parameter"),
    (
        r#""response_format": {"type": "json_schema"}"#,
        "response_format.json_schema",
        "missing_required_parameter",
    ),
    (
        r#""response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"not": {}}}}"#,
        "response_format.json_schema.schema",
        "invalid_value",
    ),
    (r#""structured_outputs": {"regex": "a", "choice": ["a"]}"#, "structured_outputs", "invalid_value"),
    (r#""structured_outputs": {"regex": "("}"#, "structured_outputs.regex", "invalid_value"),
    (r#""structured_outputs": {"json": "{"}"#, "structured_outputs.json", "invalid_value"),
    (r#""structured_outputs": {"choice": []}"#, "structured_outputs.choice", "invalid_value"),
    (r#""structured_outputs": {"grammar": "x"}"#, "structured_outputs.grammar", "invalid_value"),
    (
        r#""structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}"#,
        "structured_outputs",
        "invalid_value",
    ),
    (r#""reasoning_effort": "low""#, "reasoning_effort", "unsupported_parameter"),
    (r#""modalities": ["audio"]"#, "modalities", "unsupported_parameter"),
    (r#""logprobs": true, "top_logprobs": 21"#, "top_logprobs", "invalid_value"),
    (r#""top_logprobs": 2"#, "top_logprobs", "invalid_value"),
    (r#""max_tokens": 3, "max_completion_tokens": 4"#, "max_tokens", "invalid_value"),
    (r#""max_completion_tokens": 0"#, "max_completion_tokens", "invalid_value"),
    (r#""max_completion_tokens": 255"#, "messages", "context_length_exceeded"),
    (r#""chat_template_kwargs": {"messages": []}"#, "chat_template_kwargs", "invalid_value"),
    (r#""best_of": 1"#, "best_of", "unknown_parameter"),
];

#[tokio::test]
async fn a_bad_request_gets_status_400_and_the_name_of_the_field() {
    let gateway = Gateway::serving(&tiny("llama"), &["--max-batch-size=2", "--queue-limit=6"]).await;
    let post = async |path: &str, body: String| {
        let url = format!("http://{}{path}", gateway.api);
        let response = gateway.client.post(url).body(body).send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };
    let with = |fields: &str| format!(r#"{{"messages": [{{"role": "user", "content": "a"}}], {fields}}}"#);
    let completions = BAD_COMPLETIONS.iter().map(|case| (COMPLETIONS, case.0.to_owned(), case.1, case.2));
    let chats = BAD_CHATS.iter().map(|case| (CHAT, case.0.to_owned(), case.1, case.2));
    let fields = BAD_CHAT_FIELDS.iter().map(|case| (CHAT, with(case.0), case.1, case.2));
    for (path, body, param, code) in completions.chain(chats).chain(fields) {
        let (status, answer) = post(path, body.clone()).await;
        assert_eq!(status, 400, "{body}: {answer}");
        assert_eq!(told(&answer), ("invalid_request_error", Some(param), code), "{body}: {answer}");
    }
    for body in ["", "not json", "[]"] {
        let (status, answer) = post(CHAT, body.to_owned()).await;
        assert_eq!((status, told(&answer).1), (400, None), "{body}");
    }
    let (_, answer) = ask(&gateway, COMPLETIONS, &json!({"prompt": "a", "n": 9})).await;
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("9 generations are more than the 8"), "{message}");
}

#[tokio::test]
async fn an_error_is_told_whole() {
    let gateway = Gateway::tiny().await;
    let response = send(&gateway, COMPLETIONS, &json!({"prompt": "a", "temperature": 3})).await;
    assert_eq!(response.status().as_u16(), 400);
    assert_eq!(response.headers()["x-request-id"], "r-1");
    assert_eq!(
        response.json::<Value>().await.unwrap(),
        json!({"error": {
            "message": "temperature must be from 0 to 2, got 3", "type": "invalid_request_error",
            "param": "temperature", "code": "invalid_value"
        }})
    );
}

#[tokio::test]
async fn unknown_paths_wrong_methods_and_large_bodies_get_the_same_shape() {
    let gateway = Gateway::serving(&tiny("llama"), &["--max-body-bytes=1000"]).await;
    for (method, path, status, code) in [
        (Method::GET, "/v1", 404, "not_found"),
        (Method::POST, "/v1/embeddings", 404, "not_found"),
        (Method::GET, "/v1/completions", 405, "method_not_allowed"),
        (Method::DELETE, "/v1/models/tiny", 405, "method_not_allowed"),
    ] {
        let url = format!("http://{}{path}", gateway.api);
        let response = gateway.client.request(method, url).send().await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{path}");
        assert_eq!(told(&response.json().await.unwrap()), ("invalid_request_error", None, code));
    }
    let (status, body) = ask(&gateway, COMPLETIONS, &json!({"prompt": "a".repeat(1000)})).await;
    assert_eq!((status, told(&body)), (413, ("invalid_request_error", None, "body_too_large")));
    let (status, body) = ask(&gateway, COMPLETIONS, &json!({"model": "gpt-5", "prompt": "a"})).await;
    assert_eq!((status, told(&body)), (404, ("invalid_request_error", Some("model"), "model_not_found")));
}

#[tokio::test]
async fn a_model_that_is_not_ready_is_the_servers_fault() {
    let gateway = Gateway::start(settings(&["--default-model-path=/no/such/folder"])).await;
    let response = send(&gateway, COMPLETIONS, &json!({"prompt": "a"})).await;
    assert_eq!(response.status().as_u16(), 503);
    assert_eq!(response.headers()["retry-after"], "5");
    assert_eq!(told(&response.json().await.unwrap()), ("server_error", None, "model_not_ready"));
}

#[tokio::test]
async fn a_stream_that_fails_ends_with_the_error_and_nothing_else() {
    let gateway = Gateway::serving(&tiny("gpt2-no-cache"), &["--request-timeout=150ms"]).await;
    let request = json!({"prompt": ["abc", "abd"], "max_tokens": 200, "ignore_eos": true, "stream": true});
    let events = super::stream(&gateway, COMPLETIONS, &request).await;
    let (last, chunks) = events.split_last().unwrap();
    assert_eq!(told(last), ("server_error", None, "deadline_exceeded"));
    assert!(chunks.iter().all(|chunk| chunk["choices"][0]["finish_reason"].is_null()));
}
