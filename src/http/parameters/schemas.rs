//! How the fields that dialects share are described, with the bounds that the checks use: for `#[schema(schema_with = …)]`.
//!
//! All of them may be `null`, which counts as not given.

use serde_json::json;
use utoipa::openapi::KnownFormat;
use utoipa::openapi::schema::{
    AdditionalProperties, AnyOfBuilder, Array, ArrayBuilder, Object, ObjectBuilder, Schema, SchemaFormat,
    SchemaType, Type,
};

use super::bounds::{
    BIAS, Bounds, FREQUENCY_PENALTY, MIN_P, PRESENCE_PENALTY, REPETITION_PENALTY, TEMPERATURE, TOP_P,
};
use super::tokens::{MOST_ALTERNATIVES, MOST_BIASES, MOST_STOP_TOKENS};
use super::{LONGEST_STOP_BYTES, MOST_STOP_STRINGS};

/// A text that is not empty.
pub(in crate::http) fn text(description: &str) -> Object {
    ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).description(Some(description)).build()
}

/// A value of this type, or `null`.
pub(in crate::http) fn optional(kind: Type) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(or_null(kind))
}

fn or_null(kind: Type) -> SchemaType {
    SchemaType::from_iter([kind, Type::Null])
}

fn number(bounds: &Bounds, description: &str) -> Object {
    optional(Type::Number)
        .description(Some(description))
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Double)))
        .minimum(Some(bounds.least))
        .maximum(Some(bounds.most))
        .default(Some(bounds.default.into()))
        .build()
}

/// A whole number that is not negative, up to `most`.
pub(in crate::http) fn count(most: u64) -> ObjectBuilder {
    optional(Type::Integer)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
        .minimum(Some(0_usize))
        .maximum(Some(most as usize))
}

pub(in crate::http) fn temperature() -> Object {
    number(&TEMPERATURE, "How much chance there is in what is picked; 0 always picks the most likely token")
}

pub(in crate::http) fn top_p() -> Object {
    number(&TOP_P, "Keep the most likely tokens that together have this probability; 0 keeps the first one")
}

pub(in crate::http) fn min_p() -> Object {
    number(&MIN_P, "Keep tokens that are at least this likely relative to the most likely one")
}

pub(in crate::http) fn repetition_penalty() -> Object {
    number(
        &REPETITION_PENALTY,
        "Divides the chance of tokens that prompt or output have already; 1 changes nothing",
    )
}

pub(in crate::http) fn presence_penalty() -> Object {
    number(&PRESENCE_PENALTY, "Taken off the logit of each token that the output has already")
}

pub(in crate::http) fn frequency_penalty() -> Object {
    number(&FREQUENCY_PENALTY, "Taken off the logit of a token for each time that the output has it already")
}

pub(in crate::http) fn top_k() -> Object {
    count(u32::MAX.into())
        .description(Some("Keep the so many most likely tokens; 0 keeps all"))
        .default(Some(0.into()))
        .build()
}

/// Tokens to generate at most, and how many those are without it.
pub(in crate::http) fn max_tokens(default: &str) -> Object {
    count(u32::MAX.into())
        .minimum(Some(1_usize))
        .description(Some(format!(
            "Tokens to generate at most; must fit into the context behind the prompt. Default: {default}"
        )))
        .build()
}

pub(in crate::http) fn seed() -> Object {
    optional(Type::Integer)
        .format(Some(SchemaFormat::Custom("uint64".to_owned())))
        .minimum(Some(0_usize))
        .maximum(Some(usize::MAX))
        .description(Some("The same seed, prompt and model give the same text. Default: a random one"))
        .build()
}

pub(in crate::http) fn logit_bias() -> Object {
    let bias =
        ObjectBuilder::new().schema_type(Type::Number).minimum(Some(BIAS.least)).maximum(Some(BIAS.most));
    optional(Type::Object)
        .description(Some("Added to the logits of these tokens, by their ids in the model's vocabulary"))
        .property_names(Some(
            ObjectBuilder::new().schema_type(Type::String).pattern(Some("^(0|[1-9][0-9]*)$")),
        ))
        .additional_properties(Some(AdditionalProperties::RefOr(bias.into())))
        .max_properties(Some(MOST_BIASES))
        .examples([json!({"504": -100})])
        .build()
}

fn stop_text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(LONGEST_STOP_BYTES))
}

/// Texts that end the output, as a list only.
pub(in crate::http) fn stop_list(description: &str) -> Array {
    ArrayBuilder::new()
        .schema_type(or_null(Type::Array))
        .items(stop_text())
        .max_items(Some(MOST_STOP_STRINGS))
        .description(Some(description))
        .build()
}

pub(in crate::http) fn stop() -> Schema {
    AnyOfBuilder::new()
        .description(Some(format!(
            "The output ends before the first of these that appears in it; each has 1 to {LONGEST_STOP_BYTES} bytes"
        )))
        .item(stop_text())
        .item(ArrayBuilder::new().items(stop_text()).max_items(Some(MOST_STOP_STRINGS)))
        .item(ObjectBuilder::new().schema_type(Type::Null))
        .into()
}

pub(in crate::http) fn stop_token_ids() -> Array {
    ArrayBuilder::new()
        .schema_type(or_null(Type::Array))
        .items(token_id())
        .max_items(Some(MOST_STOP_TOKENS))
        .description(Some("The output ends before the first of these tokens that is picked"))
        .build()
}

/// A token of the model's vocabulary, whose size only the model knows.
pub(in crate::http) fn token_id() -> Object {
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
        .minimum(Some(0_usize))
        .build()
}

/// How many alternatives to a token are told.
pub(in crate::http) fn alternatives(description: &str) -> Object {
    count(MOST_ALTERNATIVES.into()).description(Some(description)).build()
}

/// `true` or `false`, which `default` is where a request does not say.
pub(in crate::http) fn switch(default: bool, description: &str) -> Object {
    optional(Type::Boolean).description(Some(description)).default(Some(default.into())).build()
}

/// A switch that can only be off.
pub(in crate::http) fn only_false() -> Object {
    optional(Type::Boolean)
        .enum_values(Some([false.into(), serde_json::Value::Null]))
        .description(Some("Only `false`: this gateway has none of it"))
        .default(Some(false.into()))
        .build()
}

pub(in crate::http) fn ignore_eos() -> Object {
    switch(false, "Go on after the end-of-text token")
}

pub(in crate::http) fn skip_special_tokens() -> Object {
    switch(true, "Leave special tokens out of the text")
}

pub(in crate::http) fn stream() -> Object {
    switch(false, "Answer with server-sent events, a piece of the text each")
}

/// The model that is asked for.
pub(in crate::http) fn model() -> Object {
    optional(Type::String)
        .description(Some("Name of the model. Default: the only one; required where there are several"))
        .build()
}

/// A word of these.
pub(in crate::http) fn word<const N: usize>(words: [&str; N]) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words))
}

/// A word of these, or `null`.
pub(in crate::http) fn optional_word<const N: usize>(words: [&str; N]) -> ObjectBuilder {
    let values = words.into_iter().map(serde_json::Value::from).chain([serde_json::Value::Null]);
    optional(Type::String).enum_values(Some(values))
}

/// Always `null`.
pub(in crate::http) fn nothing() -> Object {
    ObjectBuilder::new().schema_type(Type::Null).build()
}
