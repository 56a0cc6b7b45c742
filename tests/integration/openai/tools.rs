//! `tools`, `tool_choice`, and messages with calls and their results.

use serde_json::{Value, json};

use super::{CHAT, ask, continuation, stream};
use crate::harness::{Gateway, ModelsList, entry, tiny};

/// A template as many models have it, in fewer words.
const MARKED: &str = "{% if tools %}{% for t in tools %}{{ t.function.name }};{% endfor %}{% endif %}\
    {% for m in messages %}[{{ m.role }}]{{ m.content }}{% for c in m.tool_calls or [] %}<call>{\"name\": \"{{ c.function.name }}\", \
    \"arguments\": {{ c.function.arguments | tojson }}}</call>{% endfor %}{{ m.tool_call_id }}\n{% endfor %}\
    {% if add_generation_prompt %}[assistant]{% endif %}";
/// One that leaves out what it does not know.
const TWO_ROLES: &str = "{% for m in messages %}{% if m.role == 'user' %}U{{ m.content }}{% elif m.role == 'assistant' %}\
    A{{ m.content }}{% endif %}{% endfor %}";

/// The list is read as long as the gateway runs.
async fn with_template(template: &str) -> (Gateway, Option<ModelsList>) {
    let fields = format!("runtime: {{chatTemplate: {}}}", Value::from(template));
    let list = ModelsList::new(&entry("tiny", &tiny("llama"), &fields));
    let gateway = list.gateway(&[]).await;
    gateway.wait_ready().await;
    (gateway, Some(list))
}

fn tool(name: &str, kinds: &[&str]) -> Value {
    let parameters = json!({
        "type": "object", "properties": {"kind": {"$ref": "#/$defs/kind"}}, "required": ["kind"],
        "additionalProperties": false, "$defs": {"kind": {"enum": kinds}},
    });
    json!({"type": "function", "function": {"name": name, "description": "d", "parameters": parameters}})
}

fn asking(choice: &Value) -> Value {
    json!({
        "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 120, "temperature": 0,
        "tools": [tool("pick", &["cat", "dog"]), tool("drop", &["all"])], "tool_choice": choice,
    })
}

/// The calls of a message, without their ids, which are new each time.
fn calls(message: &mut Value) -> Vec<(String, Value)> {
    let calls = message["tool_calls"].as_array().unwrap_or_else(|| panic!("no calls: {message}"));
    let mut all = Vec::new();
    for call in calls {
        let id = call["id"].as_str().unwrap();
        assert!(id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id}");
        assert_eq!(call["type"], "function");
        let arguments = call["function"]["arguments"].as_str().unwrap();
        let name = call["function"]["name"].as_str().unwrap().to_owned();
        all.push((name, serde_json::from_str(arguments).unwrap()));
    }
    all
}

#[tokio::test]
async fn a_forced_call_holds_to_its_schema_whether_the_template_knows_tools_or_not() {
    for (gateway, _list) in [with_template(MARKED).await, (Gateway::tiny().await, None)] {
        let named = json!({"type": "function", "function": {"name": "drop"}});
        let (status, mut body) = ask(&gateway, CHAT, &asking(&named)).await;
        assert_eq!(status, 200, "{body}");
        let choice = &mut body["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls");
        assert_eq!(
            (&choice["message"]["content"], &choice["message"]["refusal"]),
            (&Value::Null, &Value::Null)
        );
        assert_eq!(calls(&mut choice["message"]), [("drop".to_owned(), json!({"kind": "all"}))]);

        let mut request = asking(&json!("required"));
        request["parallel_tool_calls"] = json!(false);
        request["n"] = json!(4);
        request["temperature"] = json!(2);
        request["seed"] = json!(1);
        let (status, mut body) = ask(&gateway, CHAT, &request).await;
        assert_eq!(status, 200, "{body}");
        for choice in body["choices"].as_array_mut().unwrap() {
            assert_eq!(choice["finish_reason"], "tool_calls");
            let calls = calls(&mut choice["message"]);
            let [(name, arguments)] = calls.as_slice() else { panic!("one call: {calls:?}") };
            let kinds = if name == "pick" { vec!["cat", "dog"] } else { vec!["all"] };
            assert!(kinds.iter().any(|kind| *arguments == json!({"kind": kind})), "{name} {arguments}");
        }
    }
}

