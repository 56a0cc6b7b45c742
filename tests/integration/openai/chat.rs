//! `POST /v1/chat/completions`

use serde_json::{Value, json};

use super::{CHAT, ask, continuation, stream, templated};
use crate::harness::{Gateway, ModelsList, entry, prepared, tiny};

fn user(content: &str) -> Value {
    json!([{"role": "user", "content": content}])
}

#[tokio::test]
async fn a_chat_has_the_shape_of_the_dialect_and_is_rendered_by_the_models_template() {
    let gateway = Gateway::tiny().await;
    let text = continuation(&gateway, &templated("Hi"), 6).await;
    let request = json!({"model": "tiny", "messages": user("Hi"), "max_completion_tokens": 6, "temperature": 0, "ignore_eos": true});
    let (status, body) = ask(&gateway, CHAT, &request).await;
    assert_eq!(status, 200);
    assert_eq!(
        body,
        json!({
            "id": "chatcmpl-r-1", "object": "chat.completion", "created": "now", "model": "tiny",
            "system_fingerprint": "fp",
            "choices": [{
                "index": 0, "message": {"role": "assistant", "content": text, "refusal": null},
                "logprobs": null, "finish_reason": "length"
            }],
            "usage": {
                "prompt_tokens": 21, "completion_tokens": 6, "total_tokens": 27,
                "prompt_tokens_details": {"cached_tokens": 0}
            }
        })
    );
}

#[tokio::test]
async fn a_stream_begins_with_the_role_and_ends_with_the_reason_and_the_usage_if_asked_for() {
    let gateway = Gateway::tiny().await;
    // A bias makes every token a character of its own.
    let mut request = json!({
        "messages": user("Hi"), "max_tokens": 3, "temperature": 0, "logit_bias": {"97": 100}, "stream": true,
    });
    let chunk = |delta: Value, finish_reason: Value| {
        json!({
            "id": "chatcmpl-r-1", "object": "chat.completion.chunk", "created": "now", "model": "tiny",
            "system_fingerprint": "fp",
            "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason}],
        })
    };
    let mut expected = vec![chunk(json!({"role": "assistant", "content": ""}), Value::Null)];
    expected.extend(["a"; 3].map(|piece| chunk(json!({"content": piece}), Value::Null)));
    expected.extend([chunk(json!({}), json!("length")), json!("[DONE]")]);
    assert_eq!(stream(&gateway, CHAT, &request).await, expected);

    request["stream_options"] = json!({"include_usage": true, "include_obfuscation": false});
    let last = expected.len() - 1;
    expected[..last].iter_mut().for_each(|chunk| chunk["usage"] = Value::Null);
    let mut usage = expected[0].clone();
    usage["choices"] = json!([]);
    usage["usage"] = json!({
        "prompt_tokens": 21, "completion_tokens": 3, "total_tokens": 24,
        "prompt_tokens_details": {"cached_tokens": 0}
    });
    expected.insert(last, usage);
    assert_eq!(stream(&gateway, CHAT, &request).await, expected);
}

#[tokio::test]
async fn messages_reach_the_template_as_texts() {
    let gateway = Gateway::tiny().await;
    let prompt = "<|bos|>system\nBe brief.<|eos|>\n<|bos|>user\nHi\nthere<|eos|>\n<|bos|>assistant\nYes?<|eos|>\n\
        <|bos|>user\nGo on<|eos|>\n<|bos|>assistant\n";
    let expected = continuation(&gateway, prompt, 8).await;
    let messages = json!([
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "there"}], "name": "Ann"},
        {"role": "assistant", "content": "Yes?", "refusal": null, "tool_calls": null, "function_call": null,
            "audio": null, "annotations": null},
        {"role": "user", "content": "Go on"},
    ]);
    let request = json!({
        "messages": messages, "max_tokens": 8, "temperature": 0, "ignore_eos": true,
        // Fields that change nothing.
        "user": "u", "safety_identifier": "s", "prompt_cache_key": "k", "metadata": {"a": "b"}, "store": false,
        "service_tier": "auto", "modalities": ["text"], "response_format": {"type": "text"}, "tools": null,
        "n": 1, "stream": false, "logprobs": false, "top_logprobs": 0, "top_k": -1,
    });
    let (status, body) = ask(&gateway, CHAT, &request).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["choices"][0]["message"]["content"], expected);
    assert_eq!(body["usage"]["prompt_tokens"], prompt.replace("<|bos|>", "1").replace("<|eos|>", "2").len());
}

#[tokio::test]
async fn templates_of_the_settings_take_variables_of_the_request() {
    let template = "{% for message in messages %}{{ message.content }}{% endfor %}\
        {% if shout %}!{{ shout }}{% endif %}{% if add_generation_prompt %}>{% endif %}";
    let fields = format!("runtime: {{chatTemplate: '{template}'}}");
    let list = ModelsList::new(&entry("tiny", &tiny("llama"), &fields));
    let gateway = list.gateway(&[]).await;
    gateway.wait_ready().await;
    for (more, prompt) in [
        (json!({}), "Hi>"),
        (json!({"chat_template_kwargs": {"shout": "loud"}}), "Hi!loud>"),
        (json!({"add_generation_prompt": false}), "Hi"),
    ] {
        let mut request =
            json!({"messages": user("Hi"), "max_tokens": 6, "temperature": 0, "ignore_eos": true});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, body) = ask(&gateway, CHAT, &request).await;
        assert_eq!(status, 200, "{body}");
        let expected = continuation(&gateway, prompt, 6).await;
        assert_eq!(body["choices"][0]["message"]["content"], expected, "{more}");
    }
}

