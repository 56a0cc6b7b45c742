//! The fields that completions and chat have in common, and what they mean.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use utoipa::ToSchema;

use super::Names;
use super::format::{FormatField, ResponseFormat, StructuredOutputs, checked_format};
use super::refusals::{Unsupported, only, refuse};
use crate::engine::TokenId;
use crate::generate::{Input, MOST_GENERATIONS, MaxTokens, Prompt};
use crate::http::error::ApiError;
use crate::http::parameters::{
    SamplingFields, Texts, checked_max_tokens, checked_stop, checked_stop_tokens, made_seed, schemas,
};

/// Fields as they come; `None` and `null` mean the default.
#[derive(Debug)]
pub(super) struct CommonFields {
    pub(super) n: Option<u64>,
    pub(super) top_k: Option<i64>,
    pub(super) sampling: SamplingFields,
    pub(super) seed: Option<Seed>,
    pub(super) stop: Option<Texts>,
    pub(super) stop_token_ids: Option<Vec<u64>>,
    pub(super) include_stop_str_in_output: Option<bool>,
    pub(super) ignore_eos: Option<bool>,
    pub(super) skip_special_tokens: Option<bool>,
    pub(super) stream: Option<bool>,
    pub(super) stream_options: Option<StreamOptions>,
    pub(super) response_format: Option<ResponseFormat>,
    pub(super) structured_outputs: Option<StructuredOutputs>,
    pub(super) store: Option<bool>,
    pub(super) service_tier: Option<String>,
}

/// What they come to.
pub(super) struct CheckedFields {
    pub(super) choices: usize,
    pub(super) stream: Option<Stream>,
    /// The field that says what the answer has to look like.
    pub(super) format_field: Option<FormatField>,
    input: Input,
    seed: Option<u64>,
}

/// How an answer is streamed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stream {
    /// Whether its last chunk tells the usage.
    pub(super) include_usage: bool,
}

/// How an answer is to be streamed.
#[derive(Debug, serde::Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OpenAiStreamOptions)]
pub(super) struct StreamOptions {
    /// End with a chunk that has the usage and no choices
    #[schema(default = false)]
    include_usage: Option<bool>,
    #[schema(schema_with = schemas::only_false)]
    include_obfuscation: Option<bool>,
    #[schema(ignore)]
    continuous_usage_stats: Option<Unsupported>,
}

/// Any whole number of 64 bits, with a sign or without.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seed(u64);

impl<'de> Deserialize<'de> for Seed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WholeNumber)
    }
}

struct WholeNumber;

