//! `GET /v1/models` and `GET /v1/models/{id}`: what can be asked for now.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::openapi::Object;
use utoipa::{IntoResponses, ToSchema};

use super::errors::ErrorBody;
use crate::access::Caller;
use crate::http::Api;
use crate::http::error::{ApiError, Dialect};
use crate::http::known::{can_be_asked, model_to_ask};
use crate::http::openapi::OPENAI;
use crate::http::parameters::schemas::word;
use crate::http::request_id::RequestId;
use crate::model::{Snapshot, Unavailable};

/// The models that can be asked for now.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OpenAiModels)]
struct ModelList {
    #[schema(schema_with = list_object)]
    object: &'static str,
    data: Vec<ModelEntry>,
}

/// A model, under one of its names.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OpenAiModel)]
struct ModelEntry {
    /// The name to ask for it by
    id: String,
    #[schema(schema_with = model_object)]
    object: &'static str,
    /// When what answers now began to, in seconds since 1970; 0 while nothing is in memory
    created: u64,
    owned_by: &'static str,
}

fn list_object() -> Object {
    word(["list"]).build()
}

fn model_object() -> Object {
    word(["model"]).build()
}

/// How both fail.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes what `http/error.rs` makes of errors")]
enum Failures {
    /// It is not known yet which models to serve, or this one cannot answer now (`model_not_ready`)
    #[response(status = 503, headers(("retry-after" = u32, description = "Seconds after which to try again")))]
    Unavailable(ErrorBody),
}

/// List the models
///
/// What can be asked for now, under each of its names.
#[utoipa::path(
    get,
    path = "/v1/models",
    operation_id = "list_models",
    tag = OPENAI,
    responses((status = 200, description = "The models", body = ModelList), Failures),
)]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Extension(request_id): Extension<RequestId>,
    Extension(caller): Extension<Caller>,
) -> Response {
    let snapshots = api.registry.snapshots();
    if snapshots.is_empty() && !api.registry.is_synced() {
        return ApiError::from(Unavailable::NotKnown).respond_in(Dialect::OpenAi, &request_id);
    }
    let mut data = Vec::new();
    for entry in snapshots.iter().filter(|snapshot| can_be_asked(snapshot)).flat_map(entries) {
        match caller.may_use(&entry.id).await {
            Ok(true) => data.push(entry),
            Ok(false) => {}
            Err(denied) => return ApiError::from(denied).respond_in(Dialect::OpenAi, &request_id),
        }
    }
    data.sort_by(|one, other| one.id.cmp(&other.id));
    Json(ModelList { object: "list", data }).into_response()
}

/// Look at a model
#[utoipa::path(
    get,
    path = "/v1/models/{*id}",
    operation_id = "get_model",
    tag = OPENAI,
    params(("id" = String, Path, description = "One of its names, which may have slashes")),
    responses(
        (status = 200, description = "The model", body = ModelEntry),
        (status = 404, description = "There is no such model (`model_not_found`)", body = ErrorBody),
        Failures,
    ),
)]
pub(super) async fn one(
    State(api): State<Arc<Api>>,
    Extension(request_id): Extension<RequestId>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Response {
    match model_to_ask(&api, &caller, &id).await {
        Ok(snapshot) => Json(entries(&snapshot).find(|entry| entry.id == id)).into_response(),
        Err(error) => error.respond_in(Dialect::OpenAi, &request_id),
    }
}

/// An entry for each of its names.
fn entries(snapshot: &Snapshot) -> impl Iterator<Item = ModelEntry> {
    let since = snapshot.status.serving_since.and_then(|since| since.duration_since(UNIX_EPOCH).ok());
    snapshot.names.iter().map(move |name| ModelEntry {
        id: name.to_string(),
        object: "model",
        created: since.map_or(0, |since| since.as_secs()),
        owned_by: "inference-gateway",
    })
}
