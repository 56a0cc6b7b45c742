//! Generations as one body.

use std::time::Instant;

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::headers;
use super::request::Shape;
use crate::generate::{EndReason, Generations, Whole};
use crate::http::error::ApiError;
use crate::http::tokens::{self, Token, ToldToken};

/// `{"generated_text", "details"}`
#[derive(Debug, Serialize)]
struct GenerateResponse {
    generated_text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
}

/// `{"finish_reason", "generated_tokens", "seed", "prefill", "tokens", "best_of_sequences", "top_tokens"}`
#[derive(Debug, Serialize)]
struct Details {
    #[serde(flatten)]
    sequence: SequenceDetails,
    #[serde(skip_serializing_if = "Option::is_none")]
    best_of_sequences: Option<Vec<BestOfSequence>>,
}

/// Another sequence, which is less likely.
#[derive(Debug, Serialize)]
struct BestOfSequence {
    generated_text: String,
    #[serde(flatten)]
    sequence: SequenceDetails,
}

#[derive(Debug, Serialize)]
struct SequenceDetails {
    finish_reason: &'static str,
    generated_tokens: usize,
    /// `null` where nothing is drawn.
    seed: Option<u64>,
    /// Those of the prompt, which only `decoder_input_details` asks for.
    prefill: [Token; 0],
    tokens: Vec<Token>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    top_tokens: Vec<Vec<Token>>,
}

/// Waits for the end; the answer is a list of one where `is_list`.
pub(super) async fn whole(
    mut generations: Generations,
    shape: Shape,
    started: Instant,
    is_list: bool,
) -> Result<Response, ApiError> {
    let all = tokens::whole(&mut generations).await?;
    let best = most_likely(&all);
    let headers = headers::of_whole(&generations.all()[best], started, shape.characters);
    let mut others: Vec<BestOfSequence> = all
        .into_iter()
        .enumerate()
        .map(|(index, (whole, told))| BestOfSequence {
            generated_text: format!("{}{}", shape.prefix, whole.text),
            sequence: SequenceDetails {
                finish_reason: finish_reason(whole.reason),
                generated_tokens: generations.all()[index].picked_tokens(),
                seed: shape.seed.map(|seed| seed.wrapping_add(index as u64)),
                prefill: [],
                top_tokens: top_tokens(&told, shape.top_tokens),
                tokens: told.into_iter().map(|told| told.token).collect(),
            },
        })
        .collect();
    let BestOfSequence { generated_text, sequence } = others.remove(best);
    let best_of_sequences = (!others.is_empty()).then_some(others);
    let details = shape.details.then_some(Details { sequence, best_of_sequences });
    let response = GenerateResponse { generated_text, details };
    Ok(if is_list {
        (headers, Json([response])).into_response()
    } else {
        (headers, Json(response)).into_response()
    })
}

/// The sequence whose tokens have the highest log-probability in the mean, the first of those that are alike.
fn most_likely(all: &[(Whole, Vec<ToldToken>)]) -> usize {
    let mean = |told: &[ToldToken]| {
        let sum: f32 = told.iter().map(|told| told.token.logprob).sum();
        sum / told.len().max(1) as f32
    };
    let means = all.iter().map(|(_, told)| mean(told)).enumerate();
    means.reduce(|best, other| if other.1 > best.1 { other } else { best }).map_or(0, |(index, _)| index)
}

fn top_tokens(told: &[ToldToken], wanted: bool) -> Vec<Vec<Token>> {
    if wanted { told.iter().map(|told| told.top.clone()).collect() } else { Vec::new() }
}

/// The word of the dialect.
pub(super) fn finish_reason(reason: EndReason) -> &'static str {
    match reason {
        EndReason::EndOfText => "eos_token",
        EndReason::Stop => "stop_sequence",
        EndReason::Length => "length",
    }
}
