//! How the request of this dialect is described: for `#[schema(schema_with = …)]`, and as a whole.

use std::borrow::Cow;

use serde_json::Value;
use utoipa::openapi::schema::{Object, OneOfBuilder, Schema, Type};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

use super::request::{DEFAULT_MAX_TOKENS, GenerateRequest, Parameters};
use crate::http::parameters::schemas::{self, nothing, optional, switch, text};

pub(super) fn max_tokens() -> Object {
    schemas::max_tokens(&format!("{DEFAULT_MAX_TOKENS}, or what is left of the context"))
}

pub(super) fn details() -> Object {
    switch(false, "Tell the tokens, and why the text ended")
}

pub(super) fn stream() -> Object {
    optional(Type::Boolean)
        .description(Some("The path says it: `true` only at `generate_stream`, `false` only at `generate`"))
        .build()
}

pub(super) fn exclude_input() -> Object {
    optional(Type::Boolean)
        .enum_values(Some([true.into(), Value::Null]))
        .description(Some("Only `true`: the prompt is no part of the answer"))
        .default(Some(true.into()))
        .build()
}

/// Parameters stand beside the text or in an object of their own, each in one of both.
impl PartialSchema for GenerateRequest {
    fn schema() -> RefOr<Schema> {
        let mut schema = Parameters::schema();
        if let RefOr::T(Schema::Object(request)) = &mut schema {
            request.description = Some(
                "What to continue, and how. Parameters stand in `parameters` or beside the text; one that is in both is \
                 refused. A field that is `null` counts as not given."
                    .to_owned(),
            );
            let id = optional(Type::String).description(Some("Comes back in the answer"));
            let parameters = OneOfBuilder::new()
                .description(Some("The parameters, as the specification has them"))
                .item(nothing())
                .item(Ref::from_schema_name(Parameters::name()));
            for (name, property) in [
                ("text_input", RefOr::from(text("The prompt"))),
                ("id", id.into()),
                ("parameters", parameters.into()),
            ] {
                request.properties.insert(name.to_owned(), property);
            }
            request.required.push("text_input".to_owned());
        }
        schema
    }
}

impl ToSchema for GenerateRequest {
    fn name() -> Cow<'static, str> {
        "OipGenerateRequest".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((Parameters::name().into_owned(), Parameters::schema()));
        Parameters::schemas(schemas);
    }
}
