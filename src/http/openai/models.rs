//! `GET /v1/models` and `GET /v1/models/{id}`: what can be asked for now.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::http::Api;
use crate::http::error::{ApiError, Dialect};
use crate::http::known::{can_be_asked, model_to_ask};
use crate::http::request_id::RequestId;
use crate::model::{Snapshot, Unavailable};

/// `{"object": "list", "data": [ … ]}`
#[derive(Debug, Serialize)]
struct ModelList {
    object: &'static str,
    data: Vec<ModelEntry>,
}

/// `{"id", "object": "model", "created", "owned_by"}`
#[derive(Debug, Serialize)]
struct ModelEntry {
    id: String,
    object: &'static str,
    /// When what answers now began to; 0 while nothing is in memory.
    created: u64,
    owned_by: &'static str,
}

/// `GET /v1/models`
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Extension(request_id): Extension<RequestId>,
) -> Response {
    let snapshots = api.registry.snapshots();
    if snapshots.is_empty() && !api.registry.is_synced() {
        return ApiError::from(Unavailable::NotKnown).respond_in(Dialect::OpenAi, &request_id);
    }
    let mut data: Vec<ModelEntry> =
        snapshots.iter().filter(|snapshot| can_be_asked(snapshot)).flat_map(entries).collect();
    data.sort_by(|one, other| one.id.cmp(&other.id));
    Json(ModelList { object: "list", data }).into_response()
}

/// `GET /v1/models/{id}`; an id may have slashes.
pub(super) async fn one(
    State(api): State<Arc<Api>>,
    Extension(request_id): Extension<RequestId>,
    Path(id): Path<String>,
) -> Response {
    match model_to_ask(&api, &id) {
        Ok(snapshot) => Json(entries(&snapshot).find(|entry| entry.id == id)).into_response(),
        Err(unavailable) => ApiError::from(unavailable).respond_in(Dialect::OpenAi, &request_id),
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
