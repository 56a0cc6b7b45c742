//! What the document says of single fields against what the gateway checks: bounds and defaults, of every field that has some.

use reqwest::StatusCode;
use serde_json::{Map, Value, json};

use super::{document, roomy};
use crate::harness::Gateway;

/// Requests with the least that they need, and the schema of the object that has their options.
const ROUTES: [(&str, &str, &str); 5] = [
    ("NativeRequest", "/api/v1/inference", r#"{"text": "a"}"#),
    ("ChatRequest", "/v1/chat/completions", r#"{"messages": [{"role": "user", "content": "a"}]}"#),
    ("CompletionRequest", "/v1/completions", r#"{"prompt": "a"}"#),
    ("OipGenerateRequest", "/v2/models/tiny/generate", r#"{"text_input": "a"}"#),
    ("TgiParameters", "/generate", r#"{"inputs": "a", "parameters": {}}"#),
];

/// Fields whose greatest value no tiny model takes, or which mean something only as a whole.
const NOT_TAKEN: [&str; 6] =
    ["max_tokens", "max_completion_tokens", "max_new_tokens", "logit_bias", "lark", "choices"];

/// Values on the right side of a schema's bounds, and on the wrong one.
#[derive(Default)]
struct Edges {
    inside: Vec<Value>,
    outside: Vec<Value>,
}

fn edges(schema: &Value) -> Edges {
    let mut found = Edges::default();
    if let Some(kinds) = schema.get("anyOf").or(schema.get("oneOf")).and_then(Value::as_array) {
        for kind in kinds.iter().map(edges) {
            found.inside.extend(kind.inside);
            found.outside.extend(kind.outside);
        }
        return found;
    }
    if let Some(words) = schema.get("enum").and_then(Value::as_array) {
        found.inside.extend(words.clone());
        found.outside.push(words[0].as_bool().map_or(json!("no such word"), |only| json!(!only)));
        return found;
    }
    match kind_of(schema) {
        "integer" | "number" => numbers(schema, &mut found),
        "string" => {
            let text = |length: u64| json!("a".repeat(length as usize));
            let (least, most) = (bound(schema, "minLength"), bound(schema, "maxLength"));
            found.inside.extend([least, most].into_iter().flatten().map(text));
            found.inside.push(json!("a"));
            found.outside.extend(most.map(|most| text(most + 1)));
            found.outside.extend(least.filter(|least| *least > 0).map(|least| text(least - 1)));
        }
        "array" => {
            let items = edges(&schema["items"]);
            let list = |length: u64| Value::Array(vec![items.inside[0].clone(); length as usize]);
            let (least, most) = (bound(schema, "minItems"), bound(schema, "maxItems"));
            found.inside.push(list(1));
            found.inside.extend([least, most].into_iter().flatten().map(list));
            found.outside.extend(most.map(|most| list(most + 1)));
            found.outside.extend(least.filter(|least| *least > 0).map(|least| list(least - 1)));
            found.outside.extend(items.outside.into_iter().map(|item| json!([item])));
        }
        "object" => objects(schema, &mut found),
        "boolean" => {
            found.inside.extend([json!(false), json!(true)]);
            found.outside.push(json!("true"));
        }
        "null" => found.inside.push(Value::Null),
        _anything => found.inside.push(json!({"a": [1]})),
    }
    found
}

/// The type beside `null`.
fn kind_of(schema: &Value) -> &str {
    match &schema["type"] {
        Value::Array(kinds) => kinds[0].as_str().unwrap(),
        kind => kind.as_str().unwrap_or("anything"),
    }
}

fn bound(schema: &Value, name: &str) -> Option<u64> {
    schema.get(name)?.as_u64()
}

fn numbers(schema: &Value, found: &mut Edges) {
    let step = if kind_of(schema) == "integer" { 1.0 } else { 0.0625 };
    found.outside.extend(schema.get("exclusiveMinimum").cloned());
    for (name, step) in [("minimum", -step), ("maximum", step)] {
        let Some(bound) = schema.get(name) else { continue };
        found.inside.push(bound.clone());
        let beyond = bound.as_f64().unwrap() + step;
        // The next number of 64 bits is no whole one here, and is refused as such.
        let is_whole = step.fract() == 0.0 && beyond.abs() < 1e15;
        found.outside.push(if is_whole { json!(beyond as i64) } else { json!(beyond) });
    }
}

fn objects(schema: &Value, found: &mut Edges) {
    let none = Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&none);
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().map(|name| name.as_str().unwrap()).collect();
    let plain: Map<String, Value> = required
        .iter()
        .map(|name| ((*name).to_owned(), edges(&properties[*name]).inside[0].clone()))
        .collect();
    let is_taken = |name: &str| !NOT_TAKEN.contains(&name);
    if required.iter().all(|name| is_taken(name)) {
        found.inside.push(Value::Object(plain.clone()));
    }
    let with = |name: &str, value: Value| {
        let mut object = plain.clone();
        object.insert(name.to_owned(), value);
        Value::Object(object)
    };
    for (name, schema) in properties {
        let inside = edges(schema);
        if is_taken(name) && required.iter().all(|name| is_taken(name)) {
            found.inside.extend(inside.inside.into_iter().map(|value| with(name, value)));
        }
        found.outside.extend(inside.outside.into_iter().map(|value| with(name, value)));
    }
    if schema["additionalProperties"] == false {
        found.outside.push(with("frobnicate", json!(1)));
    } else if schema["additionalProperties"].is_object() {
        let values = edges(&schema["additionalProperties"]);
        found.inside.extend(values.inside.into_iter().map(|value| json!({"1": value})));
        found.outside.extend(values.outside.into_iter().map(|value| json!({"1": value})));
    }
    if let Some(most) = bound(schema, "maxProperties") {
        found.outside.push((0..=most).map(|key| (key.to_string(), json!(1))).collect());
    }
}

/// The object of a request that has its options, and what the number of tokens is called in it.
fn options(request: &mut Value) -> (&mut Value, &'static str) {
    if request.get("inputs").is_some() {
        (&mut request["parameters"], "max_new_tokens")
    } else {
        (request, "max_tokens")
    }
}

/// A field, with those that it needs beside it.
fn request(base: &str, field: &str, value: &Value) -> Value {
    let mut whole: Value = serde_json::from_str(base).unwrap();
    let is_tgi = whole.get("inputs").is_some();
    let (request, max_tokens) = options(&mut whole);
    if field != "max_completion_tokens" {
        request[max_tokens] = json!(1);
    }
    match field {
        "top_n_tokens" => request["details"] = json!(true),
        "top_logprobs" => request["logprobs"] = json!(true),
        "stream_options" => request["stream"] = json!(true),
        "best_of" if is_tgi => request["do_sample"] = json!(true),
        "best_of" => request["n"] = value.clone(),
        _alone => {}
    }
    request[field] = value.clone();
    whole
}

/// Fields whose values are a matter of others: of a model's settings, of parts that other schemas describe, of each other.
const DEPENDENT: [&str; 10] = [
    "messages",
    "model",
    "template",
    "variables",
    "parameters",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "structured_outputs",
];

fn depends(path: &str, field: &str) -> bool {
    // The path says whether it streams.
    DEPENDENT.contains(&field) || (path.starts_with("/v2") && field == "stream")
}

/// Status, what says which field is at fault, and the whole answer.
async fn asked(gateway: &Gateway, path: &str, request: &Value) -> (StatusCode, Option<String>, String) {
    let url = format!("http://{}{path}", gateway.api);
    let response = gateway.client.post(url).body(request.to_string()).send().await.unwrap();
    let (status, text) = (response.status(), response.text().await.unwrap());
    let body: Value = serde_json::from_str(&text).unwrap_or_default();
    let error = &body["error"];
    let field = error["field"].as_str().or(error["param"].as_str()).or(error.as_str());
    (status, field.map(str::to_owned), text)
}

fn shortened(request: &Value) -> String {
    request.to_string().chars().take(200).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_field_is_taken_up_to_its_bounds_and_not_beyond() {
    let gateway = roomy().await;
    let document = document(&gateway).await;
    let mut tried = 0;
    for (schema, path, base) in ROUTES {
        let properties = document["components"]["schemas"][schema]["properties"].as_object().unwrap();
        for (field, schema) in properties.iter().filter(|(field, _)| !depends(path, field)) {
            let schema = whole(&document, schema);
            let Edges { inside, outside } = edges(&schema);
            tried += outside.len();
            for value in outside {
                let request = request(base, field, &value);
                let (status, at, answer) = asked(&gateway, path, &request).await;
                assert!(status.is_client_error(), "{path} takes {}: {answer}", shortened(&request));
                let at = at.unwrap_or_else(|| panic!("no field named for {}: {answer}", shortened(&request)));
                // `n` is the first to be refused of those that have to be the same.
                let names = [field.as_str(), if field == "best_of" { "n" } else { field }];
                // A part of an object stands for it.
                let keys = value.to_string();
                let is_named = |word: &str| names.contains(&word) || keys.contains(&format!("\"{word}\":"));
                assert!(
                    at.split(|c: char| !c.is_alphanumeric() && c != '_').any(is_named),
                    "{}: {answer}",
                    shortened(&request)
                );
            }
            for value in inside.iter().filter(|_| !NOT_TAKEN.contains(&field.as_str())) {
                let request = request(base, field, value);
                let (status, _, answer) = asked(&gateway, path, &request).await;
                assert_eq!(status, StatusCode::OK, "{path} refuses {}: {answer}", shortened(&request));
            }
        }
    }
    assert!(tried > 120, "{tried}");
}

/// The schema of a field without a reference at its top, also beside `null`.
fn whole(document: &Value, schema: &Value) -> Value {
    let kinds = schema.get("oneOf").and_then(Value::as_array);
    let schema =
        kinds.and_then(|kinds| kinds.iter().find(|kind| kind.get("$ref").is_some())).unwrap_or(schema);
    match schema.get("$ref").and_then(Value::as_str) {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap().clone(),
        None => schema.clone(),
    }
}

/// What tells one answer from another: its texts and counts, without ids and times.
fn told(answer: &str) -> Value {
    let mut told: Value = serde_json::from_str(answer).unwrap();
    for field in ["id", "created"] {
        told.as_object_mut().unwrap().remove(field);
    }
    if let Some(metadata) = told.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("processing_time_ms");
    }
    if let Some(usage) = told.get_mut("usage").and_then(Value::as_object_mut) {
        usage.remove("prompt_tokens_details");
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_default_is_what_happens_without_the_field() {
    let gateway = roomy().await;
    let document = document(&gateway).await;
    let mut compared = 0;
    for (schema, path, base) in ROUTES {
        let mut without: Value = serde_json::from_str(base).unwrap();
        let (fields, max_tokens) = options(&mut without);
        fields["seed"] = json!(11);
        fields[max_tokens] = json!(24);
        let (status, _, expected) = asked(&gateway, path, &without).await;
        assert_eq!(status, StatusCode::OK, "{expected}");
        for (field, schema) in document["components"]["schemas"][schema]["properties"].as_object().unwrap() {
            let Some(default) = schema.get("default") else { continue };
            let mut with = without.clone();
            options(&mut with).0[field] = default.clone();
            let (status, _, answer) = asked(&gateway, path, &with).await;
            assert_eq!(status, StatusCode::OK, "{path} {field}: {answer}");
            assert_eq!(told(&answer), told(&expected), "{path}: {field} is not {default} by default");
            compared += 1;
        }
    }
    assert!(compared > 45, "{compared}");
}
