//! Errors in the dialect's own shape, on every route below `/v2`.

use reqwest::Method;
use serde_json::{Value, json};

use super::{GENERATE, STREAM, ask, send};
use crate::harness::{Gateway, settings, tiny};

/// A body, and how the error begins.
const BAD: &[(&str, &str)] = &[
    ("", "the body is not valid JSON"),
    ("not json", "the body is not valid JSON"),
    ("[]", "invalid type: a list, expected an object"),
    ("{}", "missing field `text_input`"),
    (r#"{"text_input": 1}"#, "text_input: invalid type: integer `1`, expected a string"),
    (r#"{"text_input": ""}"#, "text_input must not be empty"),
    (r#"{"text_input": "a", "id": 7}"#, "id: invalid type: integer `7`, expected a string"),
    (r#"{"text_input": "a", "parameters": []}"#, "parameters: invalid type: sequence"),
    (r#"{"text_input": "a", "bad_words": ""}"#, "unknown field `bad_words`, expected one of `temperature`"),
    (r#"{"text_input": "a", "parameters": {"beam_width": 1}}"#, "unknown field `beam_width`"),
    (r#"{"text_input": "a", "parameters": {"temperature": -1}}"#, "temperature must be from 0 to 2, got -1"),
    (r#"{"text_input": "a", "parameters": {"temperature": "1"}}"#, "temperature: invalid type: string"),
    (r#"{"text_input": "a", "top_p": 1.5}"#, "top_p must be from 0 to 1, got 1.5"),
    (r#"{"text_input": "a", "max_tokens": 0}"#, "max_tokens must be at least 1"),
    (
        r#"{"text_input": "a", "max_tokens": 256}"#,
        "text_input: 1 prompt tokens and 256 tokens to generate exceed",
    ),
    (r#"{"text_input": "a", "stop": [""]}"#, "stop text 0 must have"),
    (r#"{"text_input": "a", "logit_bias": {"a": 1}}"#, "logit_bias takes token ids as keys"),
    (
        r#"{"text_input": "a", "exclude_input_in_output": false}"#,
        "exclude_input_in_output is supported only as true",
    ),
    (r#"{"text_input": "a", "format": {"type": "regex", "pattern": "a("}}"#, "format.pattern: "),
    (r#"{"text_input": "a", "format": {"type": "yaml"}}"#, "format.type: unknown variant `yaml`"),
];

#[tokio::test]
async fn a_bad_request_gets_status_422_and_a_text_that_names_the_field() {
    let gateway = Gateway::tiny().await;
    for path in [GENERATE, STREAM] {
        for (body, begins) in BAD {
            let url = format!("http://{}{path}", gateway.api);
            let response = gateway.client.post(url).body(*body).send().await.unwrap();
            assert_eq!(response.headers()["content-type"], "application/json");
            let (status, answer) = (response.status().as_u16(), response.json::<Value>().await.unwrap());
            assert_eq!((status, answer.as_object().unwrap().len()), (422, 1), "{body}: {answer}");
            assert!(answer["error"].as_str().unwrap().starts_with(begins), "{body}: {answer}");
        }
    }
    for (path, stream, says) in [
        (GENERATE, true, "stream is true, and this path answers with none: use generate_stream"),
        (STREAM, false, "stream is false, and this path answers with one: use generate"),
    ] {
        let request = json!({"text_input": "a", "parameters": {"stream": stream}});
        assert_eq!(ask(&gateway, path, &request).await, (422, json!({"error": says})));
    }
}

#[tokio::test]
async fn unknown_paths_models_versions_and_methods_get_the_same_shape() {
    let gateway = Gateway::serving(&tiny("llama"), &["--max-body-bytes=1000"]).await;
    for (method, path, status, begins) in [
        (Method::GET, "/v2/", 404, "there is nothing at this path; there are GET /v2"),
        (Method::GET, "/v2/models", 404, "there is nothing at this path"),
        (Method::POST, "/v2/repository/index", 404, "there is nothing at this path"),
        (Method::GET, "/v2/models/gpt-5", 404, "there is no model `gpt-5`; `tiny` is served"),
        (Method::GET, "/v2/models/tiny/load", 404, "there is no model `tiny/load`"),
        (Method::GET, "/v2/models/gpt-5/ready", 404, "there is no model `gpt-5`"),
        (
            Method::GET,
            "/v2/models/tiny/versions/1",
            404,
            "there is no version `1` of the model `tiny`: its version now is `",
        ),
        (Method::GET, "/v2/models/tiny/versions/1/ready", 404, "there is no version `1`"),
        (Method::POST, "/v2", 405, "POST is not allowed here"),
        (Method::GET, GENERATE, 405, "GET is not allowed here"),
        (Method::DELETE, GENERATE, 405, "DELETE is not allowed here"),
        (Method::POST, "/v2/models/tiny/ready", 405, "POST is not allowed here"),
        (Method::POST, "/v2/models/tiny", 405, "POST is not allowed here"),
    ] {
        let url = format!("http://{}{path}", gateway.api);
        let response = gateway.client.request(method, url).send().await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{path}");
        let body = response.json::<Value>().await.unwrap();
        assert!(body["error"].as_str().unwrap().starts_with(begins), "{path}: {body}");
        assert_eq!(body.as_object().unwrap().len(), 1);
    }
    for path in ["/v2/models/gpt-5/generate", "/v2/models/tiny/versions/1/generate_stream"] {
        let (status, body) = ask(&gateway, path, &json!({"text_input": "a"})).await;
        assert_eq!(status, 404, "{body}");
    }
    let large = ask(&gateway, GENERATE, &json!({"text_input": "a".repeat(1000)})).await;
    assert_eq!(large, (413, json!({"error": "the body is larger than 1000 bytes"})));
}

#[tokio::test]
async fn tensors_are_refused_with_what_to_use_instead() {
    let gateway = Gateway::tiny().await;
    let tensor = json!({"name": "text_input", "shape": [1], "datatype": "BYTES", "data": ["Hello"]});
    let (status, body) = ask(&gateway, "/v2/models/tiny/infer", &json!({"inputs": [tensor]})).await;
    let error = body["error"].as_str().unwrap();
    assert!(status == 422 && error.contains("use POST /v2/models/tiny/generate"), "{status}: {error}");
}

#[tokio::test]
async fn too_many_requests_and_late_ones_have_the_statuses_of_the_specification() {
    let flags = ["--max-batch-size=1", "--queue-limit=1"];
    let gateway = Gateway::serving(&tiny("gpt2-no-cache"), &flags).await;
    let long = json!({"text_input": "abc", "max_tokens": 200, "ignore_eos": true});
    let (first, second) = (send(&gateway, STREAM, &long).await, send(&gateway, STREAM, &long).await);
    let refused = send(&gateway, GENERATE, &long).await;
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (429, &"1".parse().unwrap()));
    let body = refused.json::<Value>().await.unwrap();
    assert!(body["error"].as_str().unwrap().starts_with("the queue is full"), "{body}");
    drop((first, second));

    let gateway = Gateway::serving(&tiny("gpt2-no-cache"), &["--request-timeout=30ms"]).await;
    let late = ask(&gateway, GENERATE, &long).await;
    assert_eq!(late, (500, json!({"error": "the request did not end before its deadline"})));
}

#[tokio::test]
async fn a_model_that_is_not_ready_is_the_servers_fault() {
    let gateway = Gateway::start(settings(&["--default-model-path=/no/such/folder"])).await;
    let response = send(&gateway, GENERATE, &json!({"text_input": "a"})).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["retry-after"]),
        (503, &"5".parse().unwrap())
    );
    let body = response.json::<Value>().await.unwrap();
    assert!(body["error"].as_str().unwrap().starts_with("the model `tiny` is not ready"), "{body}");
}
