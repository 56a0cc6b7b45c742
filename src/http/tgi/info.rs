//! `GET /info` and `GET /health`.

use std::num::NonZero;
use std::sync::Arc;
use std::thread::available_parallelism;

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::generate::MOST_GENERATIONS;
use crate::http::error::{ApiError, Dialect};
use crate::http::parameters::MOST_STOP_STRINGS;
use crate::http::request_id::RequestId;
use crate::http::{Api, ops};

/// What is served, and its limits.
///
/// From: TGI, docs/openapi.json, `Info`
#[derive(Debug, Serialize)]
struct Info {
    model_id: String,
    /// The revision that answers.
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
    sha: (),
    docker_label: (),
}

/// `GET /info`
pub(super) async fn info(
    State(api): State<Arc<Api>>,
    Extension(request_id): Extension<RequestId>,
) -> Response {
    match api.registry.pin(None, api.limits.request_timeout).await {
        Ok(model) => {
            let (places, total_tokens) = (model.engine.places(), model.engine.longest_tokens());
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
        Err(unavailable) => ApiError::from(unavailable).respond_in(Dialect::Tgi, &request_id),
    }
}

/// `GET /health`: as `/readyz`.
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
