//! The gateway's own API: `POST /api/v1/inference`.
//!
//! ```text
//! {"text": …, "max_tokens": 50, "temperature": 1.0, "top_p": 1.0, …}
//! → {"generated_text": …, "metadata": {"tokens_generated": n, "processing_time_ms": t, …}}
//! ```
//!
//! With `stream` the answer is server-sent events: `{"text": …}` for each piece, at last `{"metadata": …}`. The options
//! that name single tokens are in [`token_options`].

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::http::HeaderValue;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

mod token_options;

use self::token_options::{
    LogitBias, LogprobsOfToken, checked_logit_bias, checked_logprobs, checked_stop_tokens,
};
use super::error::ApiError;
use super::request_id::RequestId;
use super::{Api, json, sse};
use crate::engine::{Sampling, TokenId};
use crate::failpoint;
use crate::generate::{self, Delta, EndReason, Generation, Input};

/// Largest seed that is made: JSON numbers above it lose digits in some clients.
const LARGEST_MADE_SEED: u64 = (1 << 53) - 1;
/// Stop strings of a request.
const MOST_STOP_STRINGS: usize = 16;
/// Length of one stop string.
const LONGEST_STOP_BYTES: usize = 1024;

/// The request as it comes; `None` and `null` mean the default.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NativeRequest {
    text: String,
    model: Option<String>,
    max_tokens: Option<u64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<u32>,
    min_p: Option<f64>,
    repetition_penalty: Option<f64>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    logit_bias: Option<LogitBias>,
    seed: Option<u64>,
    stop: Option<StopStrings>,
    stop_token_ids: Option<Vec<u64>>,
    logprobs: Option<u32>,
    ignore_eos: Option<bool>,
    return_full_text: Option<bool>,
    return_token_ids: Option<bool>,
    skip_special_tokens: Option<bool>,
    stream: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a text or a list of texts")]
enum StopStrings {
    One(String),
    Many(Vec<String>),
}

/// The answer.
#[derive(Debug, Serialize)]
struct NativeResponse {
    generated_text: String,
    /// One for each generated token.
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<LogprobsOfToken>>,
    metadata: Metadata,
}

/// An event of a stream.
#[derive(Debug, Serialize)]
struct NativeEvent {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// Those of the tokens since the last event.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logprobs: Vec<LogprobsOfToken>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata>,
}

#[derive(Debug, Serialize)]
struct Metadata {
    tokens_generated: usize,
    processing_time_ms: f64,
    finish_reason: &'static str,
    prompt_tokens: usize,
    model: String,
    seed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<TokenId>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<TokenId>>,
}

/// Long enough for a swap to come between two looks.
const MIX_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// What the answer needs to know of the request.
struct Answer {
    started: Instant,
    seed: u64,
    return_token_ids: bool,
    logprobs: bool,
    /// The prompt, when it begins the text.
    prefix: String,
}

/// `POST /api/v1/inference`
pub(super) async fn inference(
    State(api): State<Arc<Api>>,
    Extension(request_id): Extension<RequestId>,
    request: Request,
) -> Response {
    let started = Instant::now();
    match answer(&api, &request_id, request, started).await {
        Ok(response) => response,
        Err(error) => error.respond(&request_id),
    }
}

async fn answer(
    api: &Api,
    request_id: &RequestId,
    request: Request,
    started: Instant,
) -> Result<Response, ApiError> {
    let request: NativeRequest = json::read(request.into_body(), api.limits.body_bytes).await?;
    let mut model = api.registry.pin(request.model.as_deref(), api.limits.request_timeout).await?;
    let revision = HeaderValue::from_str(&model.revision).expect("a revision is hexadecimal");
    if failpoint::is("in-answer", "mix") {
        // The fault that a second look at the registry would be.
        tokio::time::sleep(MIX_PAUSE).await;
        model = api.registry.pin(request.model.as_deref(), api.limits.request_timeout).await?;
    }
    let stream = request.stream.unwrap_or(false);
    let (mut input, answer) = parse(request, model.engine.geometry().vocabulary_size, started)?;
    input.timeout = Some(model.live().request_timeout.saturating_sub(started.elapsed()));
    let generation = generate::start(model, input).await?;
    let mut response = if stream {
        answer.stream(generation, request_id.clone())
    } else {
        Json(answer.whole(generation).await?).into_response()
    };
    response.headers_mut().insert("x-model-revision", revision);
    Ok(response)
}

