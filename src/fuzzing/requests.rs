//! Bodies of all dialects: what is refused is refused in the dialect's own shape, with the place; what is taken is within the
//! bounds that are documented.
//!
//! The bounds are written down here anew, from the documents and not from the constants that are checked.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use serde_json::Value;

use super::model::model;
use crate::engine::Sampling;
use crate::generate::{Input, MaxTokens, Prompt};
use crate::http::fuzzing::{Refused, Route};

const MOST_CHOICES: usize = 64;
const MOST_STOP_TEXTS: usize = 16;
const LONGEST_STOP_BYTES: usize = 1024;
const MOST_STOP_TOKENS: usize = 64;
const MOST_BIASES: usize = 1024;
const MOST_ALTERNATIVES: usize = 20;
const MOST_PROMPTS: usize = 64;

/// Bodies of `POST /api/v1/inference`.
pub(super) fn native(body: &[u8]) {
    match Route::Native.inputs(body, model()) {
        Ok(inputs) => holds(body, &inputs, MOST_PROMPTS),
        Err(refused) => {
            let error = object(&refused, &["code", "field", "message", "request_id"], Some("error"));
            assert_eq!(error["field"].as_str(), refused.field.as_deref());
            assert!([400, 422].contains(&refused.status), "{refused:?}");
        }
    }
}

/// Bodies of `POST /v1/chat/completions`; what is taken is put through the chat template as well.
pub(super) fn chat(body: &[u8]) {
    let inputs = openai(Route::Chat, body);
    for input in inputs.iter().flatten() {
        let Prompt::Chat(messages) = &input.prompt else { unreachable!("a chat is a chat") };
        assert!(!messages.messages.is_empty());
        let chat = model().chat.as_ref().expect("the model has a template");
        // Refused or not, but told: what a template makes of it is the template's business.
        drop(chat.prompt(messages));
    }
}

/// Bodies of `POST /v1/completions`.
pub(super) fn completions(body: &[u8]) {
    openai(Route::Completions, body);
}

fn openai(route: Route, body: &[u8]) -> Option<Vec<Input>> {
    match route.inputs(body, model()) {
        Ok(inputs) => {
            holds(body, &inputs, usize::MAX);
            Some(inputs)
        }
        Err(refused) => {
            let error = object(&refused, &["code", "message", "param", "type"], Some("error"));
            assert_eq!(error["param"].as_str(), refused.field.as_deref());
            assert_eq!((refused.status, &error["type"]), (400, &Value::from("invalid_request_error")));
            None
        }
    }
}

/// Bodies of `POST /v2/models/{name}/generate` and `/generate_stream`.
pub(super) fn open_inference(body: &[u8]) {
    for is_stream in [false, true] {
        match (Route::OpenInference { is_stream }).inputs(body, model()) {
            Ok(inputs) => holds(body, &inputs, 1),
            Err(refused) => {
                object(&refused, &["error"], None);
                assert_eq!(refused.status, 422);
            }
        }
    }
}

/// Bodies of `POST /` of Text Generation Inference, whose other paths take less.
pub(super) fn tgi(body: &[u8]) {
    match Route::Tgi.inputs(body, model()) {
        Ok(inputs) => holds(body, &inputs, 1),
        Err(refused) => {
            let error = object(&refused, &["error", "error_type"], None);
            assert_eq!((refused.status, &error["error_type"]), (422, &Value::from("validation")));
        }
    }
}

/// The object of an error that has these fields and no others, below `within` if it has a place of its own. It says where.
fn object(refused: &Refused, fields: &[&str], within: Option<&str>) -> Value {
    let mut body: Value = serde_json::from_slice(&refused.body).expect("an error is JSON");
    if let Some(within) = within {
        assert_eq!(body.as_object().map(serde_json::Map::len), Some(1));
        body = body[within].take();
    }
    let mut found: Vec<&str> =
        body.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    found.sort_unstable();
    assert_eq!(found, fields);
    let text = if within.is_some() { &body["message"] } else { &body["error"] };
    let text = text.as_str().expect("an error has a text");
    let Refused { field, message, .. } = refused;
    assert!(text.contains(message.as_str()) && message.len() > 10, "{refused:?}");
    assert!(field.is_some() || message.contains(" at line "), "neither field nor place: {refused:?}");
    body
}

/// Whether everything that would be generated is within its bounds, and the body an object.
fn holds(body: &[u8], inputs: &[Input], most_prompts: usize) {
    assert!(body.trim_ascii_start().starts_with(b"{"), "something else is taken for a request");
    assert!((1..=most_prompts).contains(&inputs.len()));
    let vocabulary_size = model().engine.geometry().vocabulary_size;
    for input in inputs {
        let Input {
            prompt,
            choices,
            sampling,
            max_tokens,
            timeout,
            stop,
            include_stop: _,
            stop_tokens,
            logprobs,
            ignore_eos: _,
            skip_special_tokens: _,
            format: _,
        } = input;
        let is_token = |token: &u32| (*token as usize) < vocabulary_size;
        match prompt {
            Prompt::Text(text) | Prompt::TextEnd(text, 1..) => assert!(!text.is_empty()),
            Prompt::TextEnd(_, 0) => unreachable!("the end of a text has a token"),
            Prompt::Tokens(tokens) => assert!(!tokens.is_empty() && tokens.iter().all(is_token)),
            Prompt::Chat(_) | Prompt::Template(..) => {}
        }
        assert!((1..=MOST_CHOICES).contains(choices), "{choices} choices");
        match max_tokens {
            MaxTokens::Exactly(tokens) => assert!((1..=u32::MAX as usize).contains(tokens)),
            MaxTokens::UpTo(tokens) => assert!(*tokens > 0),
        }
        assert!(timeout.is_none(), "requests set none");
        assert!(stop.len() <= MOST_STOP_TEXTS);
        assert!(stop.iter().all(|text| (1..=LONGEST_STOP_BYTES).contains(&text.len())));
        assert!(stop_tokens.len() <= MOST_STOP_TOKENS && stop_tokens.iter().all(is_token));
        assert!(logprobs.is_none_or(|alternatives| alternatives <= MOST_ALTERNATIVES));
        sampling_holds(sampling, is_token);
    }
}

fn sampling_holds(sampling: &Sampling, is_token: impl Fn(&u32) -> bool) {
    let Sampling {
        temperature,
        top_k: _,
        top_p,
        min_p,
        repetition_penalty,
        presence_penalty,
        frequency_penalty,
        logit_bias,
        seed: _,
    } = sampling;
    let within = |value: &f32, bounds: RangeInclusive<f32>| {
        assert!(bounds.contains(value), "{value} is not in {bounds:?}");
    };
    within(temperature, 0.0..=2.0);
    within(top_p, 0.0..=1.0);
    within(min_p, 0.0..=1.0);
    within(repetition_penalty, 0.01..=100.0);
    within(presence_penalty, -2.0..=2.0);
    within(frequency_penalty, -2.0..=2.0);
    assert!(logit_bias.len() <= MOST_BIASES);
    let different: HashSet<u32> = logit_bias.iter().map(|(token, _)| *token).collect();
    assert!(different.len() == logit_bias.len() && different.iter().all(is_token));
    for (_, bias) in logit_bias {
        within(bias, -100.0..=100.0);
    }
}
