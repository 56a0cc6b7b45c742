//! The routes of the dialect, and how those that generate are described.

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::response::Response;
use utoipa::{IntoResponses, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::chat::{ChatRequest, ChatShape};
use super::completions::{CompletionRequest, CompletionShape};
use super::described::{Chunk, Whole};
use super::errors::ErrorBody;
use super::{generate, models};
use crate::access::Caller;
use crate::http::Api;
use crate::http::openapi::OPENAI;
use crate::http::request_id::RequestId;

// The macros that describe answers know types by one word.
type ChatCompletion = Whole<ChatShape>;
type ChatCompletionChunk = Chunk<ChatShape>;
type Completion = Whole<CompletionShape>;
type CompletionChunk = Chunk<CompletionShape>;

/// The data of an event: a chunk, or what went wrong on the way. The last one is `[DONE]`, unless something did.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes what is written as one or the other")]
enum ChatStream {
    Chunk(ChatCompletionChunk),
    Failed(ErrorBody),
}

/// The data of an event: a chunk, or what went wrong on the way. The last one is `[DONE]`, unless something did.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes what is written as one or the other")]
enum CompletionStream {
    Chunk(CompletionChunk),
    Failed(ErrorBody),
}

/// How a request fails before its answer has begun.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes what `http/error.rs` makes of errors")]
enum Failures {
    /// The body is no JSON (`invalid_json`) or ended early (`body_incomplete`), a field is at fault (`invalid_value`,
    /// `unsupported_parameter`, `unknown_parameter`, `missing_required_parameter`, `duplicate_parameter`, `model_required`), the
    /// model answers no chats (`no_chat_template`), or prompt and output do not fit (`context_length_exceeded`,
    /// `cache_memory_exceeded`)
    #[response(status = 400)]
    BadRequest(ErrorBody),
    /// There is no such model (`model_not_found`)
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// The body is larger than this gateway takes (`body_too_large`)
    #[response(status = 413)]
    TooLarge(ErrorBody),
    /// All places are taken (`rate_limit_exceeded`)
    #[response(status = 429, headers(("retry-after" = u32, description = "Seconds after which to try again")))]
    Overloaded(ErrorBody),
    /// The model has failed (`inference_failed`, `text_failed`), or the gateway itself (`internal_error`)
    #[response(status = 500)]
    Failed(ErrorBody),
    /// Not now (`model_not_ready`, `model_replaced`, `deadline_exceeded`, `shutting_down`, `engine_stopped`)
    #[response(status = 503, headers(("retry-after" = u32, description = "Seconds after which to try again")))]
    Unavailable(ErrorBody),
}

/// The routes of the dialect.
pub(in crate::http) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::default()
        .routes(routes!(chat_completion))
        .routes(routes!(completion))
        .routes(routes!(models::list))
        .routes(routes!(models::one))
}

/// Answer a chat
///
/// The messages are rendered by the model's own chat template, or by that of its settings. A field that is not described here is
/// refused with status 400 and its name.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    operation_id = "create_chat_completion",
    tag = OPENAI,
    request_body(content = ChatRequest, examples(
        ("question" = (summary = "A question", value = json!({
            "messages": [{"role": "user", "content": "What is the capital of France?"}],
            "max_completion_tokens": 48,
        }))),
        ("stream" = (summary = "A stream", value = json!({
            "messages": [
                {"role": "system", "content": "You answer in one sentence."},
                {"role": "user", "content": "Why is the sea salty?"},
            ],
            "max_completion_tokens": 64,
            "temperature": 0.7,
            "stream": true,
            "stream_options": {"include_usage": true},
        }))),
    )),
    responses(
        (
            status = 200,
            description = "The answer; with `stream` its chunks",
            content(
                (ChatCompletion = "application/json", example = json!({
                    "id": "chatcmpl-0af7651916cd43dd8448eb211c80319c",
                    "object": "chat.completion",
                    "created": 1_764_230_400,
                    "model": "smollm2-135m-instruct",
                    "system_fingerprint": "fp_5e1c9b0a7d3f",
                    "choices": [{
                        "index": 0,
                        "message": {"role": "assistant", "content": "The capital of France is Paris.", "refusal": null},
                        "logprobs": null,
                        "finish_reason": "stop",
                    }],
                    "usage": {
                        "prompt_tokens": 37, "completion_tokens": 8, "total_tokens": 45,
                        "prompt_tokens_details": {"cached_tokens": 0},
                    },
                })),
                (ChatStream = "text/event-stream", example = json!({
                    "id": "chatcmpl-0af7651916cd43dd8448eb211c80319c",
                    "object": "chat.completion.chunk",
                    "created": 1_764_230_400,
                    "model": "smollm2-135m-instruct",
                    "system_fingerprint": "fp_5e1c9b0a7d3f",
                    "choices": [{"index": 0, "delta": {"content": " Paris"}, "logprobs": null, "finish_reason": null}],
                })),
            ),
            headers(("x-model-revision" = String, description = "The revision of the model that answered")),
        ),
        Failures,
    ),
)]
async fn chat_completion(
    api: State<Arc<Api>>,
    request_id: Extension<RequestId>,
    caller: Extension<Caller>,
    request: Request,
) -> Response {
    generate::<ChatRequest>(api, request_id, caller, request).await
}

/// Continue a text
///
/// Texts or token ids, one or several. A field that is not described here is refused with status 400 and its name.
#[utoipa::path(
    post,
    path = "/v1/completions",
    operation_id = "create_completion",
    tag = OPENAI,
    request_body(content = CompletionRequest, examples(
        ("completion" = (summary = "A text", value = json!({"prompt": "The capital of France is", "max_tokens": 24}))),
        ("stream" = (summary = "A stream of two choices", value = json!({
            "prompt": "Once upon a time", "max_tokens": 48, "n": 2, "seed": 7, "stream": true,
        }))),
    )),
    responses(
        (
            status = 200,
            description = "The answer; with `stream` its chunks",
            content(
                (Completion = "application/json", example = json!({
                    "id": "cmpl-0af7651916cd43dd8448eb211c80319c",
                    "object": "text_completion",
                    "created": 1_764_230_400,
                    "model": "smollm2-135m-instruct",
                    "system_fingerprint": "fp_5e1c9b0a7d3f",
                    "choices": [{"text": " Paris.", "index": 0, "logprobs": null, "finish_reason": "stop"}],
                    "usage": {
                        "prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8,
                        "prompt_tokens_details": {"cached_tokens": 0},
                    },
                })),
                (CompletionStream = "text/event-stream", example = json!({
                    "id": "cmpl-0af7651916cd43dd8448eb211c80319c",
                    "object": "text_completion",
                    "created": 1_764_230_400,
                    "model": "smollm2-135m-instruct",
                    "system_fingerprint": "fp_5e1c9b0a7d3f",
                    "choices": [{"text": " Paris", "index": 0, "logprobs": null, "finish_reason": null}],
                })),
            ),
            headers(("x-model-revision" = String, description = "The revision of the model that answered")),
        ),
        Failures,
    ),
)]
async fn completion(
    api: State<Arc<Api>>,
    request_id: Extension<RequestId>,
    caller: Extension<Caller>,
    request: Request,
) -> Response {
    generate::<CompletionRequest>(api, request_id, caller, request).await
}
