//! What the API listener serves, as an OpenAPI 3.1 document and as a page to try it.
//!
//! Routes are made by `routes!`, which takes path and description from the `#[utoipa::path]` of a handler, so what is served and
//! what is described are one thing. Each dialect describes itself, next to its types:
//!
//! ```text
//! native/operation.rs, openai/operations.rs, oip/operations.rs, tgi/operations.rs, ops.rs
//!                                                     #[utoipa::path] on handlers: answers, examples
//! the types of requests and answers                   #[derive(ToSchema)]
//! parameters/schemas.rs                               fields that dialects share, with the bounds that are checked
//!     └─▶ http::api_routes ─▶ here: what holds for all ─▶ /openapi.json, /docs, `inference-gateway openapi`
//! ```

mod access;
mod page;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::Extension;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::schema::{ComponentsBuilder, Type};
use utoipa::openapi::{ObjectBuilder, OpenApi as Document, Ref, RefOr};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::access::is_open;
use super::error::ErrorBody as NativeError;
use super::oip::ErrorBody as OipError;
use super::openai::ErrorBody as OpenAiError;
use super::request_id;
use super::tgi::ErrorBody as TgiError;

/// The groups of operations.
pub(super) const NATIVE: &str = "Inference";
pub(super) const OPENAI: &str = "OpenAI";
pub(super) const OIP: &str = "Open Inference Protocol";
pub(super) const TGI: &str = "Text Generation Inference";
pub(super) const OPS: &str = "Operations";
pub(super) const ABOUT: &str = "About";

const EXAMPLE_ID: &str = "0af7651916cd43dd8448eb211c80319c";

/// What is said once.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Inference Gateway",
        description = "Text generation with ONNX models. Every answer has the header `x-request-id`, errors name the field at fault.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = NATIVE, description = "The gateway's own API"),
        (name = OPENAI, description = "What clients of the OpenAI API ask for"),
        (name = OIP, description = "Version 2 of the protocol, with its generate extension"),
        (name = TGI, description = "What clients of TGI ask for; no field names a model, so they speak to the only one"),
        (name = OPS, description = "Probes and metrics; also on an address of their own, where load cannot fail them"),
        (name = ABOUT, description = "This description"),
    ),
    // What answers mention is found by itself, except in `IntoResponses`.
    components(schemas(NativeError, OpenAiError, OipError, TgiError)),
)]
struct Head;

/// The document as it is served.
#[derive(Debug, Clone)]
pub(super) struct Served(Bytes);

impl Served {
    pub(super) fn new(document: &Document) -> Self {
        Self(text(document).into())
    }
}

/// A router whose routes describe themselves; dialects are merged into it.
pub(super) fn router() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::with_openapi(<Head as utoipa::OpenApi>::openapi())
}

/// The document and the page.
pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    page::routes().routes(routes!(document))
}

/// The document of all that the API listener serves, as JSON that ends with a line break.
pub fn printed() -> String {
    text(&super::api_routes(true).document)
}

fn text(document: &Document) -> String {
    let mut text = document.to_pretty_json().expect("a document has string keys only");
    text.push('\n');
    text
}

/// Adds what holds for every operation, and puts paths as the specification has them.
pub(super) fn complete(mut document: Document) -> Document {
    let paths = std::mem::take(&mut document.paths.paths);
    for (path, mut item) in paths {
        if !is_open(&path) {
            operations(&mut item).for_each(access::describe);
        }
        operations(&mut item).for_each(with_request_id);
        // A parameter that takes slashes is a matter of the router.
        document.paths.paths.insert(path.replace("{*", "{"), item);
    }
    let parameter = ParameterBuilder::new()
        .name(request_id::HEADER.as_str())
        .parameter_in(ParameterIn::Header)
        .description(Some(
            "Comes back in the answer and in errors, and is logged. One is made where there is none, or one that is not plain",
        ))
        // Whatever comes: what is not plain is replaced, not refused.
        .schema(Some(ObjectBuilder::new().schema_type(Type::String).examples([EXAMPLE_ID])));
    let header = HeaderBuilder::new()
        .schema(Some(
            ObjectBuilder::new()
                .schema_type(Type::String)
                .pattern(Some("^[A-Za-z0-9._:/+=-]+$"))
                .max_length(Some(request_id::LONGEST))
                .examples([EXAMPLE_ID]),
        ))
        .description(Some("That of the request, or one that was made"));
    let components = access::schemes(document.components.take().unwrap_or_default());
    document.components = Some(
        ComponentsBuilder::from(components)
            .parameter("RequestId", parameter.build())
            .header("RequestId", header.build())
            .build(),
    );
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, options, head, patch, trace, .. } = item;
    [get, put, post, delete, options, head, patch, trace].into_iter().filter_map(Option::as_mut)
}

fn with_request_id(operation: &mut Operation) {
    let parameter = RefOr::Ref(Ref::new("#/components/parameters/RequestId"));
    operation.parameters.get_or_insert_default().push(parameter);
    for response in operation.responses.responses.values_mut() {
        if let RefOr::T(response) = response {
            let header = RefOr::Ref(Ref::new("#/components/headers/RequestId"));
            response.headers.insert(request_id::HEADER.to_string(), header);
        }
    }
}

/// This document
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "openapi",
    tag = ABOUT,
    responses((status = 200, description = "An OpenAPI 3.1 document", body = Object)),
)]
async fn document(Extension(Served(document)): Extension<Served>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document).into_response()
}
