//! Text Generation Inference: `/generate`, `/generate_stream`, both at `/`, and what tells about the server.
//!
//! ```text
//! operations.rs            the routes, and how they are described
//! request.rs, grammar.rs ─▶ Input ─▶ generate::start ─▶ Generations ─▶ answer.rs   one body, with headers.rs
//!                                                                  └─▶ stream.rs   an event for each token
//! ```
//!
//! No field of this dialect names a model, so it speaks to the only one. Fields that are not supported are refused by name.
//!
//! From: TGI, docs/openapi.json and router/src.

mod answer;
mod described;
mod errors;
mod grammar;
mod headers;
mod info;
mod operations;
mod request;
mod stream;
mod tokenize;

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Extension, Request, State};
use axum::http::HeaderValue;
use axum::response::Response;

pub(super) use errors::{ErrorBody, body};
pub(super) use operations::routes;

use self::request::{Asked, Checked, GenerateRequest};
use super::error::{ApiError, Dialect};
use super::request_id::RequestId;
use super::{Api, json};
use crate::access::Caller;
use crate::generate::{GenerateError, start};

/// The paths of the dialect; errors at them have its body.
pub(super) const PATHS: [&str; 6] = ["/", "/generate", "/generate_stream", "/tokenize", "/info", "/health"];

/// Which request it is, and of whom.
type Whose = (Extension<RequestId>, Extension<Caller>);

async fn generated(
    State(api): State<Arc<Api>>,
    (Extension(request_id), Extension(caller)): Whose,
    request: Request,
    asked: Asked,
) -> Response {
    match answer(&api, (&request_id, &caller), request, asked).await {
        Ok(response) => response,
        Err(error) => error.respond_in(Dialect::Tgi, &request_id),
    }
}

async fn answer(
    api: &Api,
    (request_id, caller): (&RequestId, &Caller),
    request: Request,
    asked: Asked,
) -> Result<Response, ApiError> {
    let started = Instant::now();
    let body: GenerateRequest = json::read(request.into_body(), api.limits.body_bytes).await?;
    let model = api.pin(caller, None).await?;
    let revision = HeaderValue::from_str(&model.revision).expect("a revision is hexadecimal");
    let Checked { mut input, shape } = body.checked(asked)?;
    input.timeout = Some(model.live().request_timeout.saturating_sub(started.elapsed()));
    let generations = start(caller, model, vec![input]).await.map_err(|refused| {
        // One prompt alone is never too many.
        let too_many = matches!(refused.error, GenerateError::TooManyGenerations { .. });
        ApiError::refused(refused, |_index| if too_many { "best_of" } else { "inputs" }.to_owned())
    })?;
    let mut response = if shape.is_stream {
        stream::stream(generations, shape, request_id.clone())
    } else {
        answer::whole(generations, shape, started, asked == Asked::Either).await?
    };
    response.headers_mut().insert("x-model-revision", revision);
    Ok(response)
}

/// What comes of a body of the path `/`.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn fuzzed(body: &[u8]) -> Result<crate::generate::Input, ApiError> {
    Ok(json::parse::<GenerateRequest>(body)?.checked(Asked::Either)?.input)
}
