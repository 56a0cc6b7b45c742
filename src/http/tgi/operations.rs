//! The routes of the dialect, and how those that generate are described.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use utoipa::{IntoResponses, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::GenerateResponse;
use super::errors::ErrorBody;
use super::request::{Asked, GenerateRequest};
use super::stream::StreamResponse;
use super::{Whose, generated, info, tokenize};
use crate::http::Api;
use crate::http::openapi::TGI;

/// The data of an event: a token, or what went wrong on the way.
#[derive(ToSchema)]
#[schema(as = TgiStream)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes what is written as one or the other")]
enum Stream {
    Token(StreamResponse<'static>),
    Failed(ErrorBody),
}

/// How a request fails before its answer has begun.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes what `http/error.rs` makes of errors")]
pub(super) enum Failures {
    /// There is no model (`model_not_found`)
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// The body is larger than this gateway takes (`body_too_large`)
    #[response(status = 413)]
    TooLarge(ErrorBody),
    /// The body is no JSON, a field is at fault, prompt and output do not fit, or there are several models (`validation`)
    #[response(status = 422)]
    Invalid(ErrorBody),
    /// The model failed (`generation`)
    #[response(status = 424)]
    Failed(ErrorBody),
    /// All places are taken (`overloaded`)
    #[response(status = 429, headers(("retry-after" = u32, description = "Seconds after which to try again")))]
    Overloaded(ErrorBody),
    /// The generation did not come to its end (`incomplete_generation`), or the gateway failed (`internal_error`)
    #[response(status = 500)]
    Incomplete(ErrorBody),
    /// Not now (`model_not_ready`, `shutting_down`)
    #[response(status = 503, headers(("retry-after" = u32, description = "Seconds after which to try again")))]
    Unavailable(ErrorBody),
}

/// The routes of the dialect.
pub(in crate::http) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::default()
        .routes(routes!(either))
        .routes(routes!(generate))
        .routes(routes!(generate_stream))
        .routes(routes!(tokenize::tokens))
        .routes(routes!(info::info))
        .routes(routes!(info::health))
}

/// Continue a text, as a stream if the request says so
///
/// A whole answer is a list of one. A field that is not described here is refused with its name.
#[utoipa::path(
    post,
    path = "/",
    operation_id = "tgi_compat_generate",
    tag = TGI,
    request_body(content = GenerateRequest, examples(
        ("text" = (summary = "A text", value = json!({
            "inputs": "The capital of France is", "parameters": {"max_new_tokens": 24},
        }))),
        ("drawn" = (summary = "A draw, with its tokens", value = json!({
            "inputs": "Once upon a time",
            "parameters": {"max_new_tokens": 24, "do_sample": true, "temperature": 0.8, "seed": 7, "details": true},
        }))),
        ("stream" = (summary = "A stream", value = json!({
            "inputs": "Once upon a time", "parameters": {"max_new_tokens": 64}, "stream": true,
        }))),
    )),
    responses(
        (
            status = 200,
            description = "The answer; with `stream` its tokens",
            content(
                (Vec<GenerateResponse> = "application/json", example = json!([{"generated_text": " Paris."}])),
                (Stream = "text/event-stream", example = json!({
                "index": 1,
                "token": {"id": 7042, "text": " Paris", "logprob": -0.31, "special": false},
                "generated_text": null,
                "details": null,
            })),
            ),
            headers(
                ("x-model-revision" = String, description = "The revision of the model that answered"),
                ("x-compute-type" = String, description = "What computes: `cpu`"),
                ("x-compute-characters" = u64, description = "Characters of the prompt"),
                ("x-compute-time" = f64, description = "Seconds, without `stream`"),
                ("x-total-time" = u64, description = "Milliseconds, without `stream`"),
                ("x-validation-time" = u64, description = "Milliseconds until the prompt was handed on, without `stream`"),
                ("x-queue-time" = u64, description = "Milliseconds that it waited for a place, without `stream`"),
                ("x-inference-time" = u64, description = "Milliseconds of generation, without `stream`"),
                ("x-time-per-token" = u64, description = "Milliseconds of generation, for each token, without `stream`"),
                ("x-prompt-tokens" = u64, description = "Tokens of the prompt, without `stream`"),
                ("x-generated-tokens" = u64, description = "Tokens that were generated, without `stream`"),
            ),
        ),
        Failures,
    ),
)]
async fn either(api: State<Arc<Api>>, whose: Whose, request: Request) -> Response {
    generated(api, whose, request, Asked::Either).await
}

