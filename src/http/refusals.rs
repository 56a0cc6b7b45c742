//! Fields of a dialect that are refused by name, and those that are accepted because they change nothing.

use axum::http::StatusCode;
use serde::de::{Deserialize, Deserializer, IgnoredAny};
use serde_json::{Map, Value};

use crate::http::error::ApiError;

/// A field that is refused unless it is `null`, whatever it holds.
#[derive(Debug)]
pub(super) struct Unsupported;

impl<'de> Deserialize<'de> for Unsupported {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_anything| Self)
    }
}

/// A field that is for the caller's own records: nothing comes of it here.
#[derive(Debug)]
pub(super) struct Accepted;

impl<'de> Deserialize<'de> for Accepted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_anything| Self)
    }
}

/// Names the fields of which nothing comes, so that none is forgotten.
pub(super) fn accept<const N: usize>(_fields: [Option<Accepted>; N]) {}

/// A field or a value that the dialect has and this gateway has not.
pub(super) fn unsupported(field: &str, message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "unsupported_parameter", message).at(field)
}

/// Refuses the first of the fields that is given.
pub(super) fn refuse<const N: usize>(fields: [(&str, Option<Unsupported>); N]) -> Result<(), ApiError> {
    match fields.into_iter().find(|(_, given)| given.is_some()) {
        Some((field, _)) => Err(unsupported(field, format!("{field} is not supported"))),
        None => Ok(()),
    }
}

/// Refuses the fields of an object that nobody knows, where `serde` cannot: it tells a wrong kind of object by them.
pub(super) fn refuse_others(object: &str, others: &Map<String, Value>) -> Result<(), ApiError> {
    match others.keys().next() {
        Some(name) => {
            let field = format!("{object}.{name}");
            let message = format!("unknown field `{name}` in {object}");
            Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "unknown_field", message).at(&field))
        }
        None => Ok(()),
    }
}

/// Refuses a value that would have to change something.
pub(super) fn only(field: &str, holds: bool, accepted: &str) -> Result<(), ApiError> {
    if holds { Ok(()) } else { Err(unsupported(field, format!("{field} is supported only as {accepted}"))) }
}
