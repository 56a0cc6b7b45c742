//! The Open Inference Protocol, version 2, with its generate extension: below `/v2`.
//!
//! ```text
//! health.rs                 live, ready, the server, models: what is known, no model is asked
//! request.rs ─▶ Input ─▶ generate::start ─▶ Generations ─▶ answer.rs   one body, or an event for each piece
//! ```
//!
//! Tensors (`infer`) are not served: the error says what is. Fields that are not supported are refused by name.
//!
//! From: Open Inference Protocol, `inference_rest.md` and `generate_rest.yaml`; Triton, `extension_generate.md`.

mod answer;
mod errors;
mod health;
mod path;
mod request;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{Extension, Path, Request, State};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

pub(super) use errors::{body, status};

use self::answer::Answer;
use self::path::{ModelPath, Wanted};
use self::request::{Checked, GenerateRequest};
use super::error::{ApiError, Dialect};
use super::request_id::RequestId;
use super::{Api, json};
use crate::generate;
use crate::model::ModelName;

/// The routes of the dialect.
pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/v2", get(health::server))
        .route("/v2/health/live", get(health::live))
        .route("/v2/health/ready", get(health::ready))
        .route("/v2/models/{*path}", get(of_model).post(of_model))
}

/// Everything below `/v2/models/`.
async fn of_model(
    State(api): State<Arc<Api>>,
    Extension(request_id): Extension<RequestId>,
    Path(path): Path<String>,
    request: Request,
) -> Response {
    let started = Instant::now();
    let path = ModelPath::parse(&path);
    let is_get = *request.method() != Method::POST;
    let answer = match (path.wanted, is_get) {
        (Wanted::Metadata, true) => health::model(&api, &path),
        (Wanted::Ready, true) => health::model_ready(&api, &path),
        (Wanted::Infer, false) => Err(no_tensors(&path)),
        (Wanted::Generate, false) => generated(&api, &path, request, started, None).await,
        (Wanted::GenerateStream, false) => {
            generated(&api, &path, request, started, Some(request_id.clone())).await
        }
        (Wanted::Metadata | Wanted::Ready, false)
        | (Wanted::Infer | Wanted::Generate | Wanted::GenerateStream, true) => {
            let message = format!("{} is not allowed here", request.method());
            Err(ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message))
        }
    };
    answer.unwrap_or_else(|error| error.respond_in(Dialect::OpenInference, &request_id))
}

/// Answers with a stream where it is told the request's id.
async fn generated(
    api: &Api,
    path: &ModelPath,
    request: Request,
    started: Instant,
    stream: Option<RequestId>,
) -> Result<Response, ApiError> {
    let body: GenerateRequest = json::read(request.into_body(), api.limits.body_bytes).await?;
    let model = api.registry.pin(Some(&path.name), api.limits.request_timeout).await?;
    check_version(path, &model.name, &model.revision)?;
    let revision = HeaderValue::from_str(&model.revision).expect("a revision is hexadecimal");
    let vocabulary_size = model.engine.geometry().vocabulary_size;
    let Checked { mut input, id, details } = body.checked(vocabulary_size, stream.is_some())?;
    input.timeout = Some(model.live().request_timeout.saturating_sub(started.elapsed()));
    let prompt = |_index| "text_input".to_owned();
    let generations = generate::start(model, vec![input]).await;
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
