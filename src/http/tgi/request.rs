//! The body of the paths that generate, which is the same for all of them.

use serde::Deserialize;
use utoipa::ToSchema;

use super::described;
use super::grammar::Grammar;
use crate::generate::{Input, MOST_GENERATIONS, MaxTokens, Prompt};
use crate::http::error::ApiError;
use crate::http::parameters::{
    SamplingFields, Texts, check_stream, checked_alternatives, checked_max_tokens, checked_stop, made_seed,
    schemas,
};
use crate::http::refusals::{Unsupported, only, refuse};

/// Tokens that are generated when the request does not say, if the context has room for them.
///
/// From: TGI, docs/openapi.json, `max_new_tokens`
pub(super) const DEFAULT_MAX_NEW_TOKENS: usize = 1024;

/// What to continue, and how. A field that is `null` counts as not given.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TgiGenerateRequest)]
pub(super) struct GenerateRequest {
    #[schema(schema_with = described::inputs)]
    inputs: String,
    /// How to continue the text
    parameters: Option<GenerateParameters>,
    #[schema(schema_with = described::stream)]
    stream: Option<bool>,
}

/// How to continue a text. A field that is `null` counts as not given.
///
/// From: TGI, docs/openapi.json, `GenerateParameters`
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TgiParameters)]
struct GenerateParameters {
    #[schema(schema_with = described::best_of)]
    best_of: Option<u64>,
    #[schema(schema_with = described::temperature)]
    temperature: Option<f64>,
    #[schema(schema_with = schemas::repetition_penalty)]
    repetition_penalty: Option<f64>,
    #[schema(schema_with = schemas::frequency_penalty)]
    frequency_penalty: Option<f64>,
    #[schema(schema_with = described::top_k)]
    top_k: Option<u32>,
    #[schema(schema_with = described::top_p)]
    top_p: Option<f64>,
    #[schema(ignore)]
    typical_p: Option<Unsupported>,
    #[schema(schema_with = described::do_sample)]
    do_sample: Option<bool>,
    #[schema(schema_with = described::max_new_tokens)]
    max_new_tokens: Option<u64>,
    #[schema(schema_with = described::return_full_text)]
    return_full_text: Option<bool>,
    #[schema(schema_with = described::stop)]
    stop: Option<Vec<String>>,
    #[schema(schema_with = described::truncate)]
    truncate: Option<u64>,
    #[schema(schema_with = schemas::only_false)]
    watermark: Option<bool>,
    #[schema(schema_with = described::details)]
    details: Option<bool>,
    #[schema(schema_with = schemas::only_false)]
    decoder_input_details: Option<bool>,
    #[schema(schema_with = schemas::seed)]
    seed: Option<u64>,
    #[schema(schema_with = described::top_n_tokens)]
    top_n_tokens: Option<u32>,
    #[schema(schema_with = described::grammar)]
    grammar: Option<Grammar>,
    #[schema(ignore)]
    adapter_id: Option<Unsupported>,
}

/// Which path was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// `/generate`
    Whole,
    /// `/generate_stream`
    Stream,
    /// `/`, where the body says which of both.
    Either,
}

/// What [`GenerateRequest::checked`] makes of a request.
pub(super) struct Checked {
    pub(super) input: Input,
    pub(super) shape: Shape,
}

/// What the answer needs to know of the request.
pub(super) struct Shape {
    pub(super) is_stream: bool,
    /// Whether tokens and the reason of the end are told.
    pub(super) details: bool,
    pub(super) top_tokens: bool,
    /// The prompt, when it begins the text.
    pub(super) prefix: String,
    /// Of the prompt.
    pub(super) characters: usize,
    /// That of the first sequence, if tokens are drawn.
    pub(super) seed: Option<u64>,
}

