//! The option that says what the output has to look like: `format`.

use serde::Deserialize;
use serde_json::Value;

use crate::generate::Format;

/// `{"type": "json_schema", "schema": {…}}` and its kin.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(in crate::http) enum NativeFormat {
    /// JSON of this schema.
    JsonSchema { schema: Value },
    /// Any JSON object.
    JsonObject {},
    /// A text that matches all of this pattern.
    Regex { pattern: String },
    /// One of these texts.
    Choice { choices: Vec<String> },
    /// A text of this grammar.
    Grammar { lark: String },
}

impl From<NativeFormat> for Format {
    fn from(format: NativeFormat) -> Self {
        match format {
            NativeFormat::JsonSchema { schema } => Self::JsonSchema(schema),
            NativeFormat::JsonObject {} => Self::JsonObject,
            NativeFormat::Regex { pattern } => Self::Regex(pattern),
            NativeFormat::Choice { choices } => Self::Choice(choices),
            NativeFormat::Grammar { lark } => Self::Lark(lark),
        }
    }
}
