//! A generation as an answer: one body, or an event for each piece.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::{ToSchema, openapi};

use super::errors;
use crate::generate::{Delta, EndReason, Generations};
use crate::http::error::ApiError;
use crate::http::parameters::schemas::{optional_word, word};
use crate::http::request_id::RequestId;
use crate::http::sse::{self, Moment};
use crate::http::tokens::{self, Token, Tokens, ToldToken};

/// What an answer and an event have in common.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OipOutput)]
struct Said<'a> {
    /// That of the request, if it has one
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    id: Option<&'a str>,
    model_name: &'a str,
    /// The revision that answered
    model_version: &'a str,
    /// What continues the text; in an event the next piece of it
    text_output: String,
}

/// What a text is answered with.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OipGenerateResponse)]
pub(super) struct GenerateResponse<'a> {
    #[serde(flatten)]
    output: Said<'a>,
    /// If they are asked for
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    details: Option<Details>,
}

/// A piece of a text; with `details` a token of it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OipGenerateEvent)]
pub(super) struct GenerateEvent<'a> {
    #[serde(flatten)]
    output: Said<'a>,
    /// If they are asked for
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    details: Option<StreamDetails>,
}

/// Why the text ended, and its tokens.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OipDetails)]
struct Details {
    #[schema(schema_with = described_reason)]
    finish_reason: &'static str,
    logprobs: Vec<Token>,
}

/// A token; with the last one why the text ended.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OipStreamDetails)]
struct StreamDetails {
    /// `null` but with the last token: until then there is none.
    #[schema(schema_with = described_last_reason, required)]
    finish_reason: Option<&'static str>,
    token: Token,
}

fn described_reason() -> openapi::Object {
    word(REASONS).build()
}

fn described_last_reason() -> openapi::Object {
    optional_word(REASONS).description(Some("`null` before the last token")).build()
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
        Ok(Json(GenerateResponse { output: self.output(whole.text), details }).into_response())
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
        sse::data(&GenerateEvent { output: self.output(text_output), details })
    }

    fn output(&self, text_output: String) -> Said<'_> {
        let Self { id, model_name, model_version, details: _ } = self;
        Said { id: id.as_deref(), model_name, model_version, text_output }
    }
}

/// What [`finish_reason`] says.
const REASONS: [&str; 3] = ["eos_token", "stop_sequence", "length"];

fn finish_reason(reason: EndReason) -> &'static str {
    let [end_of_text, stop, length] = REASONS;
    match reason {
        EndReason::EndOfText => end_of_text,
        EndReason::Stop => stop,
        EndReason::Length => length,
    }
}
