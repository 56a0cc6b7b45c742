//! The routes of the dialect, and how those of a model are described.
//!
//! A model's name may have slashes, which the router knows only at the end of a path. So there is one route for all of a model,
//! `/v2/models/{*path}`, and the functions that it comes to have the descriptions, each without a version and with one.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::Request;
use axum::response::Response;
use axum::routing::get;
use utoipa::openapi::path::{ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{OpenApi as Document, Required};
use utoipa::{IntoResponses, OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{GenerateEvent, GenerateResponse};
use super::errors::ErrorBody;
use super::health::{self, ModelMetadata, ModelReady};
use super::path::ModelPath;
use super::request::GenerateRequest;
use super::{generated, of_model};
use crate::access::Caller;
use crate::http::Api;
use crate::http::error::ApiError;
use crate::http::openapi::OIP;
use crate::http::request_id::RequestId;

/// Of all that is described of models.
const MODEL: &str = "/v2/models/{name}";

/// The data of an event: a piece of the text, or what went wrong on the way.
#[derive(ToSchema)]
#[schema(as = OipStream)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes what is written as one or the other")]
enum Stream {
    Event(GenerateEvent<'static>),
    Failed(ErrorBody),
}

/// What a model that does not answer is told by: its state, or that it is not known yet which models there are.
#[derive(ToSchema)]
#[schema(as = OipModelNotReady)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes what is written as one or the other")]
enum NotReady {
    Known(ModelReady<'static>),
    Unknown(ErrorBody),
}

/// How a request fails before its answer has begun.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes what `http/error.rs` makes of errors")]
enum Failures {
    /// There is no such model or version
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// The body is larger than this gateway takes
    #[response(status = 413)]
    TooLarge(ErrorBody),
    /// The body is no JSON, a field is at fault, or prompt and output do not fit
    #[response(status = 422)]
    Invalid(ErrorBody),
    /// The model failed while it generated
    #[response(status = 424)]
    Failed(ErrorBody),
    /// All places are taken
    #[response(status = 429, headers(("retry-after" = u32, description = "Seconds after which to try again")))]
    Overloaded(ErrorBody),
    /// The generation did not come to its end: its time is over, the model was replaced, or the gateway failed
    #[response(status = 500)]
    Incomplete(ErrorBody),
    /// The model is not ready, or the process is ending
    #[response(status = 503, headers(("retry-after" = u32, description = "Seconds after which to try again")))]
    Unavailable(ErrorBody),
}

#[derive(OpenApi)]
#[openapi(paths(model, model_ready, generate, generate_stream))]
struct OfModels;

/// The routes of the dialect.
pub(in crate::http) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::with_openapi(with_versions(OfModels::openapi()))
        .route("/v2/models/{*path}", get(of_model).post(of_model).fallback(of_model))
        .routes(routes!(health::server))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
}

/// Adds each operation for a version that is named.
fn with_versions(mut document: Document) -> Document {
    let named: Vec<(String, PathItem)> = document.paths.paths.clone().into_iter().collect();
    for (path, mut item) in named {
        for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
            operation.operation_id.iter_mut().for_each(|id| id.push_str("_of_version"));
            operation.summary.iter_mut().for_each(|summary| summary.push_str(", by its version"));
            operation.parameters.get_or_insert_default().push(version().into());
        }
        let path = path.replacen(MODEL, "/v2/models/{name}/versions/{version}", 1);
        document.paths.paths.insert(path, item);
    }
    document
}

fn version() -> utoipa::openapi::path::Parameter {
    ParameterBuilder::new()
        .name("version")
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some("The revision that answers; there is no other"))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .build()
}

/// Look at a model
#[utoipa::path(
    get,
    path = "/v2/models/{name}",
    operation_id = "oip_model",
    tag = OIP,
    params(("name" = String, Path, description = "One of its names, which may have slashes")),
    responses(
        (status = 200, description = "The model", body = ModelMetadata, example = json!({
            "name": "smollm2-135m-instruct",
            "versions": ["5e1c9b0a7d3f"],
            "platform": "onnx_onnxv1",
            "inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1]}],
            "outputs": [{"name": "text_output", "datatype": "BYTES", "shape": [1]}],
        })),
        (status = 404, description = "There is no such model or version", body = ErrorBody),
        (
            status = 503,
            description = "It is not known yet which models to serve, or this one cannot answer now",
            body = ErrorBody,
            headers(("retry-after" = u32, description = "Seconds after which to try again")),
        ),
    ),
)]
pub(super) async fn model(api: &Api, caller: &Caller, path: &ModelPath) -> Result<Response, ApiError> {
    health::model(api, caller, path).await
}

