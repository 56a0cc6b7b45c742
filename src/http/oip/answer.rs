//! A generation as an answer: one body, or an event for each piece.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::errors;
use crate::generate::{Delta, EndReason, Generations};
use crate::http::error::ApiError;
use crate::http::request_id::RequestId;
use crate::http::sse::{self, Moment};
use crate::http::tokens::{self, Token, Tokens, ToldToken};

/// `{"id", "model_name", "model_version", "text_output", "details"}`, also of an event.
#[derive(Debug, Serialize)]
struct GenerateResponse<'a, D> {
    /// That of the request, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    model_name: &'a str,
    model_version: &'a str,
    text_output: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<D>,
}

/// `{"finish_reason", "logprobs"}`
#[derive(Debug, Serialize)]
struct Details {
    finish_reason: &'static str,
    logprobs: Vec<Token>,
}

/// `{"finish_reason", "token"}`
#[derive(Debug, Serialize)]
struct StreamDetails {
    /// `null` but with the last token: until then there is none.
    finish_reason: Option<&'static str>,
    token: Token,
}

/// An answer in the making.
pub(super) struct Answer {
    id: Option<String>,
    model_name: String,
    model_version: String,
    details: bool,
}

impl Answer {
    pub(super) fn new(id: Option<String>, details: bool, generations: &Generations) -> Self {
        let model = generations.model();
        Self { id, details, model_name: model.name.to_string(), model_version: model.revision.clone() }
    }

    /// Waits for the end.
    pub(super) async fn whole(self, mut generations: Generations) -> Result<Response, ApiError> {
        let mut all = tokens::whole(&mut generations).await?;
        let (whole, told) = all.remove(0);
        let details = self.details.then(|| Details {
            finish_reason: finish_reason(whole.reason),
            logprobs: told.into_iter().map(|told| told.token).collect(),
        });
        Ok(Json(self.response(whole.text, details)).into_response())
    }

    /// Tells each piece as it comes; with details each token.
    pub(super) fn stream(self, generations: Generations, request_id: RequestId) -> Response {
        let (mut tokens, mut is_silent) = (Tokens::default(), true);
        sse::respond(generations, move |generations, moment| match moment {
            Moment::Piece(index, delta) if self.details => {
                let generation = generations.get_mut(index);
                match delta {
                    Delta::Text(text) => self.events(tokens.piece(generation, &text), None),
                    Delta::End(reason) => self.events(tokens.end(generation), Some(reason)),
                }
            }
            Moment::Piece(_, Delta::Text(text)) => {
                is_silent = false;
                vec![self.event(text, None)]
            }
            // A text without anything is told as well.
            Moment::Piece(_, Delta::End(_)) if is_silent => vec![self.event(String::new(), None)],
            Moment::Begin | Moment::Piece(_, Delta::End(_)) | Moment::End => Vec::new(),
            Moment::Failed(error) => {
                let error = ApiError::from(error);
                tracing::debug!(%request_id, code = error.code, "a stream ends with an error");
                let mut events = self.events(tokens.end(generations.get_mut(0)), None);
                events.push(sse::data(&errors::body(&error).1));
                events
            }
        })
    }

    /// An event for each token; the last one tells why the text ended.
    fn events(&self, told: Vec<ToldToken>, reason: Option<EndReason>) -> Vec<String> {
        let count = told.len();
        let tokens = told.into_iter().enumerate();
        let event = |(index, ToldToken { token, added, top: _ })| {
            let finish_reason = reason.filter(|_| index + 1 == count).map(finish_reason);
            self.event(added, Some(StreamDetails { finish_reason, token }))
        };
        tokens.map(event).collect()
    }

    fn event(&self, text_output: String, details: Option<StreamDetails>) -> String {
        sse::data(&self.response(text_output, details))
    }

    fn response<D>(&self, text_output: String, details: Option<D>) -> GenerateResponse<'_, D> {
        let Self { id, model_name, model_version, details: _ } = self;
        GenerateResponse { id: id.as_deref(), model_name, model_version, text_output, details }
    }
}

fn finish_reason(reason: EndReason) -> &'static str {
    match reason {
        EndReason::EndOfText => "eos_token",
        EndReason::Stop => "stop_sequence",
        EndReason::Length => "length",
    }
}
