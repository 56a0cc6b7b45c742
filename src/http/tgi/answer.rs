//! Generations as one body.

use std::time::Instant;

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::{ToSchema, openapi};

use super::headers;
use super::request::Shape;
use crate::generate::{EndReason, Generations, Whole};
use crate::http::error::ApiError;
use crate::http::parameters::schemas::word;
use crate::http::tokens::{self, Token, ToldToken};

/// What a text is answered with.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TgiGenerateResponse)]
pub(super) struct GenerateResponse {
    /// What continues the prompt, behind it if that is wanted
    generated_text: String,
    /// If they are asked for
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    details: Option<Details>,
}

/// How the answer came about.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TgiDetails)]
struct Details {
    #[serde(flatten)]
    sequence: SequenceDetails,
    /// With `best_of` above 1: the other sequences
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    best_of_sequences: Option<Vec<BestOfSequence>>,
}

/// Another sequence, which is less likely.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TgiBestOfSequence)]
struct BestOfSequence {
    generated_text: String,
    #[serde(flatten)]
    sequence: SequenceDetails,
}

/// Why a sequence ended, and its tokens.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TgiSequenceDetails)]
struct SequenceDetails {
    #[schema(schema_with = described_reason)]
    finish_reason: &'static str,
    generated_tokens: usize,
    /// `null` where nothing is drawn
    #[schema(required, format = "uint64")]
    seed: Option<u64>,
    /// Always empty: the tokens of the prompt, which only `decoder_input_details` asks for
    #[schema(value_type = Vec<Token>, max_items = 0)]
    prefill: [Token; 0],
    tokens: Vec<Token>,
    /// With `top_n_tokens`: for each token the most likely ones in its place
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

pub(super) fn described_reason() -> openapi::Object {
    word(REASONS).build()
}

/// What [`finish_reason`] says.
const REASONS: [&str; 3] = ["eos_token", "stop_sequence", "length"];

/// The word of the dialect.
pub(super) fn finish_reason(reason: EndReason) -> &'static str {
    let [end_of_text, stop, length] = REASONS;
    match reason {
        EndReason::EndOfText => end_of_text,
        EndReason::Stop => stop,
        EndReason::Length => length,
    }
}
