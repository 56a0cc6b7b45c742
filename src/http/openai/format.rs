//! What an answer has to look like: `response_format`, and `structured_outputs` as vLLM has it.

use serde::Deserialize;
use serde_json::Value;

use super::refusals::{Accepted, Unsupported, accept, refuse};
use crate::generate::Format;
use crate::http::error::ApiError;

/// `{"type": "json_schema", "json_schema": {"name", "schema"}}` and its kin.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum ResponseFormat {
    /// Anything.
    Text {},
    /// Any JSON object.
    JsonObject {},
    /// JSON of a schema.
    JsonSchema { json_schema: NamedSchema },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NamedSchema {
    name: String,
    description: Option<Accepted>,
    schema: Option<Value>,
    /// Schemas are always followed.
    strict: Option<Accepted>,
}

/// Exactly one of the fields.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StructuredOutputs {
    json: Option<Value>,
    json_object: Option<bool>,
    regex: Option<String>,
    choice: Option<Vec<String>>,
    grammar: Option<String>,
    structural_tag: Option<Unsupported>,
    disable_any_whitespace: Option<Unsupported>,
    disable_additional_properties: Option<Unsupported>,
    whitespace_pattern: Option<Unsupported>,
}

/// The field that a format came by, for errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FormatField {
    ResponseFormat,
    StructuredOutputs,
    Tools,
}

impl FormatField {
    /// What a part of the format is called; `None` is all of it.
    pub(super) fn named(self, part: Option<&str>) -> &'static str {
        match (self, part) {
            (Self::ResponseFormat, Some("schema")) => "response_format.json_schema.schema",
            (Self::ResponseFormat, _) => "response_format",
            (Self::StructuredOutputs, Some("schema")) => "structured_outputs.json",
            (Self::StructuredOutputs, Some("pattern")) => "structured_outputs.regex",
            (Self::StructuredOutputs, Some("choices")) => "structured_outputs.choice",
            (Self::StructuredOutputs, Some("lark")) => "structured_outputs.grammar",
            (Self::StructuredOutputs, _) => "structured_outputs",
            (Self::Tools, _) => "tools",
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
        (Some(format), None) => Ok(Some((FormatField::ResponseFormat, format))),
        (None, Some(outputs)) => Ok(Some((FormatField::StructuredOutputs, checked_outputs(outputs)?))),
        (None, None) => Ok(None),
    }
}

fn checked_response_format(format: ResponseFormat) -> Result<Option<Format>, ApiError> {
    let NamedSchema { name, description, schema, strict } = match format {
        ResponseFormat::Text {} => return Ok(None),
        ResponseFormat::JsonObject {} => return Ok(Some(Format::JsonObject)),
        ResponseFormat::JsonSchema { json_schema } => json_schema,
    };
    accept([description, strict]);
    if name.is_empty() {
        let field = "response_format.json_schema.name";
        return Err(ApiError::invalid_value(field, format!("{field} must not be empty")));
    }
    Ok(Some(schema.map_or(Format::JsonObject, Format::JsonSchema)))
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