#[tokio::test]
async fn a_template_refuses_with_its_own_words_and_a_model_without_one_says_so() {
    let template = "{{ raise_exception(messages[0].content) if messages | length > 1 }}x";
    let fields = format!("runtime: {{chatTemplate: '{template}'}}");
    let bare = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(tiny("llama")).unwrap().map(|file| file.unwrap()) {
        if file.file_name() != "tokenizer_config.json" {
            std::fs::copy(file.path(), bare.path().join(file.file_name())).unwrap();
        }
    }
    let bare = bare.path().display().to_string();
    let list = ModelsList::new(&(entry("refuses", &tiny("llama"), &fields) + &entry("bare", &bare, "")));
    let gateway = list.gateway(&[]).await;
    gateway.wait_ready().await;
    let two = json!([{"role": "user", "content": "roles must alternate"}, {"role": "user", "content": "b"}]);
    let (status, body) = ask(&gateway, CHAT, &json!({"model": "refuses", "messages": two})).await;
    let expected = json!({"error": {
        "message": "the chat template refuses the conversation: roles must alternate",
        "type": "invalid_request_error", "param": "messages", "code": "invalid_value"
    }});
    assert_eq!((status, body), (400, expected));
    let (status, body) = ask(&gateway, CHAT, &json!({"model": "bare", "messages": user("Hi")})).await;
    let expected = json!({"error": {
        "message": "the model answers no chats: its files have no chat template",
        "type": "invalid_request_error", "param": "model", "code": "no_chat_template"
    }});
    assert_eq!((status, body), (400, expected));
}

#[tokio::test]
async fn log_probabilities_have_the_shape_of_the_dialect_and_the_numbers_of_the_native_api() {
    let gateway = Gateway::tiny().await;
    let native = json!({"text": templated("Hi"), "max_tokens": 4, "temperature": 0, "logprobs": 3, "ignore_eos": true});
    let (_, native) = gateway.infer(&native).await;
    let entry = |token: &Value| {
        let text = token["text"].as_str().unwrap();
        let bytes = (!text.contains('\u{fffd}')).then(|| text.as_bytes().to_vec());
        json!({"token": text, "logprob": token["logprob"], "bytes": bytes})
    };
    let content = native["logprobs"].as_array().unwrap().iter().map(|token| {
        let mut told = entry(token);
        told["top_logprobs"] = token["top_tokens"].as_array().unwrap().iter().map(entry).collect();
        told
    });
    let content: Vec<Value> = content.collect();
    let mut request = json!({
        "messages": user("Hi"), "max_tokens": 4, "temperature": 0, "ignore_eos": true,
        "logprobs": true, "top_logprobs": 3, "n": 2,
    });
    let (_, body) = ask(&gateway, CHAT, &request).await;
    for choice in body["choices"].as_array().unwrap() {
        assert_eq!(choice["logprobs"], json!({"content": content, "refusal": null}));
    }
    request["stream"] = json!(true);
    let mut streamed = [Vec::new(), Vec::new()];
    for chunk in stream(&gateway, CHAT, &request).await {
        let choice = &chunk["choices"][0];
        if let Some(more) = choice["logprobs"]["content"].as_array() {
            streamed[choice["index"].as_u64().unwrap() as usize].extend(more.clone());
        }
    }
    assert_eq!(streamed, [content.clone(), content]);
    request["top_logprobs"] = Value::Null;
    request["stream"] = json!(false);
    let (_, body) = ask(&gateway, CHAT, &request).await;
    assert_eq!(body["choices"][0]["logprobs"]["content"][0]["top_logprobs"], json!([]));
}

#[tokio::test]
async fn a_chat_goes_on_to_its_end_or_that_of_the_context_when_nothing_is_said() {
    let gateway = Gateway::tiny().await;
    let request = json!({"messages": user("Hi"), "temperature": 0, "ignore_eos": true});
    let (_, body) = ask(&gateway, CHAT, &request).await;
    assert_eq!(body["usage"]["total_tokens"], 256, "the context");
    let gateway = Gateway::serving(&tiny("llama"), &["--cache-memory=40960"]).await;
    let (status, body) = ask(&gateway, CHAT, &request).await;
    let total = body["usage"]["total_tokens"].as_u64().unwrap();
    assert!(status == 200 && (22..256).contains(&total), "what the memory for caches allows: {body}");
}

#[tokio::test]
async fn a_real_model_answers_a_question() {
    let model = prepared("models/smollm2-135m-instruct-w8a8").display().to_string();
    let gateway = Gateway::serving(&model, &["--context-length=256", "--max-batch-size=2"]).await;
    let messages = user("What is the capital of France? Answer with one word.");
    let request = json!({"messages": messages, "temperature": 0, "max_tokens": 24});
    let (status, body) = ask(&gateway, CHAT, &request).await;
    let choice = &body["choices"][0];
    assert!(status == 200 && choice["message"]["content"].as_str().unwrap().contains("Paris"), "{body}");
    assert_eq!(choice["finish_reason"], "stop");
    // The system message that this model's template adds when there is none.
    assert!(body["usage"]["prompt_tokens"].as_u64().unwrap() > 30, "{body}");
}