/// Continue a text
///
/// A field that is not described here is refused with its name.
#[utoipa::path(
    post,
    path = "/generate",
    operation_id = "tgi_generate",
    tag = TGI,
    request_body(content = GenerateRequest, examples(
        ("text" = (summary = "A text", value = json!({
            "inputs": "The capital of France is", "parameters": {"max_new_tokens": 24},
        }))),
        ("drawn" = (summary = "A draw, with its tokens", value = json!({
            "inputs": "Once upon a time",
            "parameters": {"max_new_tokens": 24, "do_sample": true, "temperature": 0.8, "seed": 7, "details": true},
        }))),
        ("schema" = (summary = "JSON of a schema", value = json!({
            "inputs": "The capital of France, as JSON: ",
            "parameters": {"max_new_tokens": 64, "grammar": {"type": "json", "value": {
                "type": "object",
                "properties": {"city": {"type": "string", "maxLength": 30}},
                "required": ["city"],
                "additionalProperties": false,
            }}},
        }))),
    )),
    responses(
        (
            status = 200,
            description = "The answer",
            content((GenerateResponse = "application/json", example = json!({"generated_text": " Paris."}))),
            headers(
                ("x-model-revision" = String, description = "The revision of the model that answered"),
                ("x-compute-type" = String, description = "What computes: `cpu`"),
                ("x-compute-characters" = u64, description = "Characters of the prompt"),
                ("x-compute-time" = f64, description = "Seconds"),
                ("x-total-time" = u64, description = "Milliseconds"),
                ("x-validation-time" = u64, description = "Milliseconds until the prompt was handed on"),
                ("x-queue-time" = u64, description = "Milliseconds that it waited for a place"),
                ("x-inference-time" = u64, description = "Milliseconds of generation"),
                ("x-time-per-token" = u64, description = "Milliseconds of generation, for each token"),
                ("x-prompt-tokens" = u64, description = "Tokens of the prompt"),
                ("x-generated-tokens" = u64, description = "Tokens that were generated"),
            ),
        ),
        Failures,
    ),
)]
async fn generate(api: State<Arc<Api>>, whose: Whose, request: Request) -> Response {
    generated(api, whose, request, Asked::Whole).await
}

/// Continue a text, as a stream
///
/// The tokens come as server-sent events while they are made.
#[utoipa::path(
    post,
    path = "/generate_stream",
    operation_id = "tgi_generate_stream",
    tag = TGI,
    request_body(content = GenerateRequest, examples(
        ("text" = (summary = "A text", value = json!({
            "inputs": "The capital of France is", "parameters": {"max_new_tokens": 24},
        }))),
        ("drawn" = (summary = "A draw, with its tokens", value = json!({
            "inputs": "Once upon a time",
            "parameters": {"max_new_tokens": 24, "do_sample": true, "temperature": 0.8, "seed": 7, "details": true},
        }))),

    )),
    responses(
        (
            status = 200,
            description = "The tokens of the text",
            content((Stream = "text/event-stream", example = json!({
                "index": 1,
                "token": {"id": 7042, "text": " Paris", "logprob": -0.31, "special": false},
                "generated_text": null,
                "details": null,
            }))),
            headers(
                ("x-model-revision" = String, description = "The revision of the model that answered"),
                ("x-compute-type" = String, description = "What computes: `cpu`"),
                ("x-compute-characters" = u64, description = "Characters of the prompt"),
            ),
        ),
        Failures,
    ),
)]
async fn generate_stream(api: State<Arc<Api>>, whose: Whose, request: Request) -> Response {
    generated(api, whose, request, Asked::Stream).await
}
