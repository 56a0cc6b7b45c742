//! `POST /v1/chat/completions`: chats that are answered, by the model's own chat template.

mod messages;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::messages::{Message, checked_messages};
use super::answer::{Choice, Shape};
use super::logprobs::ChatLogprobs;
use super::options::{CommonFields, Seed, StreamOptions, checked_limit};
use super::refusals::{Accepted, Unsupported, accept, only, refuse};
use super::{Body, Checked, Names};
use crate::generate::{Generations, MaxTokens, Messages, OWN_VARIABLES, PickedToken, Prompt};
use crate::http::error::ApiError;
use crate::http::parameters::{LogitBias, SamplingFields, Texts, checked_alternatives};

/// The request as it comes; `None` and `null` mean the default.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChatRequest {
    messages: Vec<Message>,
    model: Option<String>,
    max_completion_tokens: Option<u64>,
    max_tokens: Option<u64>,
    n: Option<u64>,
    logprobs: Option<bool>,
    top_logprobs: Option<u32>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<i64>,
    min_p: Option<f64>,
    repetition_penalty: Option<f64>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    logit_bias: Option<LogitBias>,
    seed: Option<Seed>,
    stop: Option<Texts>,
    stop_token_ids: Option<Vec<u64>>,
    include_stop_str_in_output: Option<bool>,
    ignore_eos: Option<bool>,
    skip_special_tokens: Option<bool>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    chat_template_kwargs: Option<Map<String, Value>>,
    add_generation_prompt: Option<bool>,
    response_format: Option<Value>,
    modalities: Option<Vec<String>>,
    store: Option<bool>,
    service_tier: Option<String>,
    tools: Option<Unsupported>,
    tool_choice: Option<Unsupported>,
    parallel_tool_calls: Option<Unsupported>,
    functions: Option<Unsupported>,
    function_call: Option<Unsupported>,
    reasoning_effort: Option<Unsupported>,
    verbosity: Option<Unsupported>,
    audio: Option<Unsupported>,
    prediction: Option<Unsupported>,
    web_search_options: Option<Unsupported>,
    prompt_cache_retention: Option<Unsupported>,
    user: Option<Accepted>,
    safety_identifier: Option<Accepted>,
    prompt_cache_key: Option<Accepted>,
    metadata: Option<Accepted>,
}

/// `{"index", "message", "logprobs", "finish_reason"}`
#[derive(Debug, Serialize)]
pub(super) struct ChatChoice {
    index: usize,
    message: AnswerMessage,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct AnswerMessage {
    role: &'static str,
    content: String,
    refusal: (),
}

/// `{"index", "delta", "logprobs", "finish_reason"}`
#[derive(Debug, Serialize)]
pub(super) struct ChatChunk {
    index: usize,
    delta: Delta,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Debug, Default, Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

/// What the answer needs to know of the request.
pub(super) struct ChatShape {
    logprobs: bool,
    /// Whether a choice has told its role; as many as were needed so far.
    begun: Vec<bool>,
}

impl Body for ChatRequest {
    type Shape = ChatShape;

    fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    fn checked(self, vocabulary_size: usize) -> Result<Checked<ChatShape>, ApiError> {
        let Self {
            messages,
            model: _,
            max_completion_tokens,
            max_tokens,
            n,
            logprobs,
            top_logprobs,
            temperature,
            top_p,
            top_k,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            logit_bias,
            seed,
            stop,
            stop_token_ids,
            include_stop_str_in_output,
            ignore_eos,
            skip_special_tokens,
            stream,
            stream_options,
            chat_template_kwargs,
            add_generation_prompt,
            response_format,
            modalities,
            store,
            service_tier,
            tools,
            tool_choice,
            parallel_tool_calls,
            functions,
            function_call,
            reasoning_effort,
            verbosity,
            audio,
            prediction,
            web_search_options,
            prompt_cache_retention,
            user,
            safety_identifier,
            prompt_cache_key,
            metadata,
        } = self;
        accept([user, safety_identifier, prompt_cache_key, metadata]);
        refuse([
            ("tools", tools),
            ("tool_choice", tool_choice),
            ("parallel_tool_calls", parallel_tool_calls),
            ("functions", functions),
            ("function_call", function_call),
            ("reasoning_effort", reasoning_effort),
            ("verbosity", verbosity),
            ("audio", audio),
            ("prediction", prediction),
            ("web_search_options", web_search_options),
            ("prompt_cache_retention", prompt_cache_retention),
        ])?;
        only_text(response_format, modalities)?;
        let messages = Messages {
            messages: checked_messages(messages)?,
            variables: checked_variables(chat_template_kwargs)?,
            add_generation_prompt: add_generation_prompt.unwrap_or(true),
        };
        let common = CommonFields {
            n,
            top_k,
            sampling: SamplingFields {
                temperature,
                top_p,
                top_k: None,
                min_p,
                repetition_penalty,
                presence_penalty,
                frequency_penalty,
                logit_bias,
            },
            seed,
            stop,
            stop_token_ids,
            include_stop_str_in_output,
            ignore_eos,
            skip_special_tokens,
            stream,
            stream_options,
            store,
            service_tier,
        }
        .checked(vocabulary_size)?;
        let limits = [("max_completion_tokens", max_completion_tokens), ("max_tokens", max_tokens)];
        let (max_tokens_name, max_tokens) = checked_limit(limits, MaxTokens::UpTo(usize::MAX))?;
        let logprobs = checked_logprobs(logprobs.unwrap_or(false), top_logprobs)?;
        Ok(Checked {
            inputs: common.inputs(vec![Prompt::Chat(messages)], max_tokens, logprobs),
            shape: ChatShape { logprobs: logprobs.is_some(), begun: Vec::new() },
            stream: common.stream,
            names: Names::new("messages", max_tokens_name, common.choices),
        })
    }
}

fn only_text(format: Option<Value>, modalities: Option<Vec<String>>) -> Result<(), ApiError> {
    let is_text = format.is_none_or(|format| format == serde_json::json!({"type": "text"}));
    only("response_format", is_text, r#"{"type": "text"}"#)?;
    only("modalities", modalities.is_none_or(|all| all == ["text"]), r#"["text"]"#)
}

fn checked_logprobs(wanted: bool, alternatives: Option<u32>) -> Result<Option<usize>, ApiError> {
    let alternatives = checked_alternatives("top_logprobs", alternatives)?;
    match (wanted, alternatives) {
        (true, alternatives) => Ok(Some(alternatives.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => {
            Err(ApiError::invalid_value("top_logprobs", "top_logprobs is allowed only with logprobs"))
        }
    }
}

fn checked_variables(variables: Option<Map<String, Value>>) -> Result<Map<String, Value>, ApiError> {
    let variables = variables.unwrap_or_default();
    match OWN_VARIABLES.iter().find(|own| variables.contains_key(**own)) {
        Some(own) => {
            let message =
                format!("chat_template_kwargs must not have {own}, which is not a variable of the request");
            Err(ApiError::invalid_value("chat_template_kwargs", message))
        }
        None => Ok(variables),
    }
}

impl ChatShape {
    fn logprobs(&self, picked: Vec<PickedToken>) -> Option<ChatLogprobs> {
        self.logprobs.then(|| ChatLogprobs::new(picked))
    }
}

impl Shape for ChatShape {
    const ID: &'static str = "chatcmpl";
    const WHOLE: &'static str = "chat.completion";
    const CHUNK: &'static str = "chat.completion.chunk";
    type Whole = ChatChoice;
    type Chunk = ChatChunk;

    fn whole(&mut self, _generations: &mut Generations, choice: Choice, text: String) -> ChatChoice {
        let Choice { index, picked, finish_reason } = choice;
        let message = AnswerMessage { role: "assistant", content: text, refusal: () };
        ChatChoice { index, message, logprobs: self.logprobs(picked), finish_reason }
    }

    fn begin(&mut self, generations: &mut Generations) -> Vec<ChatChunk> {
        self.begun = vec![false; generations.all().len()];
        Vec::new()
    }

    fn piece(&mut self, choice: Choice, text: Option<String>) -> Vec<ChatChunk> {
        let Choice { index, picked, finish_reason } = choice;
        let mut chunks = Vec::with_capacity(2);
        if !std::mem::replace(&mut self.begun[index], true) {
            let delta = Delta { role: Some("assistant"), content: Some(String::new()) };
            chunks.push(ChatChunk { index, delta, logprobs: None, finish_reason: None });
        }
        let logprobs = if picked.is_empty() { None } else { self.logprobs(picked) };
        let delta = Delta { role: None, content: text };
        chunks.push(ChatChunk { index, delta, logprobs, finish_reason });
        chunks
    }
}