impl GenerateRequest {
    /// Checks every value; nothing is clamped.
    pub(super) fn checked(self, asked: Asked) -> Result<Checked, ApiError> {
        let Self { inputs, parameters, stream } = self;
        if inputs.is_empty() {
            return Err(ApiError::invalid_value("inputs", "inputs must not be empty"));
        }
        let is_stream = match asked {
            Asked::Whole => false,
            Asked::Stream => true,
            Asked::Either => stream.unwrap_or(false),
        };
        check_stream(stream, is_stream)?;
        parameters.unwrap_or_default().checked(inputs, is_stream, asked == Asked::Either)
    }
}

impl GenerateParameters {
    fn checked(self, inputs: String, is_stream: bool, full_text: bool) -> Result<Checked, ApiError> {
        let Self {
            best_of,
            temperature,
            repetition_penalty,
            frequency_penalty,
            top_k,
            top_p,
            typical_p,
            do_sample,
            max_new_tokens,
            return_full_text,
            stop,
            truncate,
            watermark,
            details,
            decoder_input_details,
            seed,
            top_n_tokens,
            grammar,
            adapter_id,
        } = self;
        refuse([("typical_p", typical_p), ("adapter_id", adapter_id)])?;
        only("watermark", watermark != Some(true), "false")?;
        only("decoder_input_details", decoder_input_details != Some(true), "false")?;
        let sampling = checked_sampling(temperature, top_k, top_p, do_sample.unwrap_or(false))?;
        let sampling = SamplingFields { repetition_penalty, frequency_penalty, ..sampling };
        let is_drawn = sampling.temperature != Some(0.0);
        let choices = checked_best_of(best_of, (is_drawn, seed.is_some(), is_stream))?;
        let details = details.unwrap_or(false);
        let top_tokens = checked_alternatives("top_n_tokens", top_n_tokens)?.filter(|number| *number > 0);
        if top_tokens.is_some() && !(details || is_stream) {
            let message = "top_n_tokens is told with details: set details";
            return Err(ApiError::invalid_value("top_n_tokens", message));
        }
        let seed = seed.unwrap_or_else(made_seed);
        let full_text = return_full_text.unwrap_or(full_text);
        let shape = Shape {
            is_stream,
            details,
            top_tokens: top_tokens.is_some(),
            characters: inputs.chars().count(),
            prefix: if full_text { inputs.clone() } else { String::new() },
            seed: is_drawn.then_some(seed),
        };
        let needs_tokens = details || is_stream || choices > 1;
        let max_tokens =
            max_new_tokens.map(|value| checked_max_tokens("max_new_tokens", value)).transpose()?;
        let input = Input {
            prompt: match truncate {
                Some(tokens) => Prompt::TextEnd(inputs, checked_max_tokens("truncate", tokens)?),
                None => Prompt::Text(inputs),
            },
            choices,
            // No token is named.
            sampling: sampling.checked(seed, 0)?,
            max_tokens: max_tokens.map_or(MaxTokens::UpTo(DEFAULT_MAX_NEW_TOKENS), MaxTokens::Exactly),
            timeout: None,
            stop: checked_stop(stop.map(Texts::Many))?,
            include_stop: true,
            stop_tokens: Vec::new(),
            logprobs: needs_tokens.then(|| top_tokens.unwrap_or(0)),
            ignore_eos: false,
            skip_special_tokens: true,
            format: grammar.map(Grammar::checked).transpose()?,
        };
        Ok(Checked { input, shape })
    }
}

