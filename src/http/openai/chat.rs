//! `POST /v1/chat/completions`: chats that are answered, by the model's own chat template.

mod calls;
mod messages;
mod tools;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use self::calls::{Said, Speech, ToolCall};
use self::messages::{Message, checked_messages};
use self::tools::{CheckedTools, Reading, Tool, ToolChoice, checked_tools};
use super::answer::{Choice, Shape};
use super::format::{FormatField, ResponseFormat, StructuredOutputs};
use super::logprobs::ChatLogprobs;
use super::options::{CommonFields, Seed, StreamOptions, checked_limit};
use super::refusals::{Accepted, Unsupported, accept, only, refuse, unsupported};
use super::{Body, Checked, Names, described};
use crate::generate::{
    Abilities, Generations, Input, MaxTokens, Messages, OWN_VARIABLES, PickedToken, Prompt,
};
use crate::http::error::ApiError;
use crate::http::parameters::{LogitBias, SamplingFields, Texts, checked_alternatives, schemas};
use crate::model::LoadedModel;

/// What to answer, and how. Only `messages` is required; a field that is `null` counts as not given.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ChatRequest {
    /// The chat so far
    #[schema(min_items = 1)]
    messages: Vec<Message>,
    #[schema(schema_with = schemas::model)]
    model: Option<String>,
    #[schema(schema_with = described::chat_max_tokens)]
    max_completion_tokens: Option<u64>,
    #[schema(schema_with = described::chat_max_tokens)]
    max_tokens: Option<u64>,
    #[schema(schema_with = described::n)]
    n: Option<u64>,
    /// Tell the log-probability of each token
    #[schema(default = false)]
    logprobs: Option<bool>,
    #[schema(schema_with = described::top_logprobs)]
    top_logprobs: Option<u32>,
    #[schema(schema_with = schemas::temperature)]
    temperature: Option<f64>,
    #[schema(schema_with = schemas::top_p)]
    top_p: Option<f64>,
    #[schema(schema_with = described::top_k)]
    top_k: Option<i64>,
    #[schema(schema_with = schemas::min_p)]
    min_p: Option<f64>,
    #[schema(schema_with = schemas::repetition_penalty)]
    repetition_penalty: Option<f64>,
    #[schema(schema_with = schemas::presence_penalty)]
    presence_penalty: Option<f64>,
    #[schema(schema_with = schemas::frequency_penalty)]
    frequency_penalty: Option<f64>,
    #[schema(schema_with = schemas::logit_bias)]
    logit_bias: Option<LogitBias>,
    #[schema(schema_with = described::seed)]
    seed: Option<Seed>,
    #[schema(schema_with = schemas::stop)]
    stop: Option<Texts>,
    #[schema(schema_with = schemas::stop_token_ids)]
    stop_token_ids: Option<Vec<u64>>,
    #[schema(schema_with = schemas::only_false)]
    include_stop_str_in_output: Option<bool>,
    #[schema(schema_with = schemas::ignore_eos)]
    ignore_eos: Option<bool>,
    #[schema(schema_with = schemas::skip_special_tokens)]
    skip_special_tokens: Option<bool>,
    #[schema(schema_with = schemas::stream)]
    stream: Option<bool>,
    /// Only with `stream`
    stream_options: Option<StreamOptions>,
    /// More variables for the chat template, such as `{"enable_thinking": false}`
    #[schema(value_type = Option<Object>)]
    chat_template_kwargs: Option<Map<String, Value>>,
    /// Whether the prompt ends with the beginning of an answer
    #[schema(default = true)]
    add_generation_prompt: Option<bool>,
    /// What the text has to look like
    response_format: Option<ResponseFormat>,
    /// What the text has to look like, as vLLM has it; beside no `response_format`
    structured_outputs: Option<StructuredOutputs>,
    #[schema(schema_with = described::modalities)]
    modalities: Option<Vec<String>>,
    #[schema(schema_with = schemas::only_false)]
    store: Option<bool>,
    #[schema(schema_with = described::service_tier)]
    service_tier: Option<String>,
    /// Functions that the model may call
    #[schema(min_items = 1, max_items = 128)]
    tools: Option<Vec<Tool>>,
    /// Whether functions are called, and which
    tool_choice: Option<ToolChoice>,
    /// Whether there may be more than one call; only with `tools`
    parallel_tool_calls: Option<bool>,
    #[schema(ignore)]
    functions: Option<Unsupported>,
    #[schema(ignore)]
    function_call: Option<Unsupported>,
    #[schema(ignore)]
    reasoning_effort: Option<Unsupported>,
    #[schema(ignore)]
    verbosity: Option<Unsupported>,
    #[schema(ignore)]
    audio: Option<Unsupported>,
    #[schema(ignore)]
    prediction: Option<Unsupported>,
    #[schema(ignore)]
    web_search_options: Option<Unsupported>,
    #[schema(ignore)]
    prompt_cache_retention: Option<Unsupported>,
    #[schema(schema_with = described::accepted)]
    user: Option<Accepted>,
    #[schema(schema_with = described::accepted)]
    safety_identifier: Option<Accepted>,
    #[schema(schema_with = described::accepted)]
    prompt_cache_key: Option<Accepted>,
    #[schema(schema_with = described::accepted)]
    metadata: Option<Accepted>,
}

