//! The OpenAI dialect: `/v1/completions`, `/v1/chat/completions`, `/v1/models`.
//!
//! A translation of names and shapes onto the one request flow, and nothing else:
//!
//! ```text
//! completions.rs ─┐ fields of their own   options.rs: fields of both ─▶ Input ─▶ generate::start ─▶ Generations
//! chat.rs ────────┘                       answer.rs: Generations ─▶ one body, or chunks and [DONE]
//! ```
//!
//! A field that is not supported is refused by its name (`http/refusals.rs`); errors have the dialect's body (`errors.rs`).
//!
//! From: OpenAI's description of its API; extensions as vLLM calls them.

mod answer;
mod chat;
mod completions;
mod described;
mod errors;
mod format;
mod logprobs;
mod models;
mod operations;
mod options;

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Extension, Request, State};
use axum::http::HeaderValue;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

pub(super) use errors::{ErrorBody, body};
pub(super) use operations::routes;

use self::answer::{Answer, Shape};
use self::format::FormatField;
use super::error::{ApiError, Dialect};
use super::request_id::RequestId;
use super::{Api, json, refusals};
use crate::access::Caller;
use crate::generate::{self, Input};
use crate::model::LoadedModel;

/// A request body, parsed and not yet checked.
trait Body: DeserializeOwned {
    /// The answer's shape.
    type Shape: Shape;

    /// The model that is asked for.
    fn model(&self) -> Option<&str>;

    /// Checks every value, also against what the model can do; nothing is clamped.
    fn checked(self, model: &LoadedModel) -> Result<Checked<Self::Shape>, ApiError>;
}

/// What [`Body::checked`] makes of a request.
struct Checked<S> {
    inputs: Vec<Input>,
    shape: S,
    /// Whether the answer is a stream, and whether that ends with the usage.
    stream: Option<options::Stream>,
    names: Names,
}

/// What a request calls what errors may be about.
struct Names {
    prompt: &'static str,
    max_tokens: &'static str,
    /// Whether there may be several prompts.
    is_list: bool,
    choices: usize,
    /// The field that says what the answer has to look like.
    format: Option<FormatField>,
}

async fn generate<B: Body>(
    State(api): State<Arc<Api>>,
    Extension(request_id): Extension<RequestId>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    let started = Instant::now();
    match answer::<B>(&api, (&request_id, &caller), request, started).await {
        Ok(response) => response,
        Err(error) => error.respond_in(Dialect::OpenAi, &request_id),
    }
}

async fn answer<B: Body>(
    api: &Api,
    (request_id, caller): (&RequestId, &Caller),
    request: Request,
    started: Instant,
) -> Result<Response, ApiError> {
    let body: B = json::read(request.into_body(), api.limits.body_bytes).await?;
    let model = api.pin(caller, body.model()).await?;
    let revision = HeaderValue::from_str(&model.revision).expect("a revision is hexadecimal");
    let Checked { mut inputs, shape, stream, names } = body.checked(&model)?;
    let timeout = model.live().request_timeout.saturating_sub(started.elapsed());
    for input in &mut inputs {
        input.timeout = Some(timeout);
    }
    let generations =
        generate::start(caller, model, inputs).await.map_err(|refused| names.refused(refused))?;
    let answer = Answer::new(shape, names, request_id, &generations);
    let mut response = match stream {
        Some(stream) => answer.stream(generations, stream, request_id.clone()),
        None => answer.whole(generations).await?.into_response(),
    };
    response.headers_mut().insert("x-model-revision", revision);
    Ok(response)
}

/// What comes of a body, of a chat or of a completion.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn fuzzed(is_chat: bool, body: &[u8], model: &LoadedModel) -> Result<Vec<Input>, ApiError> {
    if is_chat {
        Ok(json::parse::<chat::ChatRequest>(body)?.checked(model)?.inputs)
    } else {
        Ok(json::parse::<completions::CompletionRequest>(body)?.checked(model)?.inputs)
    }
}

impl Names {
    /// The error of a request that did not begin, with the field that is at fault under its name here.
    fn refused(&self, refused: generate::Refused) -> ApiError {
        if let (generate::GenerateError::Format(error), Some(FormatField::Tools(first))) =
            (&refused.error, self.format)
            && let Some(index) = error.function
        {
            let field = format!("tools[{}].function.parameters", first + index);
            return ApiError::invalid_value(&field, format!("{field}: {}", error.message));
        }
        let too_many = matches!(refused.error, generate::GenerateError::TooManyGenerations { .. });
        let error = ApiError::refused(refused, |index| match index {
            Some(index) if self.is_list => format!("{}[{index}]", self.prompt),
            _ if too_many && self.choices > 1 => "n".to_owned(),
            _ => self.prompt.to_owned(),
        });
        self.named(error)
    }

    /// An error with the names of the fields here.
    fn named(&self, error: ApiError) -> ApiError {
        let field = error.field.as_deref().unwrap_or_default();
        let name = match (field.strip_prefix("format"), self.format) {
            _ if field == "max_tokens" => self.max_tokens,
            (Some(part), Some(format)) => format.named(part.strip_prefix('.')),
            _ => return error,
        };
        error.at(name)
    }
}
