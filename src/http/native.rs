//! The gateway's own API: `POST /api/v1/inference`.
//!
//! ```text
//! {"text": …, "max_tokens": 50, "temperature": 1.0, "top_p": 1.0, …}
//! → {"generated_text": …, "metadata": {"tokens_generated": n, "processing_time_ms": t, …}}
//! ```
//!
//! A template of the model's settings makes prompts of variables, in place of `text` or of it: `native/prompts.rs`.
//!
//! A list of texts is answered with `{"results": [ … ]}`, in its order, each as if it had come alone. With `stream` the
//! answer is server-sent events: `{"text": …}` for each piece, at last `{"metadata": …}`; those of a list have an `index`.

use std::time::Instant;

use axum::Json;
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

mod format;
mod local;
mod logprobs;
mod operation;
mod prompts;

pub(super) use self::operation::routes;

pub(super) use self::format::{NativeFormat, described as described_format};
pub use self::local::{LocalAnswer, LocalError, LocalPrompt, LocalRequest, Summary};
use self::logprobs::LogprobsOfToken;
use self::prompts::{CheckedPrompts, PromptFields};
use super::error::ApiError;
use super::parameters::{
    LogitBias, SamplingFields, Texts, checked_alternatives, checked_max_tokens, checked_stop,
    checked_stop_tokens, made_seed, schemas,
};
use super::request_id::RequestId;
use super::sse::Moment;
use super::{Api, json, sse};
use crate::access::Caller;
use crate::engine::TokenId;
use crate::failpoint;
use crate::generate::{
    self, Delta, EndReason, Format, Generation, Generations, Input, MaxTokens, Prompt, Prompts, Refused,
};

/// Tokens that are generated when the request does not say, if the context has room for them.
const DEFAULT_MAX_TOKENS: usize = 50;

/// What to continue, and how. Required is `text`, or a `template` in its place; a field that is `null` counts as not given.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NativeRequest {
    #[schema(schema_with = operation::text)]
    text: Option<Texts>,
    /// The template of the model's settings that makes the prompt; `text`, if given, is its variable `text`
    template: Option<String>,
    /// The other variables of the template
    #[schema(value_type = Option<Object>)]
    variables: Option<Map<String, Value>>,
    #[schema(schema_with = schemas::model)]
    model: Option<String>,
    #[schema(schema_with = operation::max_tokens)]
    max_tokens: Option<u64>,
    #[schema(schema_with = schemas::temperature)]
    temperature: Option<f64>,
    #[schema(schema_with = schemas::top_p)]
    top_p: Option<f64>,
    #[schema(schema_with = schemas::top_k)]
    top_k: Option<u32>,
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
    #[schema(schema_with = schemas::seed)]
    seed: Option<u64>,
    #[schema(schema_with = schemas::stop)]
    stop: Option<Texts>,
    #[schema(schema_with = schemas::stop_token_ids)]
    stop_token_ids: Option<Vec<u64>>,
    #[schema(schema_with = operation::logprobs)]
    logprobs: Option<u32>,
    #[schema(schema_with = schemas::ignore_eos)]
    ignore_eos: Option<bool>,
    /// Whether the text begins with the prompt. Default: true; false with `stream` or `format`
    return_full_text: Option<bool>,
    /// Add the ids of prompt and output to the metadata
    #[schema(default = false)]
    return_token_ids: Option<bool>,
    #[schema(schema_with = schemas::skip_special_tokens)]
    skip_special_tokens: Option<bool>,
    #[schema(schema_with = schemas::stream)]
    stream: Option<bool>,
    #[schema(schema_with = format::described)]
    format: Option<NativeFormat>,
}

/// An answer: one for a text, several for a list of texts.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum NativeAnswer {
    One(NativeResponse),
    Many(NativeResponses),
}

/// The answer to one text.
#[derive(Debug, Serialize, ToSchema)]
struct NativeResponse {
    /// The prompt, unless it is not wanted, and what continues it
    generated_text: String,
    /// With `logprobs`: one for each generated token
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    logprobs: Option<Vec<LogprobsOfToken>>,
    metadata: Metadata,
}

/// The answers to a list, in its order.
#[derive(Debug, Serialize, ToSchema)]
struct NativeResponses {
    results: Vec<NativeResponse>,
}

/// An event of a stream: a piece of a text, or its end.
#[derive(Debug, Default, Serialize, ToSchema)]
// Nothing is read; in the description it tells this from an error.
#[serde(deny_unknown_fields)]
struct NativeEvent {
    /// Which text of a list
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    index: Option<usize>,
    /// The next piece
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    text: Option<String>,
    /// With `logprobs`: those of the tokens since the last event
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logprobs: Vec<LogprobsOfToken>,
    /// In the last event of a text
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    metadata: Option<Metadata>,
}