/// A choice of an answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChatChoice {
    index: usize,
    message: AnswerMessage,
    /// With `logprobs`
    #[schema(required)]
    logprobs: Option<ChatLogprobs>,
    #[schema(schema_with = described::finish_reason, required)]
    finish_reason: Option<&'static str>,
}

/// What the model says.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatAnswerMessage)]
struct AnswerMessage {
    #[schema(schema_with = described::assistant)]
    role: &'static str,
    /// `null` where there is nothing but calls
    #[schema(required)]
    content: Option<String>,
    #[schema(schema_with = schemas::nothing)]
    refusal: (),
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
}

/// What comes to a choice in a chunk.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatChunkChoice)]
pub(super) struct ChatChunk {
    index: usize,
    delta: Delta,
    /// With `logprobs`: those of the tokens since the last chunk
    #[schema(required)]
    logprobs: Option<ChatLogprobs>,
    #[schema(schema_with = described::finish_reason, required)]
    finish_reason: Option<&'static str>,
}

/// What comes to the message of a choice.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = ChatDelta)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = described::assistant)]
    role: Option<&'static str>,
    /// `null` where there may be nothing but calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    content: Option<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
}

/// What the answer needs to know of the request.
pub(super) struct ChatShape {
    logprobs: bool,
    /// Where tools may be called.
    reading: Option<Reading>,
    /// The choices of a stream.
    streamed: Vec<Streamed>,
}

/// A choice that is streamed.
#[derive(Default)]
struct Streamed {
    has_role: bool,
    speech: Option<Speech>,
    /// Log-probabilities of tokens whose text is not told yet.
    picked: Vec<PickedToken>,
}

impl Body for ChatRequest {
    type Shape = ChatShape;

    fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    fn checked(self, model: &LoadedModel) -> Result<Checked<ChatShape>, ApiError> {
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
            structured_outputs,
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
        only("modalities", modalities.is_none_or(|all| all == ["text"]), r#"["text"]"#)?;
        accept([user, safety_identifier, prompt_cache_key, metadata]);
        refuse([
            ("functions", functions),
            ("function_call", function_call),
            ("reasoning_effort", reasoning_effort),
            ("verbosity", verbosity),
            ("audio", audio),
            ("prediction", prediction),
            ("web_search_options", web_search_options),
            ("prompt_cache_retention", prompt_cache_retention),
        ])?;
        let abilities = abilities(model);
        let mut tools = checked_tools(tools, tool_choice, parallel_tool_calls, &abilities)?;
        let variables = checked_variables(chat_template_kwargs)?;
        let messages = checked_messages(messages, &abilities)?;
        let add_generation_prompt = add_generation_prompt.unwrap_or(true);
        let messages = Messages { messages, tools: tools.declared.take(), variables, add_generation_prompt };
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
            response_format,
            structured_outputs,
            store,
            service_tier,
        }
        .checked(model.engine.geometry().vocabulary_size)?;
        let (max_tokens_name, max_tokens) = checked_limits(max_completion_tokens, max_tokens)?;
        let logprobs = checked_logprobs(logprobs, top_logprobs)?;
        let mut inputs = common.inputs(vec![Prompt::Chat(messages)], max_tokens, logprobs);
        let mut names = Names::new("messages", max_tokens_name, &common);
        hold_to_calls(&mut inputs, &mut names, &tools, model)?;
        let shape = ChatShape::new(logprobs.is_some(), tools.reading);
        Ok(Checked { inputs, shape, stream: common.stream, names })
    }
}

/// What the model's template can do with tools: nothing, if there is none.
fn abilities(model: &LoadedModel) -> Abilities {
    model.chat.as_ref().map(|chat| chat.abilities().clone()).unwrap_or_default()
}

fn checked_limits(newer: Option<u64>, older: Option<u64>) -> Result<(&'static str, MaxTokens), ApiError> {
    let limits = [("max_completion_tokens", newer), ("max_tokens", older)];
    checked_limit(limits, MaxTokens::UpTo(usize::MAX))
}