#[tokio::test]
async fn a_stream_of_a_call_tells_its_name_and_then_its_arguments() {
    let (gateway, _list) = with_template(MARKED).await;
    let mut request = asking(&json!({"type": "function", "function": {"name": "drop"}}));
    request["stream"] = json!(true);
    request["logprobs"] = json!(true);
    let mut chunks = stream(&gateway, CHAT, &request).await;
    assert_eq!(chunks.pop(), Some(json!("[DONE]")));
    let mut choices: Vec<Value> = chunks.into_iter().map(|mut chunk| chunk["choices"][0].take()).collect();
    let last = choices.pop().unwrap();
    assert_eq!((&last["delta"], &last["finish_reason"]), (&json!({}), &json!("tool_calls")));
    assert_eq!(choices[0]["delta"], json!({"role": "assistant", "content": null}));
    let mut head = choices[1]["delta"]["tool_calls"][0].take();
    assert_eq!(head["id"].take().as_str().unwrap().len(), 9);
    let function = json!({"name": "drop", "arguments": ""});
    assert_eq!(head, json!({"index": 0, "id": null, "type": "function", "function": function}));
    let mut arguments = String::new();
    for choice in &choices[2..] {
        let call = &choice["delta"]["tool_calls"][0];
        assert_eq!((&call["index"], call.get("id"), choice["delta"].get("content")), (&json!(0), None, None));
        arguments.push_str(call["function"]["arguments"].as_str().unwrap());
    }
    assert!(choices.len() > 4, "pieces come as they are made");
    assert_eq!(serde_json::from_str::<Value>(&arguments).unwrap(), json!({"kind": "all"}));
    let tokens = choices.iter().chain([&last]).filter_map(|choice| choice["logprobs"]["content"].as_array());
    let text: String = tokens.flatten().map(|token| token["token"].as_str().unwrap()).collect();
    assert!(text.starts_with("<call>{") && text.ends_with("}</call>") && text.contains(&arguments), "{text}");
}

#[tokio::test]
async fn a_call_that_is_cut_off_says_so() {
    let gateway = Gateway::tiny().await;
    let mut request = asking(&json!({"type": "function", "function": {"name": "drop"}}));
    request["max_tokens"] = json!(38);
    let (status, body) = ask(&gateway, CHAT, &request).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["choices"][0]["finish_reason"], "length");
    let call = &body["choices"][0]["message"]["tool_calls"][0]["function"];
    assert_eq!(call["name"], "drop");
    let arguments = call["arguments"].as_str().unwrap();
    assert!(arguments.starts_with('{') && !arguments.ends_with('}'), "{arguments}");
}

#[tokio::test]
async fn tools_calls_and_results_reach_the_template() {
    let (gateway, _list) = with_template(MARKED).await;
    let call = json!({"id": "c1", "type": "function", "function": {"name": "pick", "arguments": "{\"kind\": \"cat\"}"}});
    let mut request = asking(&json!("auto"));
    request["messages"] = json!([
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "ok"}]},
    ]);
    request["max_tokens"] = json!(6);
    request["ignore_eos"] = json!(true);
    let prompt = "pick;drop;[user]Hi\n[assistant]<call>{\"name\": \"pick\", \"arguments\": {\"kind\": \"cat\"}}</call>\n\
        [tool]okc1\n[assistant]";
    let expected = continuation(&gateway, prompt, 6).await;
    let (status, body) = ask(&gateway, CHAT, &request).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["choices"][0]["message"]["content"], expected);
    assert_eq!(body["choices"][0]["message"].get("tool_calls"), None);
    assert_eq!(body["choices"][0]["finish_reason"], "length");

    // With `none` there are no tools.
    request["tool_choice"] = json!("none");
    let expected = continuation(&gateway, prompt.strip_prefix("pick;drop;").unwrap(), 6).await;
    let (_, body) = ask(&gateway, CHAT, &request).await;
    assert_eq!(body["choices"][0]["message"]["content"], expected);
}

