//! What is known of the server and of its models, without asking a model.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::check_version;
use super::path::ModelPath;
use crate::http::error::ApiError;
use crate::http::known::{model_named, model_to_ask};
use crate::http::{Api, ops};
use crate::model::Snapshot;

/// `{"live"}`, also of readiness: the specification has this name for both.
#[derive(Debug, Serialize)]
struct Live {
    live: bool,
}

/// `{"name", "version", "extensions"}`
#[derive(Debug, Serialize)]
pub(super) struct ServerMetadata {
    name: &'static str,
    version: &'static str,
    extensions: [&'static str; 1],
}

/// `{"name", "versions", "platform", "inputs", "outputs"}`
#[derive(Debug, Serialize)]
struct ModelMetadata<'a> {
    name: &'a str,
    /// The one that answers.
    versions: [&'a str; 1],
    platform: &'static str,
    inputs: [Tensor; 1],
    outputs: [Tensor; 1],
}

/// `{"name", "datatype", "shape"}`
#[derive(Debug, Serialize)]
struct Tensor {
    name: &'static str,
    datatype: &'static str,
    shape: [i64; 1],
}

/// `{"name", "ready"}`
#[derive(Debug, Serialize)]
struct ModelReady<'a> {
    name: &'a str,
    ready: bool,
}

/// `GET /v2/health/live`: as `/livez`.
pub(super) async fn live(State(api): State<Arc<Api>>) -> Response {
    told(ops::stuck_for_good(&api).is_empty())
}

/// `GET /v2/health/ready`: as `/readyz`, and all models can answer.
pub(super) async fn ready(State(api): State<Arc<Api>>) -> Response {
    let readiness = ops::readiness(&api);
    told(readiness.ready && readiness.models.iter().all(|model| model.answers == Some(true)))
}

fn told(live: bool) -> Response {
    (status(live), Json(Live { live })).into_response()
}

fn status(is_well: bool) -> StatusCode {
    if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// `GET /v2`
pub(super) async fn server() -> Json<ServerMetadata> {
    Json(ServerMetadata {
        name: "inference-gateway",
        version: env!("CARGO_PKG_VERSION"),
        extensions: ["generate"],
    })
}

/// `GET /v2/models/{name}[/versions/{version}]`
pub(super) fn model(api: &Api, path: &ModelPath) -> Result<Response, ApiError> {
    let snapshot = model_to_ask(api, &path.name)?;
    check_version(path, &snapshot.key, version(&snapshot))?;
    let text = |name| Tensor { name, datatype: "BYTES", shape: [1] };
    let metadata = ModelMetadata {
        name: &path.name,
        versions: [version(&snapshot)],
        platform: "onnx_onnxv1",
        inputs: [text("text_input")],
        outputs: [text("text_output")],
    };
    Ok(Json(metadata).into_response())
}

/// `GET /v2/models/{name}[/versions/{version}]/ready`
pub(super) fn model_ready(api: &Api, path: &ModelPath) -> Result<Response, ApiError> {
    let snapshot = model_named(api, &path.name)?;
    check_version(path, &snapshot.key, version(&snapshot))?;
    let models = ops::readiness(api).models;
    let own = models.iter().find(|model| model.name == snapshot.key.as_str());
    let ready = own.is_some_and(|model| model.answers == Some(true));
    Ok((status(ready), Json(ModelReady { name: &path.name, ready })).into_response())
}

/// The revision that answers; the wanted one while none does.
fn version(snapshot: &Snapshot) -> &str {
    snapshot.serving.as_ref().map_or(&snapshot.status.revision, |serving| &serving.revision)
}