/// Tokens are drawn when the request says so or narrows what is drawn from; a temperature of 1 does not.
///
/// From: TGI, `server/text_generation_server/utils/tokens.py`, `NextTokenChooser`
#[expect(clippy::float_cmp, reason = "the values are compared as they were written")]
fn checked_sampling(
    temperature: Option<f64>,
    top_k: Option<u32>,
    top_p: Option<f64>,
    do_sample: bool,
) -> Result<SamplingFields, ApiError> {
    let positive = |field: &str, holds: bool, more: &str| {
        let message = || format!("{field} must be above 0{more}");
        if holds { Ok(()) } else { Err(ApiError::invalid_value(field, message())) }
    };
    let for_greedy = "; for the most likely token each time leave it out, with do_sample";
    positive("temperature", temperature != Some(0.0), for_greedy)?;
    positive("top_k", top_k != Some(0), "")?;
    positive("top_p", top_p != Some(0.0), "")?;
    let is_drawn = do_sample
        || top_k.is_some()
        || temperature.is_some_and(|temperature| temperature != 1.0)
        || top_p.is_some_and(|top_p| top_p != 1.0);
    Ok(SamplingFields {
        temperature: if is_drawn { temperature } else { Some(0.0) },
        top_p,
        top_k,
        min_p: None,
        repetition_penalty: None,
        presence_penalty: None,
        frequency_penalty: None,
        logit_bias: None,
    })
}

/// How many sequences are generated, of which the most likely one is the answer.
fn checked_best_of(
    best_of: Option<u64>,
    (is_drawn, has_seed, is_stream): (bool, bool, bool),
) -> Result<usize, ApiError> {
    let invalid = |message: String| Err(ApiError::invalid_value("best_of", message));
    match best_of.map_or(Ok(1), usize::try_from) {
        Ok(1) => Ok(1),
        Ok(number) if !(1..=MOST_GENERATIONS).contains(&number) => {
            invalid(format!("best_of must be from 1 to {MOST_GENERATIONS}, got {number}"))
        }
        Err(_large) => invalid(format!("best_of must be from 1 to {MOST_GENERATIONS}")),
        Ok(_) if is_stream => invalid("best_of above 1 is not possible in a stream".to_owned()),
        Ok(_) if !is_drawn => invalid("best_of above 1 needs do_sample: all would be the same".to_owned()),
        Ok(_) if has_seed => invalid("best_of above 1 goes with no seed".to_owned()),
        Ok(number) => Ok(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(parameters: &str) -> Result<Checked, ApiError> {
        let body = format!(r#"{{"inputs": "a", "parameters": {{{parameters}}}}}"#);
        serde_json::from_str::<GenerateRequest>(&body).unwrap().checked(Asked::Whole)
    }

    #[test]
    fn the_most_likely_tokens_are_taken_unless_something_asks_for_a_draw() {
        for (parameters, temperature) in [
            ("", 0.0),
            (r#""do_sample": false"#, 0.0),
            (r#""temperature": 1.0"#, 0.0),
            (r#""top_p": 1.0, "repetition_penalty": 1.2, "seed": 1, "frequency_penalty": 0.5"#, 0.0),
            (r#""do_sample": true"#, 1.0),
            (r#""temperature": 0.5"#, 0.5),
            (r#""temperature": 1.0, "do_sample": true"#, 1.0),
            (r#""top_k": 5"#, 1.0),
            (r#""top_p": 0.5"#, 1.0),
        ] {
            let Checked { input, shape } = checked(parameters).unwrap_or_else(|_| panic!("{parameters}"));
            assert!((input.sampling.temperature - temperature).abs() < 1e-6, "{parameters}");
            assert_eq!(shape.seed.is_some(), temperature > 0.0, "{parameters}");
        }
    }

    #[test]
    fn several_sequences_need_a_draw_and_no_seed() {
        assert_eq!(checked(r#""best_of": 3, "do_sample": true"#).map(|one| one.input.choices).ok(), Some(3));
        assert_eq!(checked(r#""best_of": 1, "seed": 3"#).map(|one| one.input.choices).ok(), Some(1));
        for (parameters, says) in [
            (r#""best_of": 3"#, "needs do_sample"),
            (r#""best_of": 3, "do_sample": true, "seed": 1"#, "no seed"),
            (r#""best_of": 0"#, "from 1 to 64, got 0"),
            (r#""best_of": 65, "do_sample": true"#, "from 1 to 64, got 65"),
        ] {
            let error = checked(parameters).err().unwrap();
            assert!(error.message.contains(says), "{parameters}: {}", error.message);
        }
    }
}