#[tokio::test]
async fn calls_reach_a_template_that_knows_none_as_the_model_wrote_them() {
    let gateway = Gateway::tiny().await;
    let call =
        json!({"id": "c1", "type": "function", "function": {"name": "pick", "arguments": "{\"a\":1}"}});
    let request = json!({
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "So:", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "ok"},
        ],
        "max_tokens": 6, "temperature": 0, "ignore_eos": true,
    });
    let prompt = "<|bos|>user\nHi<|eos|>\n<|bos|>assistant\nSo:\n{\"name\": \"pick\", \"arguments\": {\"a\":1}}<|eos|>\n\
        <|bos|>tool\nok<|eos|>\n<|bos|>assistant\n";
    let expected = continuation(&gateway, prompt, 6).await;
    let (status, body) = ask(&gateway, CHAT, &request).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["choices"][0]["message"]["content"], expected);
}

#[tokio::test]
async fn what_cannot_be_done_with_tools_is_refused_by_name() {
    let (gateway, _list) = with_template(TWO_ROLES).await;
    let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let messages = |more: Value| json!([{"role": "user", "content": "Hi"}, more]);
    for (fields, param, code) in [
        (json!({"tool_choice": "auto"}), "tools", "unsupported_parameter"),
        (json!({"tool_choice": "sometimes"}), "tool_choice", "invalid_value"),
        (json!({"tool_choice": {"type": "custom"}}), "tool_choice.type", "unsupported_parameter"),
        (
            json!({"tool_choice": {"type": "function", "function": {"name": "x"}}}),
            "tool_choice.function.name",
            "invalid_value",
        ),
        (
            json!({"tool_choice": {"type": "function", "function": {"name": "pick"}, "mode": "auto"}}),
            "tool_choice.mode",
            "unknown_parameter",
        ),
        (
            json!({
                "tools": [tool("a", &["x"]), {"type": "function", "function": {"name": "b", "parameters": {"not": {}}}}],
                "tool_choice": {"type": "function", "function": {"name": "b"}},
            }),
            "tools[1].function.parameters",
            "invalid_value",
        ),
        (json!({"tools": [{"type": "custom"}]}), "tools[0].type", "unsupported_parameter"),
        (json!({"tools": [tool("a b", &["x"])]}), "tools[0].function.name", "invalid_value"),
        (json!({"tools": [tool("a", &["x"]), tool("a", &["x"])]}), "tools[1].function.name", "invalid_value"),
        (
            json!({"tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "array"}}}]}),
            "tools[0].function.parameters.type",
            "invalid_value",
        ),
        (
            json!({"tools": [{"type": "function", "function": {"name": "a", "parameters": {"not": {}}}}]}),
            "tools[0].function.parameters",
            "invalid_value",
        ),
        (json!({"response_format": {"type": "json_object"}}), "response_format", "unsupported_parameter"),
        (
            json!({"messages": messages(json!({"role": "tool", "tool_call_id": "c", "content": "x"}))}),
            "messages[1].role",
            "unsupported_parameter",
        ),
        (
            json!({"messages": messages(json!({"role": "tool", "content": "x"}))}),
            "messages[1].tool_call_id",
            "invalid_value",
        ),
        (
            json!({"messages": messages(json!({"role": "user", "content": "x", "tool_calls": [call]}))}),
            "messages[1].tool_calls",
            "invalid_value",
        ),
        (
            json!({"messages": messages(json!({"role": "assistant", "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{"}}]}))}),
            "messages[1].tool_calls[0].function.arguments",
            "invalid_value",
        ),
    ] {
        let mut request = asking(&json!("required"));
        request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let (status, body) = ask(&gateway, CHAT, &request).await;
        let error = &body["error"];
        assert_eq!(
            (status, &error["param"], &error["code"]),
            (400, &json!(param), &json!(code)),
            "{fields}: {body}"
        );
    }
    let (gateway, _list) = with_template(MARKED).await;
    let mut request = asking(&json!("auto"));
    request["messages"] = messages(json!({"role": "tool", "tool_call_id": "c", "content": "x"}));
    let (_, body) = ask(&gateway, CHAT, &request).await;
    assert_eq!(body["error"]["param"], "messages[1].tool_call_id");
    let mut request = asking(&json!("auto"));
    request["tools"][1]["function"]["strict"] = json!(true);
    let (_, body) = ask(&gateway, CHAT, &request).await;
    assert_eq!(body["error"]["param"], "tools[1].function.strict");
}