/// An answer that may have calls, or that has to.
fn hold_to_calls(
    inputs: &mut [Input],
    names: &mut Names,
    tools: &CheckedTools,
    model: &LoadedModel,
) -> Result<(), ApiError> {
    let Some(reading) = &tools.reading else { return Ok(()) };
    if let Some(field) = names.format {
        let name = field.named(None);
        let message = format!("{name} is supported beside tools only where tool_choice is none");
        return Err(unsupported(name, message));
    }
    names.format = Some(FormatField::Tools(tools.first));
    for input in inputs {
        input.format.clone_from(&tools.format);
        // Marks of calls may be special tokens.
        input.skip_special_tokens &= !reading.syntax.has_special(&model.tokenizer);
    }
    Ok(())
}

fn checked_logprobs(wanted: Option<bool>, alternatives: Option<u32>) -> Result<Option<usize>, ApiError> {
    let alternatives = checked_alternatives("top_logprobs", alternatives)?;
    match (wanted.unwrap_or(false), alternatives) {
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
    fn new(logprobs: bool, reading: Option<Reading>) -> Self {
        Self { logprobs, reading, streamed: Vec::new() }
    }

    fn logprobs(&self, picked: Vec<PickedToken>) -> Option<ChatLogprobs> {
        self.logprobs.then(|| ChatLogprobs::new(picked))
    }
}

impl Shape for ChatShape {
    const ID: &'static str = "chatcmpl";
    const WHOLE: &'static str = "chat.completion";
    const CHUNK: &'static str = "chat.completion.chunk";
    const NAMES: [&'static str; 2] = ["ChatCompletion", "ChatCompletionChunk"];
    type Whole = ChatChoice;
    type Chunk = ChatChunk;

    fn whole(&mut self, _generations: &mut Generations, choice: Choice, text: String) -> ChatChoice {
        let Choice { index, picked, finish_reason } = choice;
        let (content, tool_calls) = match &self.reading {
            Some(reading) => reading.whole(&text),
            None => (text, Vec::new()),
        };
        let finish_reason = reason(finish_reason, !tool_calls.is_empty());
        let content = (!content.is_empty() || tool_calls.is_empty()).then_some(content);
        let message = AnswerMessage { role: "assistant", content, refusal: (), tool_calls };
        ChatChoice { index, message, logprobs: self.logprobs(picked), finish_reason }
    }

    fn begin(&mut self, generations: &mut Generations) -> Vec<ChatChunk> {
        let streamed =
            || Streamed { speech: self.reading.as_ref().map(Reading::begin), ..Streamed::default() };
        self.streamed = generations.all().iter().map(|_generation| streamed()).collect();
        Vec::new()
    }

    fn piece(&mut self, choice: Choice, text: Option<String>) -> Vec<ChatChunk> {
        let Choice { index, picked, finish_reason } = choice;
        let streamed = &mut self.streamed[index];
        streamed.picked.extend(picked);
        let mut deltas = Vec::with_capacity(2);
        if !std::mem::replace(&mut streamed.has_role, true) {
            let content = if streamed.speech.is_none() { Value::from("") } else { Value::Null };
            deltas.push(Delta { role: Some("assistant"), content: Some(content), ..Delta::default() });
        }
        let is_end = finish_reason.is_some();
        let said = match (&mut streamed.speech, text) {
            (Some(speech), Some(text)) => speech.push(&text),
            (Some(speech), None) if is_end => speech.finish(),
            (None, Some(text)) => vec![Said::Content(text)],
            (Some(_) | None, None) => Vec::new(),
        };
        deltas.extend(said.into_iter().map(|said| match said {
            Said::Content(text) => Delta { content: Some(Value::String(text)), ..Delta::default() },
            Said::Call(call) => Delta { tool_calls: vec![call], ..Delta::default() },
        }));
        if is_end {
            deltas.push(Delta::default());
        }
        let has_calls = streamed.speech.as_ref().is_some_and(Speech::has_calls);
        let last = deltas.len().saturating_sub(1);
        let chunk = |(at, delta): (usize, Delta)| {
            let tells = delta.role.is_none() && !self.streamed[index].picked.is_empty();
            let picked = if tells { std::mem::take(&mut self.streamed[index].picked) } else { Vec::new() };
            let logprobs = if picked.is_empty() { None } else { self.logprobs(picked) };
            let finish_reason = finish_reason.filter(|_reason| at == last);
            ChatChunk { index, delta, logprobs, finish_reason: reason(finish_reason, has_calls) }
        };
        deltas.into_iter().enumerate().map(chunk).collect()
    }
}

/// A text that ends by itself after a call ends for it.
fn reason(finish_reason: Option<&'static str>, has_calls: bool) -> Option<&'static str> {
    finish_reason.map(|reason| if has_calls && reason == "stop" { "tool_calls" } else { reason })
}
