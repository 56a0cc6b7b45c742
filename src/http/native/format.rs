//! The option that says what the output has to look like: `format`.

use serde::Deserialize;
use serde_json::Value;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AdditionalProperties, Object, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::generate::Format;
use crate::http::parameters::schemas::nothing;

/// What a text has to look like: `{"type": "json_schema", "schema": {…}}` and its kin.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(in crate::http) enum NativeFormat {
    /// JSON that holds to this schema; docs/structured-output.md says what is understood
    JsonSchema {
        #[schema(schema_with = any_schema)]
        schema: Value,
    },
    /// Any JSON object
    JsonObject {},
    /// A text that matches this pattern from its beginning to its end
    Regex {
        #[schema(max_length = 4096)]
        pattern: String,
    },
    /// One of these texts
    Choice {
        #[schema(min_items = 1, max_items = 4096)]
        choices: Vec<String>,
    },
    /// A text of this grammar
    Grammar {
        #[schema(max_length = 16384)]
        lark: String,
    },
}

fn any_schema() -> Object {
    let kinds = SchemaType::from_iter([Type::Object, Type::Boolean]);
    ObjectBuilder::new().schema_type(kinds).description(Some("A JSON schema")).build()
}

/// The schema of the kinds, which take no other fields; or `null`.
pub(in crate::http) fn described() -> RefOr<Schema> {
    let mut schema = NativeFormat::schema();
    if let RefOr::T(Schema::OneOf(kinds)) = &mut schema {
        for kind in &mut kinds.items {
            if let RefOr::T(Schema::Object(kind)) = kind {
                kind.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
            }
        }
        kinds.items.push(nothing().into());
    }
    schema
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
