//! How the fields that only this dialect has are described: for `#[schema(schema_with = …)]`.

use std::borrow::Cow;
use std::marker::PhantomData;

use serde_json::json;
use utoipa::openapi::schema::{
    Array, ArrayBuilder, Object, ObjectBuilder, OneOfBuilder, Schema, SchemaType, Type,
};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

use super::answer::{Enveloped, Shape, Usage};
use super::completions::DEFAULT_MAX_TOKENS;
use crate::generate::MOST_GENERATIONS;
use crate::http::parameters::schemas::{
    alternatives, count, max_tokens, optional, optional_word, token_id, word,
};

pub(super) fn n() -> Object {
    count(MOST_GENERATIONS as u64)
        .minimum(Some(1_usize))
        .description(Some(format!(
            "Choices for each prompt; times the number of prompts at most {MOST_GENERATIONS}"
        )))
        .default(Some(1.into()))
        .build()
}

pub(super) fn best_of() -> Object {
    count(MOST_GENERATIONS as u64)
        .minimum(Some(1_usize))
        .description(Some("Only the same number as `n`"))
        .build()
}

pub(super) fn top_k() -> Object {
    count(u32::MAX.into())
        .minimum(Some(-1_isize))
        .description(Some("Keep the so many most likely tokens; 0 and -1 keep all"))
        .default(Some(0.into()))
        .build()
}

pub(super) fn seed() -> Object {
    optional(Type::Integer)
        .minimum(Some(isize::MIN))
        .maximum(Some(usize::MAX))
        .description(Some(
            "The same seed, prompt and model give the same text; choice k has the seed `seed + k`. Default: a random one",
        ))
        .build()
}

pub(super) fn chat_max_tokens() -> Object {
    max_tokens(
        "what is left of the context. `max_tokens` is the older name: where both are given they must be the same",
    )
}

pub(super) fn completion_max_tokens() -> Object {
    max_tokens(&format!("{DEFAULT_MAX_TOKENS}, or what is left of the context"))
}

pub(super) fn top_logprobs() -> Object {
    alternatives("So many alternatives to each token; only with `logprobs`. Default: 0")
}

pub(super) fn completion_logprobs() -> Object {
    alternatives(
        "Tell the log-probability of each token, and so many alternatives to it. Default: none of it",
    )
}

pub(super) fn service_tier() -> Object {
    optional_word(["auto", "default"])
        .description(Some("Changes nothing here"))
        .default(Some("auto".into()))
        .build()
}

/// A field that is for the caller's own records.
pub(super) fn accepted() -> Object {
    ObjectBuilder::new()
        .schema_type(SchemaType::AnyValue)
        .description(Some("Accepted, for your own records: nothing comes of it"))
        .build()
}

pub(super) fn modalities() -> Array {
    ArrayBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Array, Type::Null]))
        .items(word(["text"]))
        .min_items(Some(1))
        .max_items(Some(1))
        .description(Some("Only text"))
        .default(Some(json!(["text"])))
        .build()
}

pub(super) fn prompt() -> Schema {
    let text = || ObjectBuilder::new().schema_type(Type::String).min_length(Some(1));
    let tokens = || ArrayBuilder::new().items(token_id()).min_items(Some(1));
    let list = || ArrayBuilder::new().min_items(Some(1)).max_items(Some(MOST_GENERATIONS));
    OneOfBuilder::new()
        .description(Some("A text, a list of texts, token ids, or a list of lists of token ids"))
        .item(text())
        .item(list().items(text()))
        .item(tokens())
        .item(list().items(tokens()))
        .into()
}

pub(super) fn role() -> Object {
    word(["system", "developer", "user", "assistant", "tool"])
        .description(Some("Who says it; `developer` is `system` to chat templates"))
        .build()
}

pub(super) fn text_part() -> Object {
    word(["text"]).build()
}

pub(super) fn function() -> Object {
    word(["function"]).build()
}

pub(super) fn assistant() -> Object {
    word(["assistant"]).build()
}

pub(super) fn finish_reason() -> Object {
    optional_word(["stop", "length", "tool_calls"])
        .description(Some(
            "`stop`: the model ended its text, or a stop text or stop token came. `length`: the limit was reached. \
             `tool_calls`: the model wants functions called. `null` in chunks before the last of a choice",
        ))
        .build()
}

/// The schema of a whole answer.
pub(super) struct Whole<S>(PhantomData<S>);

/// The schema of a chunk.
pub(super) struct Chunk<S>(PhantomData<S>);

impl<S: Shape> PartialSchema for Whole<S> {
    fn schema() -> RefOr<Schema> {
        enveloped::<S::Whole>(S::WHOLE, |envelope| {
            envelope.description = Some("An answer.".to_owned());
            envelope.properties.insert("usage".to_owned(), Ref::from_schema_name(Usage::name()).into());
            envelope.required.push("usage".to_owned());
        })
    }
}

impl<S: Shape> ToSchema for Whole<S> {
    fn name() -> Cow<'static, str> {
        S::NAMES[0].into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        mentioned::<S::Whole>(schemas);
    }
}

impl<S: Shape> PartialSchema for Chunk<S> {
    fn schema() -> RefOr<Schema> {
        enveloped::<S::Chunk>(S::CHUNK, |envelope| {
            envelope.description = Some("A piece of an answer.".to_owned());
        })
    }
}

impl<S: Shape> ToSchema for Chunk<S> {
    fn name() -> Cow<'static, str> {
        S::NAMES[1].into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        mentioned::<S::Chunk>(schemas);
    }
}

/// The envelope around choices, which says what it is.
fn enveloped<C: ToSchema>(object: &'static str, refine: impl FnOnce(&mut Object)) -> RefOr<Schema> {
    let mut schema = Enveloped::<C>::schema();
    if let RefOr::T(Schema::Object(envelope)) = &mut schema {
        envelope.properties.insert("object".to_owned(), word([object]).into());
        refine(envelope);
    }
    schema
}

/// What the schema of an envelope refers to.
fn mentioned<C: ToSchema>(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    schemas.push((C::name().into_owned(), C::schema()));
    Enveloped::<C>::schemas(schemas);
}
