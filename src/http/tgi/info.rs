//! `GET /info` and `GET /health`.

use std::num::NonZero;
use std::sync::Arc;
use std::thread::available_parallelism;

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::errors::ErrorBody;
use crate::access::Caller;
use crate::generate::{MOST_GENERATIONS, lane_of};
use crate::http::error::{ApiError, Dialect};
use crate::http::openapi::TGI;
use crate::http::parameters::{MOST_STOP_STRINGS, schemas};
use crate::http::request_id::RequestId;
use crate::http::{Api, ops};

/// What is served, and its limits.
///
/// From: TGI, docs/openapi.json, `Info`
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TgiInfo)]
struct Info {
    model_id: String,
    /// The revision that answers
    model_sha: String,
    model_pipeline_tag: &'static str,
    max_concurrent_requests: usize,
    max_best_of: usize,
    max_stop_sequences: usize,
    max_input_tokens: usize,
    max_total_tokens: usize,
    validation_workers: usize,
    max_client_batch_size: usize,
    router: &'static str,
    version: &'static str,
    /// Not built in: the version says it.
    #[schema(schema_with = schemas::nothing)]
    sha: (),
    #[schema(schema_with = schemas::nothing)]
    docker_label: (),
}

/// What is served, and its limits
#[utoipa::path(
    get,
    path = "/info",
    operation_id = "tgi_info",
    tag = TGI,
    responses(
        (status = 200, description = "The model and the limits of requests", body = Info),
        (status = 404, description = "There is no model", body = ErrorBody),
        (status = 422, description = "There are several models, and nothing says which one", body = ErrorBody),
        (
            status = 429,
            description = "All places are taken where the model waits for memory",
            body = ErrorBody,
            headers(("retry-after" = u32, description = "Seconds after which to try again")),
        ),
        (
            status = 503,
            description = "The model is not ready",
            body = ErrorBody,
            headers(("retry-after" = u32, description = "Seconds after which to try again")),
        ),
    ),
)]
pub(super) async fn info(
    State(api): State<Arc<Api>>,
    Extension(request_id): Extension<RequestId>,
    Extension(caller): Extension<Caller>,
) -> Response {
    match api.pin(&caller, None).await {
        Ok(model) => {
            let (places, total_tokens) =
                (model.engine.places(lane_of(&caller)), model.engine.longest_tokens());
            Json(Info {
                model_id: model.name.to_string(),
                model_sha: model.revision.clone(),
                model_pipeline_tag: "text-generation",
                max_concurrent_requests: places,
                max_best_of: MOST_GENERATIONS.min(places),
                max_stop_sequences: MOST_STOP_STRINGS,
                max_input_tokens: total_tokens.saturating_sub(1),
                max_total_tokens: total_tokens,
                validation_workers: available_parallelism().map_or(1, NonZero::get),
                max_client_batch_size: 1,
                router: "inference-gateway",
                version: env!("CARGO_PKG_VERSION"),
                sha: (),
                docker_label: (),
            })
            .into_response()
        }
        Err(error) => error.respond_in(Dialect::Tgi, &request_id),
    }
}

/// Whether requests would be answered
///
/// As `/readyz`.
#[utoipa::path(
    get,
    path = "/health",
    operation_id = "tgi_health",
    tag = TGI,
    responses(
        (status = 200, description = "They would; the answer is empty"),
        (status = 503, description = "They would not", body = ErrorBody, example = json!({"error": "unhealthy", "error_type": "healthcheck"})),
    ),
)]
pub(super) async fn health(
    State(api): State<Arc<Api>>,
    Extension(request_id): Extension<RequestId>,
) -> Response {
    if ops::readiness(&api).ready {
        return StatusCode::OK.into_response();
    }
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "healthcheck", "unhealthy")
        .respond_in(Dialect::Tgi, &request_id)
}