/// What is told of an answer beside its text.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = NativeMetadata)]
struct Metadata {
    tokens_generated: usize,
    /// From the request to the end of this text
    processing_time_ms: f64,
    #[schema(schema_with = operation::finish_reason)]
    finish_reason: &'static str,
    prompt_tokens: usize,
    /// The name of the model that answered
    model: String,
    /// Gives the same text again
    #[schema(format = "uint64")]
    seed: u64,
    /// With `return_token_ids`
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<Vec<u32>>)]
    token_ids: Option<Vec<TokenId>>,
    /// With `return_token_ids`
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<Vec<u32>>)]
    prompt_token_ids: Option<Vec<TokenId>>,
}

/// Long enough for a swap to come between two looks.
const MIX_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// What the answer needs to know of the request.
struct Answer {
    started: Instant,
    return_token_ids: bool,
    logprobs: bool,
    /// Whether the request has a list of texts.
    is_list: bool,
    /// The field that is at fault where a prompt is.
    prompt_field: &'static str,
    texts: Vec<TextOf>,
}

/// What the answer to one text needs to know.
struct TextOf {
    seed: u64,
    /// The prompt as it came, when the prompt begins the answer; a template may have made another one of it.
    prefix: Option<String>,
}

async fn answer(
    api: &Api,
    (request_id, caller): (&RequestId, &Caller),
    request: Request,
    started: Instant,
) -> Result<Response, ApiError> {
    let request: NativeRequest = json::read(request.into_body(), api.limits.body_bytes).await?;
    let mut model = api.pin(caller, request.model.as_deref()).await?;
    let revision = HeaderValue::from_str(&model.revision).expect("a revision is hexadecimal");
    if failpoint::is("in-answer", "mix") {
        // The fault that a second look at the registry would be.
        tokio::time::sleep(MIX_PAUSE).await;
        model = api.pin(caller, request.model.as_deref()).await?;
    }
    let stream = request.stream.unwrap_or(false);
    let about = (model.engine.geometry().vocabulary_size, &*model.prompts());
    let (mut inputs, answer) = parse(request, about, started)?;
    let timeout = model.live().request_timeout.saturating_sub(started.elapsed());
    for input in &mut inputs {
        input.timeout = Some(timeout);
    }
    let generations =
        generate::start(caller, model, inputs).await.map_err(|refused| answer.refused(refused))?;
    let mut response = if stream {
        answer.stream(generations, request_id.clone())
    } else {
        answer.whole(generations).await?
    };
    response.headers_mut().insert("x-model-revision", revision);
    Ok(response)
}

/// What comes of a body.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn fuzzed(body: &[u8], model: &crate::model::LoadedModel) -> Result<Vec<Input>, ApiError> {
    let about = (model.engine.geometry().vocabulary_size, &*model.prompts());
    Ok(parse(json::parse(body)?, about, Instant::now())?.0)
}

/// Checks every value; nothing is clamped. Tokens that are named are below `vocabulary_size`, templates are those of the model.
fn parse(
    request: NativeRequest,
    (vocabulary_size, templates): (usize, &Prompts),
    started: Instant,
) -> Result<(Vec<Input>, Answer), ApiError> {
    let NativeRequest {
        text,
        template,
        variables,
        model: _,
        max_tokens,
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
        logprobs,
        ignore_eos,
        return_full_text,
        return_token_ids,
        skip_special_tokens,
        stream,
        format,
    } = request;
    let CheckedPrompts { prompts, is_list, templated, field: prompt_field } =
        PromptFields { text, template, variables }.checked(templates)?;
    let sampling = SamplingFields {
        temperature,
        top_p,
        top_k,
        min_p,
        repetition_penalty,
        presence_penalty,
        frequency_penalty,
        logit_bias,
    };
    let max_tokens = max_tokens.map(|value| checked_max_tokens("max_tokens", value)).transpose()?;
    let common = Input {
        prompt: Prompt::Tokens(Vec::new()),
        choices: 1,
        sampling: sampling.checked(seed.unwrap_or_default(), vocabulary_size)?,
        max_tokens: max_tokens.map_or(MaxTokens::UpTo(DEFAULT_MAX_TOKENS), MaxTokens::Exactly),
        timeout: None,
        stop: checked_stop(stop)?,
        include_stop: false,
        stop_tokens: checked_stop_tokens(stop_token_ids, vocabulary_size)?,
        logprobs: checked_alternatives("logprobs", logprobs)?,
        ignore_eos: ignore_eos.unwrap_or(false),
        skip_special_tokens: skip_special_tokens.unwrap_or(true),
        format: format.map(Format::from),
    };
    // A stream's pieces continue the prompt unless it is asked for, what has a format is parsed, and who sends data for a
    // template has not written the prompt; otherwise a whole answer begins with it.
    let plain = !stream.unwrap_or(false) && common.format.is_none() && !templated;
    let full_text = return_full_text.unwrap_or(plain);
    let mut answer = Answer {
        started,
        return_token_ids: return_token_ids.unwrap_or(false),
        logprobs: common.logprobs.is_some(),
        is_list,
        prompt_field,
        texts: Vec::with_capacity(prompts.len()),
    };
    let mut inputs = Vec::with_capacity(prompts.len());
    for (prompt, text) in prompts {
        let seed = seed.unwrap_or_else(made_seed);
        answer.texts.push(TextOf { seed, prefix: full_text.then_some(text) });
        let mut input = Input { prompt, ..common.clone() };
        input.sampling.seed = seed;
        inputs.push(input);
    }
    Ok((inputs, answer))
}

