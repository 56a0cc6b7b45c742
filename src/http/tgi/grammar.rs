//! What the output has to look like: `grammar`.

use serde::Deserialize;
use serde_json::Value;

use crate::generate::Format;
use crate::http::error::ApiError;
use crate::http::refusals::{Accepted, accept};

/// `{"type", "value"}`
#[derive(Debug, Deserialize)]
#[serde(tag = "type", content = "value", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Grammar {
    /// JSON of this schema, which may also come as a text.
    #[serde(alias = "json_object")]
    Json(Value),
    /// A text that matches all of this pattern.
    Regex(String),
    /// JSON of a schema that has a name.
    JsonSchema(NamedSchema),
}

/// `{"name", "schema", "strict"}`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NamedSchema {
    name: Option<Accepted>,
    /// Every schema is held to.
    strict: Option<Accepted>,
    schema: Value,
}

impl Grammar {
    pub(super) fn checked(self) -> Result<Format, ApiError> {
        match self {
            Self::Json(Value::String(text)) => {
                let schema = serde_json::from_str(&text).map_err(|error| {
                    let message = format!("the value is a text that is not valid JSON: {error}");
                    ApiError::invalid_value("parameters.grammar", message)
                })?;
                Ok(Format::JsonSchema(schema))
            }
            Self::Json(schema) => Ok(Format::JsonSchema(schema)),
            Self::Regex(pattern) => Ok(Format::Regex(pattern)),
            Self::JsonSchema(NamedSchema { name, strict, schema }) => {
                accept([name, strict]);
                Ok(Format::JsonSchema(schema))
            }
        }
    }
}
