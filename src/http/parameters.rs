//! What all dialects ask for in the same way: values that are checked, and never clamped.

mod bounds;
pub(super) mod schemas;
mod tokens;

use std::ops::RangeInclusive;

use serde::Deserialize;

use bounds::{FREQUENCY_PENALTY, MIN_P, PRESENCE_PENALTY, REPETITION_PENALTY, TEMPERATURE, TOP_P};
pub(super) use tokens::{
    LogitBias, checked_alternatives, checked_logit_bias, checked_stop_tokens, checked_token,
};

use super::error::ApiError;
use crate::engine::Sampling;

/// Largest seed that is made: JSON numbers above it lose digits in some clients.
const LARGEST_MADE_SEED: u64 = (1 << 53) - 1;
/// Stop strings of a request.
pub(super) const MOST_STOP_STRINGS: usize = 16;
/// Length of one stop string.
const LONGEST_STOP_BYTES: usize = 1024;

/// How tokens are picked, as a request says; `None` means the default.
#[derive(Debug)]
pub(super) struct SamplingFields {
    pub(super) temperature: Option<f64>,
    pub(super) top_p: Option<f64>,
    pub(super) top_k: Option<u32>,
    pub(super) min_p: Option<f64>,
    pub(super) repetition_penalty: Option<f64>,
    pub(super) presence_penalty: Option<f64>,
    pub(super) frequency_penalty: Option<f64>,
    pub(super) logit_bias: Option<LogitBias>,
}

impl SamplingFields {
    /// Checks every value; tokens that are named are below `vocabulary_size`.
    pub(super) fn checked(self, seed: u64, vocabulary_size: usize) -> Result<Sampling, ApiError> {
        let Self {
            temperature,
            top_p,
            top_k,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            logit_bias,
        } = self;
        Ok(Sampling {
            temperature: TEMPERATURE.checked("temperature", temperature)?,
            top_k: top_k.unwrap_or(0),
            top_p: TOP_P.checked("top_p", top_p)?,
            min_p: MIN_P.checked("min_p", min_p)?,
            repetition_penalty: REPETITION_PENALTY.checked("repetition_penalty", repetition_penalty)?,
            presence_penalty: PRESENCE_PENALTY.checked("presence_penalty", presence_penalty)?,
            frequency_penalty: FREQUENCY_PENALTY.checked("frequency_penalty", frequency_penalty)?,
            logit_bias: checked_logit_bias(logit_bias, vocabulary_size)?,
            seed,
        })
    }
}

/// A seed for a request that gives none.
pub(super) fn made_seed() -> u64 {
    rand::random_range(0..=LARGEST_MADE_SEED)
}

/// `"…"` or `["…", …]`
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a text or a list of texts")]
pub(super) enum Texts {
    One(String),
    Many(Vec<String>),
}

/// A number in its range, or its default. Compared before it is narrowed: `1e39` would become infinite as f32 and `1e-60` zero.
pub(super) fn in_range(
    field: &str,
    value: Option<f64>,
    default: f64,
    range: RangeInclusive<f64>,
) -> Result<f32, ApiError> {
    let value = value.unwrap_or(default);
    if !range.contains(&value) {
        let message = format!("{field} must be from {} to {}, got {value}", range.start(), range.end());
        return Err(ApiError::invalid_value(field, message));
    }
    let narrow = value as f32;
    if value != 0.0 && narrow == 0.0 {
        return Err(ApiError::invalid_value(field, format!("{field} {value} is too small; use 0 for none")));
    }
    Ok(narrow)
}

/// Tokens to generate at most.
pub(super) fn checked_max_tokens(field: &str, value: u64) -> Result<usize, ApiError> {
    // Above u32 no context is that long; the sum with the prompt must not overflow.
    match u32::try_from(value) {
        Ok(tokens) if tokens > 0 => Ok(tokens as usize),
        Ok(_zero) => Err(ApiError::invalid_value(field, format!("{field} must be at least 1"))),
        Err(_large) => {
            Err(ApiError::invalid_value(field, format!("{field} {value} is longer than any context")))
        }
    }
}

/// Whether a request to a path that answers with a stream, or with none, says the same of itself, if it says anything.
pub(super) fn check_stream(stream: Option<bool>, is_stream: bool) -> Result<(), ApiError> {
    let message = match (stream, is_stream) {
        (Some(true), false) => "stream is true, and this path answers with none: use generate_stream",
        (Some(false), true) => "stream is false, and this path answers with one: use generate",
        _ => return Ok(()),
    };
    Err(ApiError::invalid_value("stream", message))
}

/// Texts that end the output.
pub(super) fn checked_stop(stop: Option<Texts>) -> Result<Vec<String>, ApiError> {
    let strings = match stop {
        None => Vec::new(),
        Some(Texts::One(one)) => vec![one],
        Some(Texts::Many(many)) => many,
    };
    if strings.len() > MOST_STOP_STRINGS {
        return Err(ApiError::invalid_value("stop", format!("stop takes at most {MOST_STOP_STRINGS} texts")));
    }
    match strings.iter().position(|text| text.is_empty() || text.len() > LONGEST_STOP_BYTES) {
        Some(index) => Err(ApiError::invalid_value(
            "stop",
            format!("stop text {index} must have 1 to {LONGEST_STOP_BYTES} bytes"),
        )),
        None => Ok(strings),
    }
}