/// Whether a model answers
#[utoipa::path(
    get,
    path = "/v2/models/{name}/ready",
    operation_id = "oip_model_ready",
    tag = OIP,
    params(("name" = String, Path, description = "One of its names, which may have slashes")),
    responses(
        (status = 200, description = "It does", body = ModelReady, example = json!({"name": "smollm2-135m-instruct", "ready": true})),
        (status = 404, description = "There is no such model or version", body = ErrorBody),
        (
            status = 503,
            description = "It does not, or it is not known yet which models to serve",
            body = NotReady,
            example = json!({"name": "smollm2-135m-instruct", "ready": false}),
        ),
    ),
)]
pub(super) async fn model_ready(api: &Api, caller: &Caller, path: &ModelPath) -> Result<Response, ApiError> {
    health::model_ready(api, caller, path).await
}

/// Continue a text
///
/// A field that is not described here is refused with its name.
#[utoipa::path(
    post,
    path = "/v2/models/{name}/generate",
    operation_id = "oip_generate",
    tag = OIP,
    params(("name" = String, Path, description = "One of its names, which may have slashes")),
    request_body(content = GenerateRequest, examples(
        ("text" = (summary = "A text", value = json!({
            "text_input": "The capital of France is", "parameters": {"max_tokens": 24, "temperature": 0},
        }))),
        ("details" = (summary = "With its tokens", value = json!({
            "id": "1", "text_input": "The capital of France is", "max_tokens": 8, "seed": 7, "details": true,
        }))),
    )),
    responses(
        (
            status = 200,
            description = "The answer",
            content((GenerateResponse = "application/json", example = json!({
                "id": "1",
                "model_name": "smollm2-135m-instruct",
                "model_version": "5e1c9b0a7d3f",
                "text_output": " Paris.",
                "details": {
                    "finish_reason": "eos_token",
                    "logprobs": [{"id": 7042, "text": " Paris", "logprob": -0.31, "special": false}],
                },
            }))),
            headers(("x-model-revision" = String, description = "The revision of the model that answered")),
        ),
        Failures,
    ),
)]
pub(super) async fn generate(
    asked: (&Api, &Caller),
    path: &ModelPath,
    request: Request,
    started: Instant,
) -> Result<Response, ApiError> {
    generated(asked, path, request, started, None).await
}

/// Continue a text, as a stream
///
/// The pieces come as server-sent events while they are made; with `details` one for each token.
#[utoipa::path(
    post,
    path = "/v2/models/{name}/generate_stream",
    operation_id = "oip_generate_stream",
    tag = OIP,
    params(("name" = String, Path, description = "One of its names, which may have slashes")),
    request_body(content = GenerateRequest, example = json!({
        "text_input": "Once upon a time", "parameters": {"max_tokens": 64, "temperature": 0.8, "seed": 7},
    })),
    responses(
        (
            status = 200,
            description = "The pieces of the text",
            content((Stream = "text/event-stream", example = json!({
                "model_name": "smollm2-135m-instruct", "model_version": "5e1c9b0a7d3f", "text_output": ", there",
            }))),
            headers(("x-model-revision" = String, description = "The revision of the model that answered")),
        ),
        Failures,
    ),
)]
pub(super) async fn generate_stream(
    asked: (&Api, &Caller),
    path: &ModelPath,
    request: Request,
    started: Instant,
    request_id: RequestId,
) -> Result<Response, ApiError> {
    generated(asked, path, request, started, Some(request_id)).await
}
