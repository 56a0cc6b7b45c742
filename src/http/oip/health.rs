//! What is known of the server and of its models, without asking a model.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::check_version;
use super::path::ModelPath;
use crate::access::Caller;
use crate::http::error::ApiError;
use crate::http::known::{model_named, model_to_ask};
use crate::http::openapi::OIP;
use crate::http::{Api, ops};
use crate::model::Snapshot;

/// Also of readiness: the specification has this name for both.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OipLive)]
struct Live {
    live: bool,
}

/// What serves.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OipServer)]
pub(super) struct ServerMetadata {
    name: &'static str,
    version: &'static str,
    #[schema(value_type = Vec<String>)]
    extensions: [&'static str; 1],
}

/// What a model takes and answers.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OipModel)]
pub(super) struct ModelMetadata<'a> {
    /// As it was asked for
    name: &'a str,
    /// The revision that answers
    #[schema(value_type = Vec<String>)]
    versions: [&'a str; 1],
    platform: &'static str,
    #[schema(value_type = Vec<Tensor>)]
    inputs: [Tensor; 1],
    #[schema(value_type = Vec<Tensor>)]
    outputs: [Tensor; 1],
}

/// A text that a model takes or answers.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OipTensor)]
struct Tensor {
    name: &'static str,
    datatype: &'static str,
    #[schema(value_type = Vec<i64>)]
    shape: [i64; 1],
}

/// Whether a model answers.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OipModelReady)]
pub(super) struct ModelReady<'a> {
    /// As it was asked for
    name: &'a str,
    ready: bool,
}

/// Whether the server is alive
///
/// As `/livez`.
#[utoipa::path(
    get,
    path = "/v2/health/live",
    operation_id = "oip_live",
    tag = OIP,
    responses(
        (status = 200, description = "It is", body = Live, example = json!({"live": true})),
        (status = 503, description = "An engine is stuck", body = Live, example = json!({"live": false})),
    ),
)]
pub(super) async fn live(State(api): State<Arc<Api>>) -> Response {
    told(ops::stuck_for_good(&api).is_empty())
}

/// Whether all models answer
///
/// As `/readyz`, and no model is left out.
#[utoipa::path(
    get,
    path = "/v2/health/ready",
    operation_id = "oip_ready",
    tag = OIP,
    responses(
        (status = 200, description = "They do", body = Live, example = json!({"live": true})),
        (status = 503, description = "One does not, or the process is ending", body = Live, example = json!({"live": false})),
    ),
)]
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

/// What serves
#[utoipa::path(
    get,
    path = "/v2",
    operation_id = "oip_server",
    tag = OIP,
    responses((
        status = 200,
        description = "Name and version of the server, and what it has beside the protocol",
        body = ServerMetadata,
        example = json!({"name": "inference-gateway", "version": "1.0.0", "extensions": ["generate"]}),
    )),
)]
pub(super) async fn server() -> Json<ServerMetadata> {
    Json(ServerMetadata {
        name: "inference-gateway",
        version: env!("CARGO_PKG_VERSION"),
        extensions: ["generate"],
    })
}

/// `GET /v2/models/{name}[/versions/{version}]`
pub(super) async fn model(api: &Api, caller: &Caller, path: &ModelPath) -> Result<Response, ApiError> {
    let snapshot = model_to_ask(api, caller, &path.name).await?;
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
pub(super) async fn model_ready(api: &Api, caller: &Caller, path: &ModelPath) -> Result<Response, ApiError> {
    let snapshot = model_named(api, caller, &path.name).await?;
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
