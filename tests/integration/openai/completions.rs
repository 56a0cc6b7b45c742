//! `POST /v1/completions`

use serde_json::{Value, json};

use super::{COMPLETIONS, ask, continuation, send, stream};
use crate::harness::{Gateway, tiny};

#[tokio::test]
async fn a_completion_has_the_shape_of_the_dialect() {
    let gateway = Gateway::tiny().await;
    let text = continuation(&gateway, "Hello", 6).await;
    let request =
        json!({"model": "tiny", "prompt": "Hello", "max_tokens": 6, "temperature": 0, "ignore_eos": true});
    let response = send(&gateway, COMPLETIONS, &request).await;
    assert_eq!(response.headers()["x-model-revision"].len(), 10);
    assert_eq!(response.headers()["x-request-id"], "r-1");
    let (status, body) = ask(&gateway, COMPLETIONS, &request).await;
    assert_eq!(status, 200);
    assert_eq!(
        body,
        json!({
            "id": "cmpl-r-1", "object": "text_completion", "created": "now", "model": "tiny",
            "system_fingerprint": "fp",
            "choices": [{"text": text, "index": 0, "logprobs": null, "finish_reason": "length"}],
            "usage": {
                "prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11,
                "prompt_tokens_details": {"cached_tokens": 0}
            }
        })
    );
}

#[tokio::test]
async fn a_stream_has_a_chunk_for_each_piece_the_usage_if_asked_for_and_an_end() {
    let gateway = Gateway::tiny().await;
    // A bias makes every token a character of its own.
    let mut request = json!({
        "model": "tiny", "prompt": "Hello", "max_tokens": 3, "temperature": 0, "logit_bias": {"97": 100}, "stream": true,
    });
    let chunk = |text: &str, finish_reason: Value| {
        json!({
            "id": "cmpl-r-1", "object": "text_completion", "created": "now", "model": "tiny",
            "system_fingerprint": "fp",
            "choices": [{"text": text, "index": 0, "logprobs": null, "finish_reason": finish_reason}],
        })
    };
    let mut expected = vec![chunk("a", Value::Null); 3];
    expected.extend([chunk("", json!("length")), json!("[DONE]")]);
    assert_eq!(stream(&gateway, COMPLETIONS, &request).await, expected);

    request["stream_options"] = json!({"include_usage": true});
    let last = expected.len() - 1;
    expected[..last].iter_mut().for_each(|chunk| chunk["usage"] = Value::Null);
    let mut usage = expected[0].clone();
    usage["choices"] = json!([]);
    usage["usage"] = json!({
        "prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 0}
    });
    expected.insert(last, usage);
    assert_eq!(stream(&gateway, COMPLETIONS, &request).await, expected);
}

#[tokio::test]
async fn prompts_are_texts_or_token_ids_or_lists_of_them() {
    let gateway = Gateway::tiny().await;
    let (hello, abc) = (continuation(&gateway, "Hello", 4).await, continuation(&gateway, "abc", 4).await);
    let ids = |text: &str| text.bytes().collect::<Vec<u8>>();
    for (prompt, expected, prompt_tokens) in [
        (json!("abc"), vec![&abc], 3),
        (json!(["abc"]), vec![&abc], 3),
        (json!(["Hello", "abc"]), vec![&hello, &abc], 8),
        (json!(ids("abc")), vec![&abc], 3),
        (json!([ids("abc"), ids("Hello")]), vec![&abc, &hello], 8),
    ] {
        let request = json!({"prompt": prompt, "max_tokens": 4, "temperature": 0, "ignore_eos": true});
        let (status, body) = ask(&gateway, COMPLETIONS, &request).await;
        assert_eq!(status, 200, "{body}");
        let choices = body["choices"].as_array().unwrap();
        let texts: Vec<&str> = choices.iter().map(|choice| choice["text"].as_str().unwrap()).collect();
        assert_eq!(texts, expected, "{prompt}");
        assert!(choices.iter().zip(0..).all(|(choice, index)| choice["index"] == index));
        assert_eq!(body["usage"]["prompt_tokens"], prompt_tokens);
        assert_eq!(body["usage"]["completion_tokens"], 4 * expected.len());
    }
}

#[tokio::test]
async fn choices_have_seeds_of_their_own_of_which_the_first_is_the_given_one() {
    let gateway = Gateway::tiny().await;
    let request = |n: usize, seed: Value| json!({"prompt": ["abc", "Hello"], "n": n, "best_of": n, "seed": seed, "max_tokens": 20, "temperature": 1.2});
    let (_, three) = ask(&gateway, COMPLETIONS, &request(3, json!(7))).await;
    let (_, again) = ask(&gateway, COMPLETIONS, &request(3, json!(7))).await;
    assert_eq!(three, again);
    let (_, one) = ask(&gateway, COMPLETIONS, &request(1, json!(7))).await;
    let texts: Vec<&Value> = (0..6).map(|index| &three["choices"][index]["text"]).collect();
    assert_eq!([texts[0], texts[3]], [&one["choices"][0]["text"], &one["choices"][1]["text"]]);
    assert!(texts[0] != texts[1] && texts[1] != texts[2] && texts[0] != texts[2], "{three}");
    assert_eq!(three["usage"]["prompt_tokens"], 8, "a prompt counts once");
    let (status, body) = ask(&gateway, COMPLETIONS, &request(1, json!(-7))).await;
    assert_eq!(status, 200, "{body}");
    let (_, other) = ask(&gateway, COMPLETIONS, &request(1, Value::Null)).await;
    assert_ne!(one["choices"], other["choices"], "a seed is made when none is given");
}

