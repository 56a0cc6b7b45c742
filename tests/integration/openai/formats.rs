//! `response_format` and `structured_outputs`.

use serde_json::{Value, json};

use super::{CHAT, COMPLETIONS, ask};
use crate::harness::Gateway;

#[tokio::test]
async fn answers_hold_to_the_format_that_is_asked_for() {
    let gateway = Gateway::tiny().await;
    let schema = json!({"type": "object", "properties": {"kind": {"enum": ["cat", "dog"]}}, "required": ["kind"],
        "additionalProperties": false});
    let named =
        json!({"type": "json_schema", "json_schema": {"name": "kind", "strict": true, "schema": schema}});
    let fields = [
        json!({"response_format": named}),
        json!({"structured_outputs": {"json": schema}}),
        json!({"structured_outputs": {"json": schema.to_string()}}),
        json!({"structured_outputs": {"regex": "\\{\"kind\": \"(cat|dog)\"\\}"}}),
        json!({"structured_outputs": {"choice": ["{\"kind\": \"dog\"}"]}}),
        json!({"structured_outputs": {"grammar": "start: \"{\" /\"kind\": \"cat\"/ \"}\""}}),
    ];
    for fields in fields {
        for (path, prompt) in [
            (CHAT, json!({"messages": [{"role": "user", "content": "Hi"}]})),
            (COMPLETIONS, json!({"prompt": "Hi"})),
        ] {
            let mut request = json!({"max_tokens": 80, "temperature": 0});
            for more in [&prompt, &fields] {
                request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            }
            let (status, body) = ask(&gateway, path, &request).await;
            assert_eq!(status, 200, "{body}");
            let choice = &body["choices"][0];
            let text = if path == CHAT { &choice["message"]["content"] } else { &choice["text"] };
            let value: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
            assert!([json!({"kind": "cat"}), json!({"kind": "dog"})].contains(&value), "{fields}: {text}");
            assert_eq!(choice["finish_reason"], "stop");
        }
    }
}

#[tokio::test]
async fn any_object_will_do_where_no_schema_is_given() {
    let gateway = Gateway::tiny().await;
    for format in
        [json!({"type": "json_object"}), json!({"type": "json_schema", "json_schema": {"name": "any"}})]
    {
        // A small bias for the brace that ends it: tiny models do not come to an end by themselves.
        let request = json!({"prompt": "Hi", "max_tokens": 60, "temperature": 0, "response_format": format, "logit_bias": {"125": 100}});
        let (status, body) = ask(&gateway, COMPLETIONS, &request).await;
        assert_eq!((status, &body["choices"][0]["text"]), (200, &json!("{}")), "{body}");
    }
}
