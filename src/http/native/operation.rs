//! The one route of the native API, and how it is described.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Extension, Request, State};
use axum::response::Response;
use utoipa::openapi::schema::{AnyOfBuilder, ArrayBuilder, Object, ObjectBuilder, Schema, Type};
use utoipa::{IntoResponses, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{DEFAULT_MAX_TOKENS, NativeAnswer, NativeEvent, NativeRequest};
use crate::access::Caller;
use crate::generate::{EndReason, MOST_GENERATIONS};
use crate::http::Api;
use crate::http::error::ErrorBody;
use crate::http::openapi::NATIVE;
use crate::http::parameters::schemas;
use crate::http::request_id::RequestId;

/// The data of an event: a piece, an end, or what went wrong on the way.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes what is written as one or the other")]
enum NativeStream {
    Event(NativeEvent),
    Failed(ErrorBody),
}

/// How a request fails before its answer has begun.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes what `http/error.rs` makes of errors")]
enum Failures {
    /// The body is no JSON (`invalid_json`) or ended early (`body_incomplete`), or prompt and `max_tokens` do not fit
    /// (`context_length_exceeded`, `cache_memory_exceeded`)
    #[response(status = 400)]
    BadRequest(ErrorBody),
    /// There is no such model (`model_not_found`)
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// The body is larger than this gateway takes (`body_too_large`)
    #[response(status = 413)]
    TooLarge(ErrorBody),
    /// A field is at fault (`invalid_value`, `unknown_field`, `missing_field`, `duplicate_field`, `model_required`,
    /// `format_too_complex`)
    #[response(status = 422)]
    Invalid(ErrorBody),
    /// All places are taken (`overloaded`)
    #[response(status = 429, headers(("retry-after" = u32, description = "Seconds after which to try again")))]
    Overloaded(ErrorBody),
    /// The model has failed (`inference_failed`, `text_failed`), or the gateway itself (`internal_error`)
    #[response(status = 500)]
    Failed(ErrorBody),
    /// Not now (`model_not_ready`, `model_replaced`, `deadline_exceeded`, `shutting_down`, `engine_stopped`)
    #[response(status = 503, headers(("retry-after" = u32, description = "Seconds after which to try again")))]
    Unavailable(ErrorBody),
}

/// The routes of the native API.
pub(in crate::http) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::default().routes(routes!(inference))
}

/// Continue a text
///
/// Continues a prompt, or each of a list of prompts as if it had come alone. With `stream` the pieces come as server-sent events
/// while they are made. Nothing is clamped or ignored: a value that is not taken is refused with the name of its field.
#[utoipa::path(
    post,
    path = "/api/v1/inference",
    operation_id = "inference",
    tag = NATIVE,
    request_body(content = NativeRequest, examples(
        ("text" = (summary = "A text", value = json!({"text": "The capital of France is", "max_tokens": 24}))),
        ("greedy" = (summary = "The most likely text", value = json!({"text": "The capital of France is", "max_tokens": 24, "temperature": 0}))),
        ("stream" = (summary = "A stream", value = json!({"text": "Once upon a time", "max_tokens": 64, "temperature": 0.8, "seed": 7, "stream": true}))),
        ("list" = (summary = "A list", value = json!({"text": ["Winter is", "Summer is"], "max_tokens": 16}))),
        ("schema" = (summary = "JSON of a schema", value = json!({
            "text": "The capital of France, as JSON: ",
            "max_tokens": 64,
            "temperature": 0,
            "format": {"type": "json_schema", "schema": {
                "type": "object",
                "properties": {"city": {"type": "string", "maxLength": 30}},
                "required": ["city"],
                "additionalProperties": false,
            }},
        }))),
    )),
    responses(
        (
            status = 200,
            description = "The answer; with `stream` its pieces, and at last the metadata of each text",
            content(
                (NativeAnswer = "application/json", example = json!({
                    "generated_text": "The capital of France is Paris.",
                    "metadata": {
                        "tokens_generated": 3, "processing_time_ms": 21.4, "finish_reason": "eos", "prompt_tokens": 5,
                        "model": "smollm2-135m-instruct", "seed": 4_323_588_322_209_030_u64,
                    },
                })),
                (NativeStream = "text/event-stream", example = json!({"text": " Paris"})),
            ),
            headers(("x-model-revision" = String, description = "The revision of the model that answered")),
        ),
        Failures,
    ),
)]
async fn inference(
    State(api): State<Arc<Api>>,
    Extension(request_id): Extension<RequestId>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    let started = Instant::now();
    match super::answer(&api, (&request_id, &caller), request, started).await {
        Ok(response) => response,
        Err(error) => error.respond(&request_id),
    }
}

pub(super) fn text() -> Schema {
    let text = || ObjectBuilder::new().schema_type(Type::String).min_length(Some(1));
    AnyOfBuilder::new()
        .description(Some("The prompt, or a list of them"))
        .item(text())
        .item(ArrayBuilder::new().items(text()).min_items(Some(1)).max_items(Some(MOST_GENERATIONS)))
        .into()
}

pub(super) fn max_tokens() -> Object {
    schemas::max_tokens(&format!("{DEFAULT_MAX_TOKENS}, or what is left of the context"))
}

pub(super) fn logprobs() -> Object {
    schemas::alternatives(
        "Answer the log-probability of each token, and so many alternatives to it. Default: none of it",
    )
}

pub(super) fn finish_reason() -> Object {
    schemas::word([EndReason::EndOfText, EndReason::Stop, EndReason::Length].map(EndReason::label))
        .description(Some(
            "`eos`: the model ended its text, or it is all that its format takes. `stop`: a stop text or stop token came. \
             `length`: the limit was reached",
        ))
        .build()
}
