//! What an answer has to look like: `response_format`, and `structured_outputs` as vLLM has it.

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::described;
use super::refusals::{Accepted, Unsupported, accept, refuse};
use crate::generate::Format;
use crate::http::error::ApiError;

/// What the answer has to look like.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum ResponseFormat {
    /// Anything
    Text {},
    /// Any JSON object
    JsonObject {
        /// The JSON schema of the object, as clients of Text Generation Inference give it
        #[schema(value_type = Option<Object>)]
        value: Option<Value>,
    },
    /// JSON of a schema
    JsonSchema { json_schema: NamedSchema },
}

/// A schema with a name.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NamedJsonSchema)]
pub(super) struct NamedSchema {
    /// For your own records
    #[schema(min_length = 1)]
    name: String,
    #[schema(schema_with = described::accepted)]
    description: Option<Accepted>,
    /// The JSON schema; without one any JSON object will do
    #[schema(value_type = Option<Object>)]
    schema: Option<Value>,
    /// Schemas are always followed
    #[schema(schema_with = described::accepted)]
    strict: Option<Accepted>,
}

/// What the answer has to look like, as vLLM says it: exactly one of the fields.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StructuredOutputs {
    /// A JSON schema, or a text that is one
    json: Option<Value>,
    /// Any JSON object
    json_object: Option<bool>,
    /// A text that matches this pattern from its beginning to its end
    #[schema(max_length = 4096)]
    regex: Option<String>,
    /// One of these texts
    #[schema(min_items = 1, max_items = 4096)]
    choice: Option<Vec<String>>,
    /// A text of this grammar, in Lark's notation
    #[schema(max_length = 16384)]
    grammar: Option<String>,
    #[schema(ignore)]
    structural_tag: Option<Unsupported>,
    #[schema(ignore)]
    disable_any_whitespace: Option<Unsupported>,
    #[schema(ignore)]
    disable_additional_properties: Option<Unsupported>,
    #[schema(ignore)]
    whitespace_pattern: Option<Unsupported>,
}

/// The field that a format came by, for errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FormatField {
    ResponseFormat,
    /// `response_format.value`
    ResponseValue,
    StructuredOutputs,
    /// Of the tools from this one on.
    Tools(usize),
}

impl FormatField {
    /// What a part of the format is called; `None` is all of it.
    pub(super) fn named(self, part: Option<&str>) -> &'static str {
        match (self, part) {
            (Self::ResponseFormat, Some("schema")) => "response_format.json_schema.schema",
            (Self::ResponseValue, Some("schema")) => "response_format.value",
            (Self::ResponseFormat | Self::ResponseValue, _) => "response_format",
            (Self::StructuredOutputs, Some("schema")) => "structured_outputs.json",
            (Self::StructuredOutputs, Some("pattern")) => "structured_outputs.regex",
            (Self::StructuredOutputs, Some("choices")) => "structured_outputs.choice",
            (Self::StructuredOutputs, Some("lark")) => "structured_outputs.grammar",
            (Self::StructuredOutputs, _) => "structured_outputs",
            (Self::Tools(_), _) => "tools",
        }
    }
}

/// The format of an answer, and the field that says so.
pub(super) fn checked_format(
    response_format: Option<ResponseFormat>,
    structured_outputs: Option<StructuredOutputs>,
) -> Result<Option<(FormatField, Format)>, ApiError> {
    let format = response_format.map(checked_response_format).transpose()?.flatten();
    match (format, structured_outputs) {
        (Some(_), Some(_)) => {
            let message = "structured_outputs and response_format both say what the answer looks like: give one of them";
            Err(ApiError::invalid_value("structured_outputs", message))
        }
        (Some(format), None) => Ok(Some(format)),
        (None, Some(outputs)) => Ok(Some((FormatField::StructuredOutputs, checked_outputs(outputs)?))),
        (None, None) => Ok(None),
    }
}

fn checked_response_format(format: ResponseFormat) -> Result<Option<(FormatField, Format)>, ApiError> {
    let NamedSchema { name, description, schema, strict } = match format {
        ResponseFormat::Text {} => return Ok(None),
        ResponseFormat::JsonObject { value: None } => {
            return Ok(Some((FormatField::ResponseFormat, Format::JsonObject)));
        }
        ResponseFormat::JsonObject { value: Some(schema) } => {
            return Ok(Some((FormatField::ResponseValue, Format::JsonSchema(schema))));
        }
        ResponseFormat::JsonSchema { json_schema } => json_schema,
    };
    accept([description, strict]);
    if name.is_empty() {
        let field = "response_format.json_schema.name";
        return Err(ApiError::invalid_value(field, format!("{field} must not be empty")));
    }
    Ok(Some((FormatField::ResponseFormat, schema.map_or(Format::JsonObject, Format::JsonSchema))))
}

fn checked_outputs(outputs: StructuredOutputs) -> Result<Format, ApiError> {
    let StructuredOutputs {
        json,
        json_object,
        regex,
        choice,
        grammar,
        structural_tag,
        disable_any_whitespace,
        disable_additional_properties,
        whitespace_pattern,
    } = outputs;
    refuse([
        ("structured_outputs.structural_tag", structural_tag),
        ("structured_outputs.disable_any_whitespace", disable_any_whitespace),
        ("structured_outputs.disable_additional_properties", disable_additional_properties),
        ("structured_outputs.whitespace_pattern", whitespace_pattern),
    ])?;
    let formats = [
        json.map(checked_json).transpose()?,
        json_object.filter(|wanted| *wanted).map(|_wanted| Format::JsonObject),
        regex.map(Format::Regex),
        choice.map(Format::Choice),
        grammar.map(Format::Lark),
    ];
    let mut given = formats.into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(format), None) => Ok(format),
        _none_or_several => Err(ApiError::invalid_value(
            "structured_outputs",
            "structured_outputs takes exactly one of json, json_object, regex, choice and grammar",
        )),
    }
}

/// A schema, or a text that is one.
fn checked_json(schema: Value) -> Result<Format, ApiError> {
    let Value::String(text) = schema else { return Ok(Format::JsonSchema(schema)) };
    serde_json::from_str(&text).map(Format::JsonSchema).map_err(|error| {
        let field = "structured_outputs.json";
        ApiError::invalid_value(field, format!("{field} is a text that is no JSON: {error}"))
    })
}
