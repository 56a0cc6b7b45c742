//! A generation as events, one for each token.

use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::answer::{described_reason, finish_reason};
use super::request::Shape;
use super::{errors, headers};
use crate::generate::{Delta, EndReason, Generation, Generations};
use crate::http::error::ApiError;
use crate::http::request_id::RequestId;
use crate::http::sse::{self, Moment};
use crate::http::tokens::{Token, Tokens, ToldToken};

/// A token of a text.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TgiStreamResponse)]
pub(super) struct StreamResponse<'a> {
    /// From 1 on
    index: usize,
    token: Token,
    /// With `top_n_tokens`: the most likely ones in its place
    #[serde(skip_serializing_if = "Vec::is_empty")]
    top_tokens: Vec<Token>,
    /// All of it, with the last token
    #[schema(required)]
    generated_text: Option<&'a str>,
    /// With the last token, if they are asked for
    #[schema(required)]
    details: Option<StreamDetails>,
}

/// How the text came about.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TgiStreamDetails)]
struct StreamDetails {
    #[schema(schema_with = described_reason)]
    finish_reason: &'static str,
    generated_tokens: usize,
    /// `null` where nothing is drawn
    #[schema(required, format = "uint64")]
    seed: Option<u64>,
    /// Tokens of the prompt
    input_length: usize,
}

struct Events {
    shape: Shape,
    tokens: Tokens,
    /// How many were told.
    told: usize,
    /// The text so far, behind the prompt if that is wanted.
    text: String,
}

/// Tells each token as it comes.
pub(super) fn stream(generations: Generations, mut shape: Shape, request_id: RequestId) -> Response {
    let headers = headers::of_stream(shape.characters);
    let text = std::mem::take(&mut shape.prefix);
    let mut events = Events { shape, tokens: Tokens::default(), told: 0, text };
    let mut response = sse::respond(generations, move |generations, moment| match moment {
        Moment::Piece(index, Delta::Text(text)) => {
            events.text.push_str(&text);
            let told = events.tokens.piece(generations.get_mut(index), &text);
            events.tell(told)
        }
        Moment::Piece(index, Delta::End(reason)) => events.end(generations.get_mut(index), reason),
        Moment::Failed(error) => {
            let error = ApiError::from(error);
            tracing::debug!(%request_id, code = error.code, "a stream ends with an error");
            let told = events.tokens.end(generations.get_mut(0));
            let mut last = events.tell(told);
            last.push(sse::data(&errors::body(&error).1));
            last
        }
        Moment::Begin | Moment::End => Vec::new(),
    });
    response.headers_mut().extend(headers);
    response
}

impl Events {
    fn tell(&mut self, told: Vec<ToldToken>) -> Vec<String> {
        told.into_iter().map(|told| self.event(told, None)).collect()
    }

    /// The last token comes with the text and why it ended.
    fn end(&mut self, generation: &mut Generation, reason: EndReason) -> Vec<String> {
        let mut told = self.tokens.end(generation);
        let last = told.pop();
        let mut events = self.tell(told);
        events.extend(last.map(|last| self.event(last, Some((generation, reason)))));
        events
    }

    fn event(&mut self, told: ToldToken, end: Option<(&mut Generation, EndReason)>) -> String {
        let ToldToken { token, added: _, top } = told;
        self.told += 1;
        let generated_text = end.is_some().then_some(self.text.as_str());
        let details = end.filter(|_| self.shape.details).map(|(generation, reason)| StreamDetails {
            finish_reason: finish_reason(reason),
            generated_tokens: generation.picked_tokens(),
            seed: self.shape.seed,
            input_length: generation.prompt_tokens().len(),
        });
        let top_tokens = if self.shape.top_tokens { top } else { Vec::new() };
        sse::data(&StreamResponse { index: self.told, token, top_tokens, generated_text, details })
    }
}
