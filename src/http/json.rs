//! Request bodies: bytes to a typed request, or an error that names the field.

use axum::body::{Body, to_bytes};
use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use super::error::ApiError;
use super::slow_bodies::BodyTooSlow;

/// Reads at most `limit_bytes` and parses them.
///
/// # Errors
/// 413 when the body is larger, 400 when it is no JSON, 422 when it is JSON of another shape.
pub(super) async fn read<T: DeserializeOwned>(body: Body, limit_bytes: usize) -> Result<T, ApiError> {
    let bytes = to_bytes(body, limit_bytes).await.map_err(|error| refused(&error, limit_bytes))?;
    parse(&bytes)
}

fn refused(error: &axum::Error, limit_bytes: usize) -> ApiError {
    let causes = || std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    if let Some(slow) = causes().find_map(|cause| cause.downcast_ref::<BodyTooSlow>()) {
        return ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", slow.to_string());
    }
    if causes().any(<dyn std::error::Error>::is::<http_body_util::LengthLimitError>) {
        let message = format!("the body is larger than {limit_bytes} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
    } else {
        ApiError::new(StatusCode::BAD_REQUEST, "body_incomplete", "the body ended too early")
    }
}

/// Parses what was read.
///
/// # Errors
/// As [`read`].
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // A list would be taken for the fields in their order.
    if bytes.trim_ascii_start().starts_with(b"[") {
        let message = "invalid type: a list, expected an object at line 1 column 1";
        return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value", message));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        explain(&error.into_inner(), &path)
    })?;
    deserializer.end().map_err(|error| explain(&error, "."))?;
    Ok(parsed)
}

fn explain(error: &serde_json::Error, path: &str) -> ApiError {
    let message = error.to_string();
    // The path of the whole body, or of a key that was not read to its end, names no field.
    let at = |error: ApiError, path: &str| if matches!(path, "." | "?") { error } else { error.at(path) };
    match error.classify() {
        Category::Data => match named_field(&message) {
            Some((code, field)) => {
                let field = inside(path, field);
                ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, code, message.as_str()).at(&field)
            }
            None => {
                at(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value", message.as_str()), path)
            }
        },
        Category::Syntax | Category::Eof | Category::Io => at(
            ApiError::new(
                StatusCode::BAD_REQUEST,
                "invalid_json",
                format!("the body is not valid JSON: {message}"),
            ),
            path,
        ),
    }
}

/// The whole name of a field of the object at `path`, which may be that of the field already.
fn inside(path: &str, field: &str) -> String {
    let object = path.strip_suffix('?').unwrap_or(path).trim_end_matches('.');
    let is_own = object.strip_suffix(field).is_some_and(|before| before.is_empty() || before.ends_with('.'));
    match object {
        "" => field.to_owned(),
        own if is_own => own.to_owned(),
        object => format!("{object}.{field}"),
    }
}

/// The field that serde's own messages about whole objects name; its path is that of the object.
fn named_field(message: &str) -> Option<(&'static str, &str)> {
    let kinds = [
        ("unknown field `", "unknown_field"),
        ("duplicate field `", "duplicate_field"),
        ("missing field `", "missing_field"),
    ];
    kinds.into_iter().find_map(|(start, code)| {
        let (field, _rest) = message.strip_prefix(start)?.split_once('`')?;
        Some((code, field))
    })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its errors are looked at")]
    struct Sample {
        text: String,
        temperature: Option<f64>,
        max_tokens: Option<u64>,
        inner: Option<Vec<Inner>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its errors are looked at")]
    struct Inner {
        text: String,
    }

    #[test]
    fn every_kind_of_bad_body_names_its_field() {
        let cases: &[(&str, u16, &str, Option<&str>)] = &[
            ("", 400, "invalid_json", None),
            ("{", 400, "invalid_json", None),
            (r#"{"text":"a"} x"#, 400, "invalid_json", None),
            (r#"{"text":"a","temperature":NaN}"#, 400, "invalid_json", Some("temperature")),
            (r#"{"text":"a","temperature":1e999}"#, 400, "invalid_json", Some("temperature")),
            (r#"{"text":1}"#, 422, "invalid_value", Some("text")),
            (r#"{"text":"a","max_tokens":-1}"#, 422, "invalid_value", Some("max_tokens")),
            (r#"{"text":"a","max_tokens":1.5}"#, 422, "invalid_value", Some("max_tokens")),
            (r#"{"text":"a","max_tokens":18446744073709551616}"#, 422, "invalid_value", Some("max_tokens")),
            (r#"{"text":"a","frobnicate":1}"#, 422, "unknown_field", Some("frobnicate")),
            (r#"{"text":"a","text":"b"}"#, 422, "duplicate_field", Some("text")),
            ("{}", 422, "missing_field", Some("text")),
            (r#"{"text":"a","inner":[{}]}"#, 422, "missing_field", Some("inner[0].text")),
            (r#"{"text":"a","inner":[{"text":"a","x":1}]}"#, 422, "unknown_field", Some("inner[0].x")),
            (
                r#"{"text":"a","inner":[{"text":"a","text":"b"}]}"#,
                422,
                "duplicate_field",
                Some("inner[0].text"),
            ),
            (r#"{"text":"a","inner":[{"text":1}]}"#, 422, "invalid_value", Some("inner[0].text")),
            ("[]", 422, "invalid_value", None),
        ];
        for (body, status, code, field) in cases {
            let error = parse::<Sample>(body.as_bytes()).unwrap_err();
            let found = (error.status.as_u16(), error.code, error.field.as_deref());
            assert_eq!(found, (*status, *code, *field), "{body}: {}", error.message);
        }
    }
}