/// Checks every value; nothing is clamped. Tokens that are named are below `vocabulary_size`.
fn parse(
    request: NativeRequest,
    vocabulary_size: usize,
    started: Instant,
) -> Result<(Input, Answer), ApiError> {
    let NativeRequest {
        text,
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
    } = request;
    if text.is_empty() {
        return Err(ApiError::invalid_value("text", "text must not be empty"));
    }
    let seed = seed.unwrap_or_else(|| rand::random_range(0..=LARGEST_MADE_SEED));
    let sampling = Sampling {
        temperature: in_range("temperature", temperature, 1.0, 0.0..=2.0)?,
        top_k: top_k.unwrap_or(0),
        top_p: in_range("top_p", top_p, 1.0, 0.0..=1.0)?,
        min_p: in_range("min_p", min_p, 0.0, 0.0..=1.0)?,
        repetition_penalty: in_range("repetition_penalty", repetition_penalty, 1.0, 0.01..=100.0)?,
        presence_penalty: in_range("presence_penalty", presence_penalty, 0.0, -2.0..=2.0)?,
        frequency_penalty: in_range("frequency_penalty", frequency_penalty, 0.0, -2.0..=2.0)?,
        logit_bias: checked_logit_bias(logit_bias, vocabulary_size)?,
        seed,
    };
    // A stream's pieces continue the prompt unless it is asked for; a whole answer begins with it.
    let full_text = return_full_text.unwrap_or(!stream.unwrap_or(false));
    let logprobs = checked_logprobs(logprobs)?;
    let answer = Answer {
        started,
        seed,
        return_token_ids: return_token_ids.unwrap_or(false),
        logprobs: logprobs.is_some(),
        prefix: if full_text { text.clone() } else { String::new() },
    };
    let input = Input {
        prompt: text,
        sampling,
        max_tokens: max_tokens.map(checked_max_tokens).transpose()?,
        timeout: None,
        stop: checked_stop(stop)?,
        stop_tokens: checked_stop_tokens(stop_token_ids, vocabulary_size)?,
        logprobs,
        ignore_eos: ignore_eos.unwrap_or(false),
        skip_special_tokens: skip_special_tokens.unwrap_or(true),
    };
    Ok((input, answer))
}

/// Compared before it is narrowed: `1e39` would become infinite as f32 and `1e-60` zero.
fn in_range(
    field: &str,
    value: Option<f64>,
    default: f64,
    range: std::ops::RangeInclusive<f64>,
) -> Result<f32, ApiError> {
    let value = value.unwrap_or(default);
    if !range.contains(&value) {
        let message = format!("{field} must be from {} to {}, got {value}", range.start(), range.end());
        return Err(ApiError::invalid_value(field, message));
    }
    let narrow = value as f32;
    if value != 0.0 && narrow == 0.0 {
        return Err(ApiError::invalid_value(field, format!("{field} {value} is too small; use 0 for none")));
    }
    Ok(narrow)
}

fn checked_max_tokens(value: u64) -> Result<usize, ApiError> {
    // Above u32 no context is that long; the sum with the prompt must not overflow.
    match u32::try_from(value) {
        Ok(tokens) if tokens > 0 => Ok(tokens as usize),
        Ok(_zero) => Err(ApiError::invalid_value("max_tokens", "max_tokens must be at least 1")),
        Err(_large) => Err(ApiError::invalid_value(
            "max_tokens",
            format!("max_tokens {value} is longer than any context"),
        )),
    }
}

fn checked_stop(stop: Option<StopStrings>) -> Result<Vec<String>, ApiError> {
    let strings = match stop {
        None => Vec::new(),
        Some(StopStrings::One(one)) => vec![one],
        Some(StopStrings::Many(many)) => many,
    };
    if strings.len() > MOST_STOP_STRINGS {
        return Err(ApiError::invalid_value("stop", format!("stop takes at most {MOST_STOP_STRINGS} texts")));
    }
    match strings.iter().position(|text| text.is_empty() || text.len() > LONGEST_STOP_BYTES) {
        Some(index) => Err(ApiError::invalid_value(
            "stop",
            format!("stop text {index} must have 1 to {LONGEST_STOP_BYTES} bytes"),
        )),
        None => Ok(strings),
    }
}

/// Not by way of a JSON value, which would write numbers of 32 bits with the digits of 64.
fn rendered(event: &impl Serialize) -> String {
    serde_json::to_string(event).expect("an event has string keys only")
}

fn taken_logprobs(generation: &mut Generation) -> Vec<LogprobsOfToken> {
    generation.take_logprobs().into_iter().map(LogprobsOfToken::from).collect()
}

impl Answer {
    async fn whole(self, mut generation: Generation) -> Result<NativeResponse, ApiError> {
        let mut generated_text = self.prefix.clone();
        loop {
            match generation.next().await {
                Some(Ok(Delta::Text(text))) => generated_text.push_str(&text),
                Some(Ok(Delta::End(reason))) => {
                    return Ok(NativeResponse {
                        generated_text,
                        logprobs: self.logprobs.then(|| taken_logprobs(&mut generation)),
                        metadata: self.metadata(&generation, reason),
                    });
                }
                Some(Err(error)) => return Err(error.into()),
                None => return Err(crate::engine::EngineError::Stopped.into()),
            }
        }
    }

    fn stream(mut self, generation: Generation, request_id: RequestId) -> Response {
        let prefix = std::mem::take(&mut self.prefix);
        sse::respond(generation, prefix, move |generation, delta| match delta {
            Ok(Delta::Text(text)) => rendered(&NativeEvent {
                text: Some(text),
                logprobs: taken_logprobs(generation),
                metadata: None,
            }),
            Ok(Delta::End(reason)) => rendered(&NativeEvent {
                text: None,
                logprobs: taken_logprobs(generation),
                metadata: Some(self.metadata(generation, reason)),
            }),
            Err(error) => rendered(&ApiError::from(error).body(&request_id)),
        })
    }

    fn metadata(&self, generation: &Generation, reason: EndReason) -> Metadata {
        let ids = |tokens: &[TokenId]| self.return_token_ids.then(|| tokens.to_vec());
        Metadata {
            tokens_generated: generation.token_ids().len(),
            processing_time_ms: (self.started.elapsed().as_secs_f64() * 1e6).round() / 1e3,
            finish_reason: reason.label(),
            prompt_tokens: generation.prompt_tokens().len(),
            model: generation.model().name.to_string(),
            seed: self.seed,
            token_ids: ids(generation.token_ids()),
            prompt_token_ids: ids(generation.prompt_tokens()),
        }
    }
}
