//! The parameters that are about single tokens: biases, stop tokens, alternatives.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use super::bounds::BIAS;
use crate::engine::TokenId;
use crate::http::error::ApiError;

/// Tokens with a bias: each costs a little in every step.
pub(super) const MOST_BIASES: usize = 1024;
/// Stop tokens of a request.
pub(super) const MOST_STOP_TOKENS: usize = 64;
/// Alternatives to a token.
pub(super) const MOST_ALTERNATIVES: u32 = 20;

/// `{"504": -100, …}` as it comes: a map would drop an entry that is there twice.
#[derive(Debug)]
pub(in crate::http) struct LogitBias(Vec<(String, f64)>);

impl<'de> Deserialize<'de> for LogitBias {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Entries)
    }
}

struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = LogitBias;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object of token ids and numbers")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LogitBias, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(LogitBias(entries))
    }
}

/// The biases, from −100 to 100, of different tokens of the vocabulary.
pub(in crate::http) fn checked_logit_bias(
    bias: Option<LogitBias>,
    vocabulary_size: usize,
) -> Result<Vec<(TokenId, f32)>, ApiError> {
    let LogitBias(entries) = bias.unwrap_or(LogitBias(Vec::new()));
    let invalid = |message| ApiError::invalid_value("logit_bias", message);
    if entries.len() > MOST_BIASES {
        return Err(invalid(format!("logit_bias takes at most {MOST_BIASES} tokens")));
    }
    let mut seen = HashSet::with_capacity(entries.len());
    let mut checked = Vec::with_capacity(entries.len());
    for (key, bias) in entries {
        let id: u64 = key
            .parse()
            .ok()
            .filter(|id: &u64| id.to_string() == key)
            .ok_or_else(|| invalid(format!("logit_bias takes token ids as keys, got {key:?}")))?;
        let token = checked_token("logit_bias", id, vocabulary_size)?;
        if !seen.insert(token) {
            return Err(invalid(format!("logit_bias has token id {token} twice")));
        }
        checked.push((token, BIAS.checked("logit_bias", Some(bias))?));
    }
    Ok(checked)
}

/// Stop tokens, all in the vocabulary.
pub(in crate::http) fn checked_stop_tokens(
    ids: Option<Vec<u64>>,
    vocabulary_size: usize,
) -> Result<Vec<TokenId>, ApiError> {
    let ids = ids.unwrap_or_default();
    if ids.len() > MOST_STOP_TOKENS {
        let message = format!("stop_token_ids takes at most {MOST_STOP_TOKENS} tokens");
        return Err(ApiError::invalid_value("stop_token_ids", message));
    }
    ids.into_iter().map(|id| checked_token("stop_token_ids", id, vocabulary_size)).collect()
}

/// How many alternatives to tell, if that is said.
pub(in crate::http) fn checked_alternatives(
    field: &str,
    alternatives: Option<u32>,
) -> Result<Option<usize>, ApiError> {
    match alternatives {
        Some(number) if number > MOST_ALTERNATIVES => Err(ApiError::invalid_value(
            field,
            format!("{field} must be from 0 to {MOST_ALTERNATIVES}, got {number}"),
        )),
        number => Ok(number.map(|number| number as usize)),
    }
}

/// A token of the vocabulary.
pub(in crate::http) fn checked_token(
    field: &str,
    id: u64,
    vocabulary_size: usize,
) -> Result<TokenId, ApiError> {
    match TokenId::try_from(id) {
        Ok(token) if (token as usize) < vocabulary_size => Ok(token),
        _outside => Err(ApiError::invalid_value(
            field,
            format!("{field}: token id {id} is outside the vocabulary of {vocabulary_size} tokens"),
        )),
    }
}
