//! `POST /tokenize`: a text as the model's tokens, each with its place.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::operations::Failures;
use crate::access::Caller;
use crate::engine::TokenId;
use crate::generate::{TokenSpan, tokenize};
use crate::http::error::{ApiError, Dialect};
use crate::http::openapi::TGI;
use crate::http::refusals::{Unsupported, refuse};
use crate::http::request_id::RequestId;
use crate::http::{Api, json};

/// A text. No parameter changes the tokens of one.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TgiTokenizeRequest)]
pub(super) struct TokenizeRequest {
    /// The text, which may be empty
    inputs: String,
    #[schema(ignore)]
    parameters: Option<Unsupported>,
}

/// A token and its place: bytes of the text.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TgiSimpleToken)]
pub(super) struct SimpleToken {
    #[schema(value_type = u32)]
    id: TokenId,
    /// U+FFFD where it is a part of a character
    text: String,
    start: usize,
    /// Behind its last byte
    stop: usize,
}

/// The tokens of a text
#[utoipa::path(
    post,
    path = "/tokenize",
    operation_id = "tgi_tokenize",
    tag = TGI,
    request_body(content = TokenizeRequest, example = json!({"inputs": "Winter is"})),
    responses(
        (
            status = 200,
            description = "The tokens, in their order",
            body = Vec<SimpleToken>,
            example = json!([
                {"id": 47_341, "text": "Winter", "start": 0, "stop": 6}, {"id": 314, "text": " is", "start": 6, "stop": 9},
            ]),
        ),
        Failures,
    ),
)]
pub(super) async fn tokens(
    State(api): State<Arc<Api>>,
    Extension(request_id): Extension<RequestId>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    match answer(&api, &caller, request).await {
        Ok(tokens) => Json(tokens).into_response(),
        Err(error) => error.respond_in(Dialect::Tgi, &request_id),
    }
}

async fn answer(api: &Api, caller: &Caller, request: Request) -> Result<Vec<SimpleToken>, ApiError> {
    let TokenizeRequest { inputs, parameters } =
        json::read(request.into_body(), api.limits.body_bytes).await?;
    refuse([("parameters", parameters)])?;
    let model = api.pin(caller, None).await?;
    let spans = tokenize(&model, inputs.clone()).await?;
    let token = |TokenSpan { token, bytes }| SimpleToken {
        id: token,
        text: String::from_utf8_lossy(&inputs.as_bytes()[bytes.clone()]).into_owned(),
        start: bytes.start,
        stop: bytes.end,
    };
    Ok(spans.into_iter().map(token).collect())
}
