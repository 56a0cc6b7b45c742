//! Errors as this dialect tells them: `{"error"}`, a text that names the field.

use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::error::ApiError;

/// The body of an error, also the last event of a stream that failed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OipError)]
pub(in crate::http) struct ErrorBody {
    /// A sentence for people, which names the field at fault, if one is
    error: String,
}

/// Status and body of an error.
pub(in crate::http) fn body(error: &ApiError) -> (StatusCode, ErrorBody) {
    // What the flow calls the prompt.
    let field = error.field.as_deref().map(|field| if field == "text" { "text_input" } else { field });
    (status(error), ErrorBody { error: error.message_naming(field) })
}

/// 422 is an error of validation, 424 one of the generation, 500 one that did not come to its end. The others are HTTP's.
///
/// From: Open Inference Protocol, `generate_rest.yaml`
pub(in crate::http) fn status(error: &ApiError) -> StatusCode {
    match (error.status, error.code) {
        (StatusCode::BAD_REQUEST, _) => StatusCode::UNPROCESSABLE_ENTITY,
        (_, "inference_failed" | "text_failed") => StatusCode::FAILED_DEPENDENCY,
        (_, "deadline_exceeded" | "model_replaced" | "engine_stopped") => StatusCode::INTERNAL_SERVER_ERROR,
        (status, _) => status,
    }
}
