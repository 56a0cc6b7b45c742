//! How the fields that only this dialect has are described: for `#[schema(schema_with = …)]`.

use serde_json::json;
use utoipa::openapi::schema::{
    AdditionalProperties, Array, Object, ObjectBuilder, OneOfBuilder, Schema, SchemaType, Type,
};

use super::request::DEFAULT_MAX_NEW_TOKENS;
use crate::generate::MOST_GENERATIONS;
use crate::http::parameters::schemas::{
    self, alternatives, count, nothing, optional, stop_list, switch, text, word,
};

pub(super) fn inputs() -> Object {
    text("The prompt")
}

pub(super) fn stream() -> Object {
    optional(Type::Boolean)
        .description(Some(
            "At `/` whether to answer with a stream. Elsewhere the path says it: `true` only at `/generate_stream`, `false` \
             only at `/generate`",
        ))
        .build()
}

pub(super) fn best_of() -> Object {
    count(MOST_GENERATIONS as u64)
        .minimum(Some(1_usize))
        .description(Some(
            "Generate so many sequences and answer with the most likely one; above 1 only with `do_sample`, without `seed` and \
             not in a stream",
        ))
        .default(Some(1.into()))
        .build()
}

/// Zero is refused: it has no meaning of its own here.
fn above_zero(mut number: Object, description: &str) -> Object {
    number.minimum = None;
    number.exclusive_minimum = Some(0_usize.into());
    number.description = Some(description.to_owned());
    number
}

pub(super) fn temperature() -> Object {
    above_zero(
        schemas::temperature(),
        "How much chance there is in what is picked; other than 1 it asks for a draw. For the most likely token each time \
         leave it out, with `do_sample`",
    )
}

pub(super) fn top_p() -> Object {
    above_zero(
        schemas::top_p(),
        "Keep the most likely tokens that together have this probability; below 1 it asks for a draw",
    )
}

pub(super) fn top_k() -> Object {
    count(u32::MAX.into())
        .minimum(Some(1_usize))
        .description(Some("Keep the so many most likely tokens; it asks for a draw. Default: all of them"))
        .build()
}

pub(super) fn do_sample() -> Object {
    switch(
        false,
        "Draw the tokens; otherwise the most likely one is taken each time, unless something else asks for a draw",
    )
}

pub(super) fn max_new_tokens() -> Object {
    schemas::max_tokens(&format!("{DEFAULT_MAX_NEW_TOKENS}, or what is left of the context"))
}

pub(super) fn return_full_text() -> Object {
    optional(Type::Boolean)
        .description(Some("Whether the text begins with the prompt. Default: true at `/`, false elsewhere"))
        .build()
}

pub(super) fn stop() -> Array {
    stop_list("The output ends behind the first of these that appears in it, which is a part of it")
}

pub(super) fn truncate() -> Object {
    count(u32::MAX.into())
        .minimum(Some(1_usize))
        .description(Some("Keep so many tokens of the prompt, the last ones. Default: all of them"))
        .build()
}

pub(super) fn details() -> Object {
    switch(false, "Tell why the text ended, and its tokens; in a stream the tokens come anyway")
}

pub(super) fn top_n_tokens() -> Object {
    alternatives(
        "Tell so many of the most likely tokens in the place of each; only with `details` or in a stream. Default: 0",
    )
}

pub(super) fn grammar() -> Schema {
    OneOfBuilder::new()
        .description(Some("What the text has to look like"))
        .item(kind(
            ["json", "json_object"],
            any_schema("A JSON schema, which may also come as a text of JSON", true),
        ))
        .item(kind(["regex"], pattern()))
        .item(kind(["json_schema"], named_schema()))
        .item(nothing())
        .into()
}

fn kind<const N: usize>(names: [&str; N], value: Object) -> Object {
    closed().property("type", word(names)).required("type").property("value", value).required("value").build()
}

fn closed() -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false)))
}

fn pattern() -> Object {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .max_length(Some(4096))
        .description(Some("A pattern that the text matches from its beginning to its end"))
        .build()
}

fn named_schema() -> Object {
    let accepted = || {
        ObjectBuilder::new()
            .schema_type(SchemaType::AnyValue)
            .description(Some("Changes nothing: every schema is held to"))
    };
    closed()
        .property("name", accepted())
        .property("strict", accepted())
        .property("schema", any_schema("A JSON schema", false))
        .required("schema")
        .build()
}

fn any_schema(description: &str, or_text: bool) -> Object {
    let text = or_text.then_some(Type::String);
    ObjectBuilder::new()
        .schema_type([Type::Object, Type::Boolean].into_iter().chain(text).collect::<SchemaType>())
        .description(Some(description))
        .examples([json!({"type": "object"})])
        .build()
}
