//! The Open Inference Protocol, version 2, with its generate extension: below `/v2`.
//!
//! ```text
//! operations.rs             the routes, and how they are described
//! health.rs                 live, ready, the server, models: what is known, no model is asked
//! request.rs ─▶ Input ─▶ generate::start ─▶ Generations ─▶ answer.rs   one body, or an event for each piece
//! ```
//!
//! Tensors (`infer`) are not served: the error says what is. Fields that are not supported are refused by name.
//!
//! From: Open Inference Protocol, `inference_rest.md` and `generate_rest.yaml`; Triton, `extension_generate.md`.

mod answer;
mod described;
mod distinct;
mod errors;
mod health;
mod operations;
mod path;
mod request;

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Extension, Path, Request, State};
use axum::http::header::ALLOW;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};

pub(super) use errors::{ErrorBody, body, status};
pub(super) use operations::routes;

use self::answer::Answer;
use self::path::{ModelPath, Wanted};
use self::request::{Checked, GenerateRequest};
use super::error::{ApiError, Dialect};
use super::request_id::RequestId;
use super::{Api, json};
use crate::access::Caller;
use crate::generate;
use crate::model::ModelName;

/// Everything below `/v2/models/`.
async fn of_model(
    State(api): State<Arc<Api>>,
    Extension(request_id): Extension<RequestId>,
    Extension(caller): Extension<Caller>,
    Path(path): Path<String>,
    request: Request,
) -> Response {
    let started = Instant::now();
    let path = ModelPath::parse(&path);
    let method = request.method();
    if !path.wanted.methods().contains(method) {
        return wrong_method(method, path.wanted, &request_id);
    }
    let answer = match path.wanted {
        Wanted::Metadata => operations::model(&api, &caller, &path).await,
        Wanted::Ready => operations::model_ready(&api, &caller, &path).await,
        Wanted::Infer => Err(no_tensors(&path)),
        Wanted::Generate => operations::generate((&api, &caller), &path, request, started).await,
        Wanted::GenerateStream => {
            operations::generate_stream((&api, &caller), &path, request, started, request_id.clone()).await
        }
    };
    answer.unwrap_or_else(|error| error.respond_in(Dialect::OpenInference, &request_id))
}

/// The router sees one path for all that is asked of models, so the methods are told here.
fn wrong_method(method: &Method, wanted: Wanted, request_id: &RequestId) -> Response {
    let message = format!("{method} is not allowed here");
    let error = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message);
    let allowed = wanted.methods().iter().map(Method::as_str).collect::<Vec<_>>().join(",");
    let mut response = error.respond_in(Dialect::OpenInference, request_id);
    response.headers_mut().insert(ALLOW, HeaderValue::from_str(&allowed).expect("methods are plain"));
    response
}

/// Answers with a stream where it is told the request's id.
async fn generated(
    (api, caller): (&Api, &Caller),
    path: &ModelPath,
    request: Request,
    started: Instant,
    stream: Option<RequestId>,
) -> Result<Response, ApiError> {
    let body: GenerateRequest = json::read(request.into_body(), api.limits.body_bytes).await?;
    let model = api.pin(caller, Some(&path.name)).await?;
    check_version(path, &model.name, &model.revision)?;
    let revision = HeaderValue::from_str(&model.revision).expect("a revision is hexadecimal");
    let vocabulary_size = model.engine.geometry().vocabulary_size;
    let Checked { mut input, id, details } = body.checked(vocabulary_size, stream.is_some())?;
    input.timeout = Some(model.live().request_timeout.saturating_sub(started.elapsed()));
    let prompt = |_index| "text_input".to_owned();
    let generations = generate::start(caller, model, vec![input]).await;
    let generations = generations.map_err(|refused| ApiError::refused(refused, prompt))?;
    let answer = Answer::new(id, details, &generations);
    let mut response = match stream {
        Some(request_id) => answer.stream(generations, request_id),
        None => answer.whole(generations).await?.into_response(),
    };
    response.headers_mut().insert("x-model-revision", revision);
    Ok(response)
}

/// The versions of a model are its revisions, and the one that answers is the only one that can be asked for.
fn check_version(path: &ModelPath, name: &ModelName, revision: &str) -> Result<(), ApiError> {
    match path.version.as_deref() {
        Some(version) if version != revision => {
            let message = format!(
                "there is no version `{version}` of the model `{name}`: its version now is `{revision}`"
            );
            Err(ApiError::new(StatusCode::NOT_FOUND, "version_not_found", message))
        }
        _ => Ok(()),
    }
}

fn no_tensors(path: &ModelPath) -> ApiError {
    let name = &path.name;
    let message = format!(
        "infer is not supported: models here take a text and answer with one; use POST /v2/models/{name}/generate, or \
         /v2/models/{name}/generate_stream for a stream, with {{\"text_input\": \"…\"}}"
    );
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "unsupported", message)
}

/// What comes of a body.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn fuzzed(
    is_stream: bool,
    body: &[u8],
    vocabulary_size: usize,
) -> Result<generate::Input, ApiError> {
    Ok(json::parse::<GenerateRequest>(body)?.checked(vocabulary_size, is_stream)?.input)
}
