//! Errors as this dialect tells them: `{"error": {"message", "type", "param", "code"}}`, all four always.

use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::Object;

use crate::http::error::ApiError;
use crate::http::parameters::schemas::word;

/// The body of an error, also the last event of a stream that failed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OpenAiError)]
pub(in crate::http) struct ErrorBody {
    error: ErrorFields,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OpenAiErrorFields)]
struct ErrorFields {
    /// A sentence for people
    message: String,
    #[schema(schema_with = kinds)]
    r#type: &'static str,
    /// The field at fault, if one is: `messages[1].content[0].type`
    #[schema(required)]
    param: Option<String>,
    /// A word for programs
    code: &'static str,
}

/// Status and body of an error.
pub(in crate::http) fn body(error: &ApiError) -> (StatusCode, ErrorBody) {
    let fields = ErrorFields {
        message: error.message.clone(),
        r#type: kind(error.status),
        param: error.field.clone(),
        code: code(error.code),
    };
    (status(error.status), ErrorBody { error: fields })
}

/// The dialect knows no 422.
fn status(status: StatusCode) -> StatusCode {
    if status == StatusCode::UNPROCESSABLE_ENTITY { StatusCode::BAD_REQUEST } else { status }
}

fn kind(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        status if status.is_server_error() => "server_error",
        _ => "invalid_request_error",
    }
}

/// What [`kind`] makes of the statuses that there are.
fn kinds() -> Object {
    word([
        "authentication_error",
        "invalid_request_error",
        "permission_error",
        "rate_limit_error",
        "server_error",
    ])
    .build()
}

/// The dialect's own words where it has one; the gateway's elsewhere.
fn code(code: &'static str) -> &'static str {
    match code {
        "unknown_field" => "unknown_parameter",
        "missing_field" => "missing_required_parameter",
        "duplicate_field" => "duplicate_parameter",
        "overloaded" | "quota_exceeded" => "rate_limit_exceeded",
        "unauthenticated" => "invalid_api_key",
        own => own,
    }
}
