//! `POST /tokenize`: a text as the model's tokens, each with its place.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::engine::TokenId;
use crate::generate::{TokenSpan, tokenize};
use crate::http::error::{ApiError, Dialect};
use crate::http::refusals::{Unsupported, refuse};
use crate::http::request_id::RequestId;
use crate::http::{Api, json};

/// The request as it comes. No parameter changes the tokens of a text.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenizeRequest {
    inputs: String,
    parameters: Option<Unsupported>,
}

/// `{"id", "text", "start", "stop"}`: bytes of the text.
#[derive(Debug, Serialize)]
struct SimpleToken {
    id: TokenId,
    /// U+FFFD where it is a part of a character.
    text: String,
    start: usize,
    stop: usize,
}

/// `POST /tokenize`
pub(super) async fn tokens(
    State(api): State<Arc<Api>>,
    Extension(request_id): Extension<RequestId>,
    request: Request,
) -> Response {
    match answer(&api, request).await {
        Ok(tokens) => Json(tokens).into_response(),
        Err(error) => error.respond_in(Dialect::Tgi, &request_id),
    }
}

async fn answer(api: &Api, request: Request) -> Result<Vec<SimpleToken>, ApiError> {
    let TokenizeRequest { inputs, parameters } =
        json::read(request.into_body(), api.limits.body_bytes).await?;
    refuse([("parameters", parameters)])?;
    let model = api.registry.pin(None, api.limits.request_timeout).await?;
    let spans = tokenize(&model, inputs.clone()).await?;
    let token = |TokenSpan { token, bytes }| SimpleToken {
        id: token,
        text: String::from_utf8_lossy(&inputs.as_bytes()[bytes.clone()]).into_owned(),
        start: bytes.start,
        stop: bytes.end,
    };
    Ok(spans.into_iter().map(token).collect())
}
