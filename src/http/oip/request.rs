//! The body of `generate` and `generate_stream`, which are the same.
//!
//! Parameters stand in `parameters`, as the specification has it, or beside the text, as some models of Triton take them.

use std::fmt;

use serde::de::value::MapDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;
use utoipa::ToSchema;

use super::described;
use super::distinct::Distinct;
use crate::generate::{Format, Input, MaxTokens, Prompt};
use crate::http::error::ApiError;
use crate::http::native::{NativeFormat, described_format};
use crate::http::parameters::{
    LogitBias, SamplingFields, Texts, check_stream, checked_max_tokens, checked_stop, made_seed, schemas,
};
use crate::http::refusals::only;

/// Tokens that are generated when the request does not say, if the context has room for them.
///
/// From: Open Inference Protocol, `generate_rest.yaml`, `max_tokens`
pub(super) const DEFAULT_MAX_TOKENS: usize = 20;

/// The request as it comes; `described.rs` says how its schema is made of that of its parameters.
#[derive(Debug)]
pub(super) struct GenerateRequest {
    text_input: String,
    id: Option<String>,
    parameters: Parameters,
}

/// How to continue the text. A field that is `null` counts as not given.
#[derive(Debug, serde::Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OipParameters)]
pub(super) struct Parameters {
    #[schema(schema_with = schemas::temperature)]
    temperature: Option<f64>,
    #[schema(schema_with = schemas::top_p)]
    top_p: Option<f64>,
    #[schema(schema_with = described::max_tokens)]
    max_tokens: Option<u64>,
    #[schema(schema_with = schemas::stop)]
    stop: Option<Texts>,
    #[schema(schema_with = described::details)]
    details: Option<bool>,
    #[schema(schema_with = schemas::top_k)]
    top_k: Option<u32>,
    #[schema(schema_with = schemas::min_p)]
    min_p: Option<f64>,
    #[schema(schema_with = schemas::repetition_penalty)]
    repetition_penalty: Option<f64>,
    #[schema(schema_with = schemas::presence_penalty)]
    presence_penalty: Option<f64>,
    #[schema(schema_with = schemas::frequency_penalty)]
    frequency_penalty: Option<f64>,
    #[schema(schema_with = schemas::logit_bias)]
    logit_bias: Option<LogitBias>,
    #[schema(schema_with = schemas::seed)]
    seed: Option<u64>,
    #[schema(schema_with = schemas::ignore_eos)]
    ignore_eos: Option<bool>,
    #[schema(schema_with = described_format)]
    format: Option<NativeFormat>,
    #[schema(schema_with = described::stream)]
    stream: Option<bool>,
    #[schema(schema_with = described::exclude_input)]
    exclude_input_in_output: Option<bool>,
}

/// What [`GenerateRequest::checked`] makes of a request.
pub(super) struct Checked {
    pub(super) input: Input,
    /// To be given back.
    pub(super) id: Option<String>,
    /// Whether tokens and the reason of the end are told.
    pub(super) details: bool,
}

impl GenerateRequest {
    /// Checks every value; nothing is clamped. Tokens that are named are below `vocabulary_size`.
    pub(super) fn checked(self, vocabulary_size: usize, is_stream: bool) -> Result<Checked, ApiError> {
        let Self { text_input, id, parameters } = self;
        let Parameters {
            temperature,
            top_p,
            max_tokens,
            stop,
            details,
            top_k,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            logit_bias,
            seed,
            ignore_eos,
            format,
            stream,
            exclude_input_in_output,
        } = parameters;
        if text_input.is_empty() {
            return Err(ApiError::invalid_value("text_input", "text_input must not be empty"));
        }
        only("exclude_input_in_output", exclude_input_in_output != Some(false), "true")?;
        check_stream(stream, is_stream)?;
        let max_tokens = max_tokens.map(|value| checked_max_tokens("max_tokens", value)).transpose()?;
        let sampling = SamplingFields {
            temperature,
            top_p,
            top_k,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            logit_bias,
        };
        let details = details.unwrap_or(false);
        let input = Input {
            prompt: Prompt::Text(text_input),
            choices: 1,
            sampling: sampling.checked(seed.unwrap_or_else(made_seed), vocabulary_size)?,
            max_tokens: max_tokens.map_or(MaxTokens::UpTo(DEFAULT_MAX_TOKENS), MaxTokens::Exactly),
            timeout: None,
            stop: checked_stop(stop)?,
            include_stop: false,
            stop_tokens: Vec::new(),
            logprobs: details.then_some(0),
            ignore_eos: ignore_eos.unwrap_or(false),
            skip_special_tokens: true,
            format: format.map(Format::from),
        };
        Ok(Checked { input, id, details })
    }
}

/// The entries of an object as they come: a map would drop one that is there twice.
struct Entries(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut entries = Vec::new();
        while let Some((name, Distinct(value))) = map.next_entry()? {
            entries.push((name, value));
        }
        Ok(Entries(entries))
    }
}

