//! Errors as this dialect tells them: `{"error", "error_type"}`, a text that names the field.

use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::error::ApiError;
use crate::http::oip;

/// The body of an error, also the last event of a stream that failed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TgiError)]
pub(in crate::http) struct ErrorBody {
    /// A sentence for people, which names the field at fault, if one is
    error: String,
    /// A word for programs
    error_type: &'static str,
}

/// Status and body of an error. The statuses are those that the Open Inference Protocol has taken over from here.
pub(in crate::http) fn body(error: &ApiError) -> (StatusCode, ErrorBody) {
    let mut message = error.message_naming(error.field.as_deref().map(field));
    if error.code == "model_required" {
        message.push_str("; no field of this API names one: ask for it by /v1, /v2 or /api/v1/inference");
    }
    let status = oip::status(error);
    (status, ErrorBody { error: message, error_type: kind(status, error.code) })
}

/// What the flow and the gateway's own API call something else.
fn field(field: &str) -> &str {
    match field {
        "text" => "inputs",
        "max_tokens" => "parameters.max_new_tokens",
        field if field == "format" || field.starts_with("format.") => "parameters.grammar",
        field => field,
    }
}

/// The dialect's own words where it has one; the gateway's elsewhere.
fn kind(status: StatusCode, code: &'static str) -> &'static str {
    match (status, code) {
        (StatusCode::UNPROCESSABLE_ENTITY, _) => "validation",
        (StatusCode::FAILED_DEPENDENCY, _) => "generation",
        (StatusCode::INTERNAL_SERVER_ERROR, "deadline_exceeded" | "model_replaced" | "engine_stopped") => {
            "incomplete_generation"
        }
        (_, code) => code,
    }
}