#[tokio::test]
async fn chunks_of_several_choices_say_to_which_they_belong() {
    let gateway = Gateway::tiny().await;
    let mut request = json!({"prompt": ["abc", "Hello"], "n": 2, "seed": 5, "max_tokens": 20, "echo": true});
    let (_, whole) = ask(&gateway, COMPLETIONS, &request).await;
    request["stream"] = json!(true);
    let chunks = stream(&gateway, COMPLETIONS, &request).await;
    let mut texts = [const { String::new() }; 4];
    let mut reasons = [const { Value::Null }; 4];
    for chunk in &chunks[..chunks.len() - 1] {
        let choice = &chunk["choices"][0];
        let index = choice["index"].as_u64().unwrap() as usize;
        assert!(reasons[index].is_null(), "nothing comes after the end of a choice");
        texts[index].push_str(choice["text"].as_str().unwrap());
        reasons[index] = choice["finish_reason"].clone();
    }
    for (choice, (text, reason)) in whole["choices"].as_array().unwrap().iter().zip(texts.iter().zip(reasons))
    {
        assert_eq!((choice["text"].as_str().unwrap(), &choice["finish_reason"]), (text.as_str(), &reason));
        assert!(text.starts_with("abc") || text.starts_with("Hello"), "the prompt is told first");
    }
}

#[tokio::test]
async fn a_stop_text_ends_the_completion_and_an_echo_begins_it() {
    let gateway = Gateway::tiny().await;
    let text = continuation(&gateway, "abc", 20).await;
    let stop: String = text.chars().skip(8).take(2).collect();
    let request =
        json!({"prompt": [[97, 98, 99]], "echo": true, "stop": stop, "max_tokens": 20, "temperature": 0});
    let (_, body) = ask(&gateway, COMPLETIONS, &request).await;
    let before = &text[..text.find(&stop).unwrap()];
    assert_eq!(body["choices"][0]["text"], format!("abc{before}"));
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn sixteen_tokens_are_generated_when_nothing_is_said_and_fewer_when_the_context_ends() {
    let gateway = Gateway::tiny().await;
    for (prompt, tokens) in [("abc".to_owned(), 16), ("a".repeat(250), 6)] {
        let (_, body) = ask(&gateway, COMPLETIONS, &json!({"prompt": prompt, "ignore_eos": true})).await;
        assert_eq!(body["usage"]["completion_tokens"], tokens);
    }
}

#[tokio::test]
async fn log_probabilities_have_the_shape_of_the_dialect_and_the_numbers_of_the_native_api() {
    let gateway = Gateway::tiny().await;
    let native = json!({"text": "abc", "max_tokens": 3, "temperature": 0, "logprobs": 2, "ignore_eos": true});
    let (_, native) = gateway.infer(&native).await;
    let mut request =
        json!({"prompt": "abc", "max_tokens": 3, "temperature": 0, "logprobs": 2, "ignore_eos": true});
    let (_, body) = ask(&gateway, COMPLETIONS, &request).await;
    let entries = native["logprobs"].as_array().unwrap();
    let column = |key: &str| entries.iter().map(|entry| entry[key].clone()).collect::<Vec<Value>>();
    // Of tokens with the same text the most likely one is told.
    let top = |entry: &Value| {
        let tokens = entry["top_tokens"].as_array().unwrap().iter().rev();
        let pairs =
            tokens.map(|token| (token["text"].as_str().unwrap().to_owned(), token["logprob"].clone()));
        Value::Object(pairs.collect())
    };
    let expected = json!({
        "tokens": column("text"), "token_logprobs": column("logprob"),
        "top_logprobs": entries.iter().map(top).collect::<Vec<Value>>(), "text_offset": [0, 1, 2],
    });
    assert_eq!(body["choices"][0]["logprobs"], expected);

    // A picked token that is not among the most likely ones is told as well.
    let last = entries[0]["top_tokens"][1].clone();
    let forced = json!({last["id"].to_string(): 100});
    let request_forced =
        json!({"prompt": "abc", "max_tokens": 1, "temperature": 0, "logprobs": 0, "logit_bias": forced});
    let (_, body) = ask(&gateway, COMPLETIONS, &request_forced).await;
    let alone = json!([{last["text"].as_str().unwrap(): last["logprob"]}]);
    assert_eq!(body["choices"][0]["logprobs"]["top_logprobs"], alone);

    request["stream"] = json!(true);
    let mut streamed = json!({"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []});
    for chunk in stream(&gateway, COMPLETIONS, &request).await {
        for (key, list) in streamed.as_object_mut().unwrap() {
            let more = chunk["choices"][0]["logprobs"][key].as_array().cloned().unwrap_or_default();
            list.as_array_mut().unwrap().extend(more);
        }
    }
    assert_eq!(streamed, expected);
}

#[tokio::test]
async fn tokens_of_a_kept_beginning_are_told_also_when_a_stop_text_ends_the_text() {
    let gateway = Gateway::serving(&tiny("llama"), &["--prefill-chunk-tokens=16"]).await;
    let prompt = "abcdefgh".repeat(5);
    let text = continuation(&gateway, &prompt, 8).await;
    let mut request =
        json!({"prompt": prompt, "max_tokens": 8, "temperature": 0, "ignore_eos": true, "n": 3});
    let (_, body) = ask(&gateway, COMPLETIONS, &request).await;
    assert_eq!(body["usage"]["prompt_tokens_details"]["cached_tokens"], 32);
    assert_eq!(body["usage"]["prompt_tokens"], 40);
    request["stop"] = json!(text.chars().skip(2).take(2).collect::<String>());
    let (_, body) = ask(&gateway, COMPLETIONS, &request).await;
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert_eq!(body["usage"]["prompt_tokens_details"]["cached_tokens"], 32);
}