impl Visitor<'_> for WholeNumber {
    type Value = Seed;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a whole number of 64 bits")
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Seed, E> {
        Ok(Seed(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Seed, E> {
        Ok(Seed(value.cast_unsigned()))
    }
}

impl CommonFields {
    pub(super) fn checked(self, vocabulary_size: usize) -> Result<CheckedFields, ApiError> {
        let Self {
            n,
            top_k,
            mut sampling,
            seed,
            stop,
            stop_token_ids,
            include_stop_str_in_output,
            ignore_eos,
            skip_special_tokens,
            stream,
            stream_options,
            response_format,
            structured_outputs,
            store,
            service_tier,
        } = self;
        only("store", store != Some(true), "false: answers are not kept")?;
        only(
            "service_tier",
            service_tier.is_none_or(|tier| tier == "auto" || tier == "default"),
            "`auto` or `default`",
        )?;
        only("include_stop_str_in_output", include_stop_str_in_output != Some(true), "false")?;
        sampling.top_k = top_k.map(checked_top_k).transpose()?;
        let seed = seed.map(|Seed(seed)| seed);
        let (format_field, format) = checked_format(response_format, structured_outputs)?.unzip();
        let input = Input {
            prompt: Prompt::Tokens(Vec::new()),
            choices: n.map_or(Ok(1), checked_n)?,
            sampling: sampling.checked(seed.unwrap_or_default(), vocabulary_size)?,
            max_tokens: MaxTokens::UpTo(usize::MAX),
            timeout: None,
            stop: checked_stop(stop)?,
            include_stop: false,
            stop_tokens: checked_stop_tokens(stop_token_ids, vocabulary_size)?,
            logprobs: None,
            ignore_eos: ignore_eos.unwrap_or(false),
            skip_special_tokens: skip_special_tokens.unwrap_or(true),
            format,
        };
        let stream = checked_stream(stream.unwrap_or(false), stream_options)?;
        Ok(CheckedFields { choices: input.choices, stream, format_field, input, seed })
    }
}

impl CheckedFields {
    /// The input of each prompt. The same seed for each: a prompt of a list is answered as if it had come alone.
    pub(super) fn inputs(
        &self,
        prompts: Vec<Prompt>,
        max_tokens: MaxTokens,
        logprobs: Option<usize>,
    ) -> Vec<Input> {
        let input = |prompt| {
            let mut input = Input { prompt, max_tokens, logprobs, ..self.input.clone() };
            input.sampling.seed = self.seed.unwrap_or_else(made_seed);
            input
        };
        prompts.into_iter().map(input).collect()
    }
}

/// `-1` is what some clients write for "all".
fn checked_top_k(top_k: i64) -> Result<u32, ApiError> {
    let top_k = if top_k == -1 { 0 } else { top_k };
    u32::try_from(top_k).map_err(|_outside| {
        ApiError::invalid_value(
            "top_k",
            format!("top_k must be a number of tokens, or 0 or -1 for all, got {top_k}"),
        )
    })
}

fn checked_n(n: u64) -> Result<usize, ApiError> {
    match usize::try_from(n) {
        Ok(n) if (1..=MOST_GENERATIONS).contains(&n) => Ok(n),
        _outside => {
            Err(ApiError::invalid_value("n", format!("n must be from 1 to {MOST_GENERATIONS}, got {n}")))
        }
    }
}

fn checked_stream(stream: bool, options: Option<StreamOptions>) -> Result<Option<Stream>, ApiError> {
    let Some(StreamOptions { include_usage, include_obfuscation, continuous_usage_stats }) = options else {
        return Ok(stream.then_some(Stream { include_usage: false }));
    };
    if !stream {
        return Err(ApiError::invalid_value("stream_options", "stream_options is allowed only with stream"));
    }
    only("stream_options.include_obfuscation", include_obfuscation != Some(true), "false")?;
    refuse([("stream_options.continuous_usage_stats", continuous_usage_stats)])?;
    Ok(Some(Stream { include_usage: include_usage.unwrap_or(false) }))
}

/// The limit of tokens, from the first of the fields that is given; `default` if none is.
pub(super) fn checked_limit(
    fields: [(&'static str, Option<u64>); 2],
    default: MaxTokens,
) -> Result<(&'static str, MaxTokens), ApiError> {
    let [(name, first), (other_name, second)] = fields;
    match (first, second) {
        (Some(value), Some(other)) if value != other => {
            let message = format!("{name} is {value} and {other_name} is {other}: give one of them");
            Err(ApiError::invalid_value(other_name, message))
        }
        (Some(value), _) => Ok((name, MaxTokens::Exactly(checked_max_tokens(name, value)?))),
        (None, Some(value)) => Ok((other_name, MaxTokens::Exactly(checked_max_tokens(other_name, value)?))),
        (None, None) => Ok((name, default)),
    }
}

/// The ids of a prompt, all in the vocabulary.
pub(super) fn token_ids(
    field: &str,
    ids: Vec<u64>,
    vocabulary_size: usize,
) -> Result<Vec<TokenId>, ApiError> {
    let token = |id| crate::http::parameters::checked_token(field, id, vocabulary_size);
    ids.into_iter().map(token).collect()
}

impl Names {
    pub(super) fn new(prompt: &'static str, max_tokens: &'static str, common: &CheckedFields) -> Self {
        Self { prompt, max_tokens, is_list: false, choices: common.choices, format: common.format_field }
    }
}