fn taken_logprobs(generation: &mut Generation) -> Vec<LogprobsOfToken> {
    generation.take_logprobs().into_iter().map(LogprobsOfToken::from).collect()
}

impl Answer {
    /// The error of a request that did not begin.
    fn refused(&self, refused: Refused) -> ApiError {
        ApiError::refused(refused, |index| match index {
            Some(index) if self.is_list => format!("text[{index}]"),
            _ => self.prompt_field.to_owned(),
        })
    }

    async fn whole(self, mut generations: Generations) -> Result<Response, ApiError> {
        let mut results = self.results(&mut generations).await?;
        let answer = if self.is_list {
            NativeAnswer::Many(NativeResponses { results })
        } else {
            NativeAnswer::One(results.remove(0))
        };
        Ok(Json(answer).into_response())
    }

    /// What the answer says of each text, once all have ended.
    async fn results(&self, generations: &mut Generations) -> Result<Vec<NativeResponse>, ApiError> {
        let whole = generations.whole().await?;
        let mut results = Vec::with_capacity(whole.len());
        for (index, (one, text)) in whole.into_iter().zip(&self.texts).enumerate() {
            let generation = generations.get_mut(index);
            results.push(NativeResponse {
                generated_text: format!("{}{}", Self::prefix(text, generation), one.text),
                logprobs: self.logprobs.then(|| taken_logprobs(generation)),
                metadata: self.metadata(generation, text.seed, (one.reason, one.ended)),
            });
        }
        Ok(results)
    }

    /// What a text begins with.
    fn prefix<'text>(text: &'text TextOf, generation: &'text Generation) -> &'text str {
        text.prefix.as_deref().map_or("", |sent| generation.rendered().unwrap_or(sent))
    }

    fn stream(self, generations: Generations, request_id: RequestId) -> Response {
        let is_list = self.is_list;
        let event = move |index| NativeEvent { index: is_list.then_some(index), ..NativeEvent::default() };
        sse::respond(generations, move |generations, moment| match moment {
            Moment::Begin => {
                let told = self.texts.iter().enumerate().filter_map(|(index, text)| {
                    let prefix = Self::prefix(text, generations.get_mut(index));
                    (!prefix.is_empty())
                        .then(|| sse::data(&NativeEvent { text: Some(prefix.to_owned()), ..event(index) }))
                });
                told.collect()
            }
            Moment::Piece(index, delta) => {
                let generation = generations.get_mut(index);
                let logprobs = taken_logprobs(generation);
                let (text, metadata) = match delta {
                    Delta::Text(text) => (Some(text), None),
                    Delta::End(reason) => {
                        let ended = (reason, Instant::now());
                        (None, Some(self.metadata(generation, self.texts[index].seed, ended)))
                    }
                };
                vec![sse::data(&NativeEvent { text, logprobs, metadata, ..event(index) })]
            }
            Moment::Failed(error) => vec![sse::data(&ApiError::from(error).body(&request_id))],
            Moment::End => Vec::new(),
        })
    }

    fn metadata(
        &self,
        generation: &Generation,
        seed: u64,
        (reason, ended): (EndReason, Instant),
    ) -> Metadata {
        let ids = |tokens: &[TokenId]| self.return_token_ids.then(|| tokens.to_vec());
        Metadata {
            tokens_generated: generation.token_ids().len(),
            processing_time_ms: ((ended - self.started).as_secs_f64() * 1e6).round() / 1e3,
            finish_reason: reason.label(),
            prompt_tokens: generation.prompt_tokens().len(),
            model: generation.model().name.to_string(),
            seed,
            token_ids: ids(generation.token_ids()),
            prompt_token_ids: ids(generation.prompt_tokens()),
        }
    }
}
