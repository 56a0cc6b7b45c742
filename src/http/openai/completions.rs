//! `POST /v1/completions`: texts that are continued.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::answer::{Choice, Shape};
use super::format::{ResponseFormat, StructuredOutputs};
use super::logprobs::CompletionLogprobs;
use super::options::{CommonFields, Seed, StreamOptions, checked_limit, token_ids};
use super::refusals::{Accepted, Unsupported, accept, only, refuse, unsupported};
use super::{Body, Checked, Names, described};
use crate::generate::{Generations, MOST_GENERATIONS, MaxTokens, PickedToken, Prompt};
use crate::http::error::ApiError;
use crate::http::parameters::{LogitBias, SamplingFields, Texts, checked_alternatives, schemas};
use crate::model::LoadedModel;

/// Tokens that are generated when the request does not say, as the dialect has it.
pub(super) const DEFAULT_MAX_TOKENS: usize = 16;

/// What to continue, and how. Only `prompt` is required; a field that is `null` counts as not given.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CompletionRequest {
    #[schema(schema_with = described::prompt)]
    prompt: Prompts,
    #[schema(schema_with = schemas::model)]
    model: Option<String>,
    #[schema(schema_with = described::completion_max_tokens)]
    max_tokens: Option<u64>,
    #[schema(schema_with = described::n)]
    n: Option<u64>,
    #[schema(schema_with = described::best_of)]
    best_of: Option<u64>,
    /// Begin the text with the prompt; not with `logprobs`
    #[schema(default = false)]
    echo: Option<bool>,
    #[schema(schema_with = described::completion_logprobs)]
    logprobs: Option<u32>,
    #[schema(ignore)]
    suffix: Option<Unsupported>,
    #[schema(schema_with = schemas::temperature)]
    temperature: Option<f64>,
    #[schema(schema_with = schemas::top_p)]
    top_p: Option<f64>,
    #[schema(schema_with = described::top_k)]
    top_k: Option<i64>,
    #[schema(schema_with = schemas::min_p)]
    min_p: Option<f64>,
    #[schema(schema_with = schemas::repetition_penalty)]
    repetition_penalty: Option<f64>,
    #[schema(schema_with = schemas::presence_penalty)]
    presence_penalty: Option<f64>,
    #[schema(schema_with = schemas::frequency_penalty)]
    frequency_penalty: Option<f64>,
    #[schema(schema_with = schemas::logit_bias)]
    logit_bias: Option<LogitBias>,
    #[schema(schema_with = described::seed)]
    seed: Option<Seed>,
    #[schema(schema_with = schemas::stop)]
    stop: Option<Texts>,
    #[schema(schema_with = schemas::stop_token_ids)]
    stop_token_ids: Option<Vec<u64>>,
    #[schema(schema_with = schemas::only_false)]
    include_stop_str_in_output: Option<bool>,
    #[schema(schema_with = schemas::ignore_eos)]
    ignore_eos: Option<bool>,
    #[schema(schema_with = schemas::skip_special_tokens)]
    skip_special_tokens: Option<bool>,
    #[schema(schema_with = schemas::stream)]
    stream: Option<bool>,
    /// Only with `stream`
    stream_options: Option<StreamOptions>,
    /// What the text has to look like
    response_format: Option<ResponseFormat>,
    /// What the text has to look like, as vLLM has it; beside no `response_format`
    structured_outputs: Option<StructuredOutputs>,
    #[schema(schema_with = schemas::only_false)]
    store: Option<bool>,
    #[schema(schema_with = described::service_tier)]
    service_tier: Option<String>,
    #[schema(schema_with = described::accepted)]
    user: Option<Accepted>,
    #[schema(schema_with = described::accepted)]
    metadata: Option<Accepted>,
}

/// What is to be continued.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a text, a list of texts, a list of token ids, or a list of such lists")]
enum Prompts {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u64>),
    TokenLists(Vec<Vec<u64>>),
}

/// A choice of an answer, or what comes to it in a chunk.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CompletionChoice {
    text: String,
    index: usize,
    /// With `logprobs`
    #[schema(required)]
    logprobs: Option<CompletionLogprobs>,
    #[schema(schema_with = described::finish_reason, required)]
    finish_reason: Option<&'static str>,
}

/// What the answer needs to know of the request.
pub(super) struct CompletionShape {
    /// The texts of the prompts, where they begin the answers; empty where they are token ids.
    echo: Option<Vec<Option<String>>>,
    logprobs: bool,
    skip_special_tokens: bool,
    choices: usize,
    /// Where the next token of each choice begins, in characters; as many as were needed so far.
    offsets: Vec<usize>,
}

impl Body for CompletionRequest {
    type Shape = CompletionShape;

    fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    fn checked(self, model: &LoadedModel) -> Result<Checked<CompletionShape>, ApiError> {
        let vocabulary_size = model.engine.geometry().vocabulary_size;
        let Self {
            prompt,
            model: _,
            max_tokens,
            n,
            best_of,
            echo,
            logprobs,
            suffix,
            temperature,
            top_p,
            top_k,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            logit_bias,
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
            user,
            metadata,
        } = self;
        accept([user, metadata]);
        refuse([("suffix", suffix)])?;
        only("best_of", best_of.is_none_or(|best_of| best_of == n.unwrap_or(1)), "the same number as n")?;
        let common = CommonFields {
            n,
            top_k,
            sampling: SamplingFields {
                temperature,
                top_p,
                top_k: None,
                min_p,
                repetition_penalty,
                presence_penalty,
                frequency_penalty,
                logit_bias,
            },
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
        }
        .checked(vocabulary_size)?;
        let limit = ("max_tokens", max_tokens);
        let (max_tokens_name, max_tokens) =
            checked_limit([limit, ("max_tokens", None)], MaxTokens::UpTo(DEFAULT_MAX_TOKENS))?;
        let logprobs = checked_alternatives("logprobs", logprobs)?;
        let echo = echo.unwrap_or(false);
        if echo && logprobs.is_some() {
            return Err(unsupported(
                "echo",
                "echo is not supported with logprobs: those of prompts are not told",
            ));
        }
        let is_list = matches!(prompt, Prompts::Texts(_) | Prompts::TokenLists(_));
        let prompts = checked_prompts(prompt, vocabulary_size)?;
        let shape = CompletionShape {
            echo: echo.then(|| prompts.iter().map(text_of).collect()),
            logprobs: logprobs.is_some(),
            skip_special_tokens: skip_special_tokens.unwrap_or(true),
            choices: common.choices,
            offsets: Vec::new(),
        };
        Ok(Checked {
            inputs: common.inputs(prompts, max_tokens, logprobs),
            shape,
            stream: common.stream,
            names: Names { is_list, ..Names::new("prompt", max_tokens_name, &common) },
        })
    }
}

fn text_of(prompt: &Prompt) -> Option<String> {
    match prompt {
        Prompt::Text(text) | Prompt::TextEnd(text, _) => Some(text.clone()),
        Prompt::Tokens(_) | Prompt::Chat(_) | Prompt::Template(..) => None,
    }
}

fn checked_prompts(prompts: Prompts, vocabulary_size: usize) -> Result<Vec<Prompt>, ApiError> {
    let prompts: Vec<Prompt> = match prompts {
        Prompts::Text(text) => vec![Prompt::Text(text)],
        Prompts::Texts(texts) => texts.into_iter().map(Prompt::Text).collect(),
        Prompts::Tokens(ids) => vec![Prompt::Tokens(token_ids("prompt", ids, vocabulary_size)?)],
        Prompts::TokenLists(lists) => {
            let lists = lists.into_iter().enumerate();
            let tokens =
                lists.map(|(index, ids)| token_ids(&format!("prompt[{index}]"), ids, vocabulary_size));
            tokens.map(|tokens| Ok(Prompt::Tokens(tokens?))).collect::<Result<_, ApiError>>()?
        }
    };
    if prompts.len() > MOST_GENERATIONS {
        let message = format!("prompt takes at most {MOST_GENERATIONS} prompts, got {}", prompts.len());
        return Err(ApiError::invalid_value("prompt", message));
    }
    let is_empty = |prompt: &Prompt| match prompt {
        Prompt::Text(text) | Prompt::TextEnd(text, _) => text.is_empty(),
        Prompt::Tokens(tokens) => tokens.is_empty(),
        Prompt::Chat(_) | Prompt::Template(..) => false,
    };
    match prompts.iter().position(is_empty) {
        Some(index) if prompts.len() > 1 => {
            let field = format!("prompt[{index}]");
            Err(ApiError::invalid_value(&field, format!("{field} must not be empty")))
        }
        None if !prompts.is_empty() => Ok(prompts),
        _one_or_none => Err(ApiError::invalid_value("prompt", "prompt must not be empty")),
    }
}

impl CompletionShape {
    /// The prompt of a choice, when it begins the text.
    fn echoed(&self, generations: &Generations, index: usize) -> String {
        let Some(texts) = &self.echo else { return String::new() };
        if let Some(text) = &texts[index / self.choices] {
            return text.clone();
        }
        let tokens = generations.all()[index].prompt_tokens();
        // Tokens of the vocabulary; what a broken decoder refuses is not worth an answer.
        generations.model().tokenizer.decode(tokens, self.skip_special_tokens).unwrap_or_default()
    }

    fn logprobs(&mut self, index: usize, picked: Vec<PickedToken>) -> Option<CompletionLogprobs> {
        if self.offsets.len() <= index {
            self.offsets.resize(index + 1, 0);
        }
        self.logprobs.then(|| CompletionLogprobs::new(picked, &mut self.offsets[index]))
    }
}

impl Shape for CompletionShape {
    const ID: &'static str = "cmpl";
    const WHOLE: &'static str = "text_completion";
    const CHUNK: &'static str = "text_completion";
    const NAMES: [&'static str; 2] = ["Completion", "CompletionChunk"];
    type Whole = CompletionChoice;
    type Chunk = CompletionChoice;

    fn whole(&mut self, generations: &mut Generations, choice: Choice, text: String) -> CompletionChoice {
        let Choice { index, picked, finish_reason } = choice;
        let text = self.echoed(generations, index) + &text;
        CompletionChoice { text, index, logprobs: self.logprobs(index, picked), finish_reason }
    }

    fn begin(&mut self, generations: &mut Generations) -> Vec<CompletionChoice> {
        let choices = (0..generations.all().len()).map(|index| {
            let text = self.echoed(generations, index);
            CompletionChoice { text, index, logprobs: None, finish_reason: None }
        });
        choices.filter(|choice| !choice.text.is_empty()).collect()
    }

    fn piece(&mut self, choice: Choice, text: Option<String>) -> Vec<CompletionChoice> {
        let Choice { index, picked, finish_reason } = choice;
        let logprobs = if picked.is_empty() { None } else { self.logprobs(index, picked) };
        vec![CompletionChoice { text: text.unwrap_or_default(), index, logprobs, finish_reason }]
    }
}