impl<'de> Deserialize<'de> for GenerateRequest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RequestVisitor)
    }
}

struct RequestVisitor;

impl<'de> Visitor<'de> for RequestVisitor {
    type Value = GenerateRequest;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object with `text_input`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<GenerateRequest, A::Error> {
        let (mut text_input, mut id, mut inner) = (None, None, None);
        let mut parameters = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "text_input" => set("text_input", &mut text_input, map.next_value()?)?,
                "id" => set("id", &mut id, map.next_value::<Option<String>>()?)?,
                "parameters" => set("parameters", &mut inner, map.next_value::<Option<Entries>>()?)?,
                _parameter => {
                    let Distinct(value) = map.next_value()?;
                    parameters.push((key, value));
                }
            }
        }
        let text_input = text_input.ok_or_else(|| A::Error::missing_field("text_input"))?;
        if let Some(Entries(inner)) = inner.flatten() {
            parameters.extend(inner);
        }
        let parameters = parsed(parameters).map_err(A::Error::custom)?;
        Ok(GenerateRequest { text_input, id: id.flatten(), parameters })
    }
}

fn set<T, E: Error>(field: &'static str, place: &mut Option<T>, value: T) -> Result<(), E> {
    if place.replace(value).is_some() { Err(E::duplicate_field(field)) } else { Ok(()) }
}

/// The parameters of both places; one that is in both is refused as one that is there twice.
fn parsed(entries: Vec<(String, Value)>) -> Result<Parameters, String> {
    let entries = MapDeserializer::<_, serde_json::Error>::new(entries.into_iter());
    serde_path_to_error::deserialize(entries).map_err(|error| {
        let path = error.path().to_string();
        let message = error.into_inner().to_string();
        // What is wrong with the object as a whole says itself which field it is about.
        if matches!(path.as_str(), "." | "?") || message.contains(&format!("field `{path}`")) {
            message
        } else {
            format!("{path}: {message}")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<GenerateRequest, String> {
        serde_json::from_str(body).map_err(|error: serde_json::Error| error.to_string())
    }

    #[test]
    fn parameters_may_stand_in_their_object_or_beside_the_text() {
        for body in [
            r#"{"text_input": "a", "parameters": {"max_tokens": 7, "stop": "x", "seed": 18446744073709551615}}"#,
            r#"{"max_tokens": 7, "seed": 18446744073709551615, "stop": ["x"], "text_input": "a"}"#,
            r#"{"text_input": "a", "parameters": {"max_tokens": 7, "seed": 18446744073709551615}, "stop": "x", "top_p": null}"#,
        ] {
            let Checked { input, id, details } = read(body).unwrap().checked(10, false).unwrap();
            assert_eq!((id, details, input.logprobs), (None, false, None));
            assert_eq!((input.max_tokens, input.sampling.seed), (MaxTokens::Exactly(7), u64::MAX));
            assert_eq!(input.stop, ["x"]);
        }
    }

    #[test]
    fn what_is_wrong_is_named_wherever_it_stands() {
        for (body, says) in [
            (r#"{"parameters": {}}"#, "missing field `text_input`"),
            (r#"{"text_input": "a", "text_input": "b"}"#, "duplicate field `text_input`"),
            (r#"{"text_input": "a", "bad_words": ""}"#, "unknown field `bad_words`, expected one of"),
            (r#"{"text_input": "a", "parameters": {"beam_width": 2}}"#, "unknown field `beam_width`"),
            (r#"{"text_input": "a", "top_k": 1, "parameters": {"top_k": 1}}"#, "duplicate field `top_k`"),
            (r#"{"text_input": "a", "parameters": {"top_k": 1, "top_k": 1}}"#, "duplicate field `top_k`"),
            (r#"{"text_input": "a", "parameters": {}, "parameters": null}"#, "duplicate field `parameters`"),
            (r#"{"text_input": "a", "top_k": -1}"#, "top_k: invalid value: integer `-1`, expected u32"),
            (
                r#"{"text_input": "a", "parameters": {"seed": 0.5}}"#,
                "seed: invalid type: floating point `0.5`",
            ),
            (r#"{"text_input": "a", "stop": [1]}"#, "stop: a text or a list of texts"),
            (r#"{"text_input": "a", "logit_bias": {"5": 1, "5": 2}}"#, "the key \"5\" is there twice"),
            (
                r#"{"text_input": "a", "parameters": {"format": {"schema": {"a": 1, "a": 2}}}}"#,
                "the key \"a\" is there twice",
            ),
            (r#"{"text_input": "a", "format": {"type": "regex"}}"#, "format: missing field `pattern`"),
            (r#"{"text_input": "a", "parameters": 7}"#, "expected an object at"),
            (r#"["a"]"#, "expected an object with `text_input`"),
        ] {
            let error = read(body).unwrap_err();
            assert!(error.starts_with(says) || error.contains(&format!(", {says}")), "{body}: {error}");
        }
    }
}
