//! The request flow: reserve → encode → compile the format → submit → decode → stop.
//!
//! ```text
//! Input ─▶ reserve a place ─▶ encode, compile (off the async threads) ─▶ submit ─▶ Generation::next ─▶ Delta … Delta::End
//! ```
//!
//! A request may have several inputs, and want several generations of each: [`Generations`] gives the pieces of all. A
//! generation pins its model for its whole life. Dropping it cancels the request in the engine.

mod begin;
mod ending;
mod error;
mod format;
mod preparing;
mod prompt;
mod several;
mod times;

use std::sync::Arc;
use std::time::Duration;

use crate::access::{Caller, TokenKind};
use crate::engine::{
    EngineError, Event, Finish, Mask, Place, Request, Sampling, TokenId, TokenLogprobs, TokenStream,
};
use crate::metrics::{EndedGeneration, GenerationEnd};
use crate::model::{LoadedModel, Pinned};
use crate::text::decoder::Decoder;
use crate::text::stop::{StopEvent, Stops};

pub use begin::{lane_of, start};
pub use error::{GenerateError, Refused};
pub use prompt::{Prompt, tokenize};
pub use several::{Generations, Whole};
use times::Times;

pub use crate::text::chat::{Messages, OWN_VARIABLES};
pub use crate::text::constraint::{Format, FormatError};
pub use crate::text::prompts::{PromptError, PromptTemplate, Prompts, TEXT};
pub use crate::text::tokenizer::TokenSpan;
pub use crate::text::tools::{Abilities, CallFormat, CallReader, CallSyntax, Function, Piece, ReadCall};

/// Generations of one request, prompts times choices: a quarter of the places that there are by default, so that one request
/// does not take them all.
pub const MOST_GENERATIONS: usize = 64;

/// A text to continue, checked by the dialect that parsed it.
#[derive(Debug, Clone)]
pub struct Input {
    /// The prompt, not empty.
    pub prompt: Prompt,
    /// How many different continuations are wanted, at least 1. Each has the next seed.
    pub choices: usize,
    /// How tokens are picked.
    pub sampling: Sampling,
    /// Tokens to generate at most, at least 1.
    pub max_tokens: MaxTokens,
    /// Time after which the generation fails if it has not ended.
    pub timeout: Option<Duration>,
    /// The text ends before the first of these.
    pub stop: Vec<String>,
    /// Whether the stop string that ended the text is a part of it.
    pub include_stop: bool,
    /// The text ends before the first of these tokens; they are in the vocabulary.
    pub stop_tokens: Vec<TokenId>,
    /// Whether tokens come with log-probabilities, and with how many alternatives.
    pub logprobs: Option<usize>,
    /// Whether end-of-text tokens are tokens like any other.
    pub ignore_eos: bool,
    /// Whether special tokens are left out of the text.
    pub skip_special_tokens: bool,
    /// What the output has to look like, if that matters.
    pub format: Option<Format>,
}

/// How many tokens a generation may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxTokens {
    /// So many: a prompt that leaves less room is refused.
    Exactly(usize),
    /// So many, or what is left of the context if that is less.
    UpTo(usize),
}

/// A running generation.
pub struct Generation {
    model: Arc<Pinned>,
    caller: Caller,
    prompt_tokens: Vec<TokenId>,
    /// The prompt, where a template of the settings made it.
    rendered: Option<Arc<str>>,
    cached_tokens: usize,
    token_ids: Vec<TokenId>,
    most_tokens: usize,
    /// Whether the output may be complete before a token says so.
    has_format: bool,
    /// Stop tokens that the request named itself.
    stop_tokens: Vec<TokenId>,
    /// Those that nobody has taken yet.
    logprobs: Vec<PickedToken>,
    /// `None` once the engine has nothing more to say, which also frees the row.
    stream: Option<TokenStream>,
    /// `None` once their end has been taken.
    text: Option<(Decoder, Stops)>,
    include_stop: bool,
    /// The token that ended the text, once one has, with its log-probability if the request asks.
    end_token: Option<(TokenId, Option<PickedToken>)>,
    /// The last event, when its text had to go out before it.
    ended: Option<EndReason>,
    times: Times,
    /// Whether the generation failed through the fault of the model or of its engine.
    faulty: bool,
}

/// A token of the output and how likely the model held it, before bias, penalties and temperature.
#[derive(Debug, Clone, PartialEq)]
pub struct PickedToken {
    /// The token itself.
    pub token: LikelyToken,
    /// The most likely tokens in its place, the most likely first.
    pub top: Vec<LikelyToken>,
}

/// A token with its log-probability.
#[derive(Debug, Clone, PartialEq)]
pub struct LikelyToken {
    /// The token.
    pub id: TokenId,
    /// Its text alone: U+FFFD where it is a part of a character.
    pub text: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// A piece of a generation.
#[derive(Debug, Clone, PartialEq)]
pub enum Delta {
    /// The next text, not empty.
    Text(String),
    /// The end.
    End(EndReason),
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// The model ended it, or it is all that its format takes.
    EndOfText,
    /// A stop string or a stop token of the request came.
    Stop,
    /// The token limit was reached.
    Length,
}

impl EndReason {
    /// The word in the native API.
    pub fn label(self) -> &'static str {
        self.counted_as().label()
    }

    fn counted_as(self) -> GenerationEnd {
        match self {
            Self::EndOfText => GenerationEnd::EndOfText,
            Self::Stop => GenerationEnd::Stop,
            Self::Length => GenerationEnd::Length,
        }
    }
}

impl Generation {
    fn begin(
        (model, caller): (&Arc<Pinned>, &Caller),
        input: &Input,
        (place, request, mask): (Place, Request, Option<Box<dyn Mask>>),
        times: Times,
    ) -> Result<Self, GenerateError> {
        let (prompt_tokens, most_tokens, has_format) =
            (request.prompt.clone(), request.max_tokens, mask.is_some());
        let decoder = Decoder::new(Arc::clone(&model.tokenizer), &prompt_tokens, input.skip_special_tokens)?;
        let stream = model.engine.submit_masked(place, request, mask)?;
        model.metrics.accepted(prompt_tokens.len());
        Ok(Self {
            model: Arc::clone(model),
            caller: caller.clone(),
            prompt_tokens,
            rendered: None,
            cached_tokens: 0,
            token_ids: Vec::new(),
            most_tokens,
            has_format,
            stop_tokens: input.stop_tokens.clone(),
            logprobs: Vec::new(),
            stream: Some(stream),
            text: Some((decoder, Stops::new(input.stop.clone()))),
            include_stop: input.include_stop,
            end_token: None,
            ended: None,
            times,
            faulty: false,
        })
    }

    /// The model that answers.
    pub fn model(&self) -> &LoadedModel {
        &self.model
    }

    /// The prompt as the model sees it.
    pub fn prompt_tokens(&self) -> &[TokenId] {
        &self.prompt_tokens
    }

    /// The prompt as text, where a template of the model's settings made it.
    pub fn rendered(&self) -> Option<&str> {
        self.rendered.as_deref()
    }

    /// Tokens of the prompt whose cache was kept and not computed again, known with the first piece.
    pub fn cached_tokens(&self) -> usize {
        self.cached_tokens
    }

    /// Tokens generated so far, without the end-of-text token.
    pub fn token_ids(&self) -> &[TokenId] {
        &self.token_ids
    }

    /// Time from the request to its first token, once that has come.
    pub fn first_token_after(&self) -> Option<Duration> {
        self.times.first_token_after()
    }

    /// Time from the first token to the last one so far.
    pub fn decode_time(&self) -> Duration {
        self.times.decode()
    }

    /// The log-probabilities of the tokens since they were taken last, if the request asks for them.
    pub fn take_logprobs(&mut self) -> Vec<PickedToken> {
        std::mem::take(&mut self.logprobs)
    }

    /// Frees the row; nothing comes any more.
    fn cancel(&mut self) {
        self.stream = None;
        self.ended = None;
    }

    /// The next piece; `None` after the end. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// The model run failed or the engine is ending; nothing comes after an error.
    pub async fn next(&mut self) -> Option<Result<Delta, GenerateError>> {
        loop {
            if let Some(reason) = self.ended.take() {
                return Some(Ok(Delta::End(reason)));
            }
            let event = self.stream.as_mut()?.next().await;
            match self.take(event) {
                Ok(text) if text.is_empty() => {}
                Ok(text) => return Some(Ok(Delta::Text(text))),
                Err(error) => {
                    self.stream = None;
                    self.faulty = error.is_the_models_fault();
                    self.log(&error);
                    if matches!(error, GenerateError::Engine(EngineError::NotFinite)) {
                        self.model.health.not_finite();
                    }
                    self.count(GenerationEnd::Error);
                    return Some(Err(error));
                }
            }
        }
    }

    /// Takes an event of the engine and returns the text that can go out.
    fn take(&mut self, event: Option<Result<Event, EngineError>>) -> Result<String, GenerateError> {
        match event.ok_or(EngineError::Stopped)?? {
            Event::Prefilled { cached_tokens, queued, prefill } => {
                self.cached_tokens = cached_tokens;
                self.times.prefilled(queued, prefill, &self.model.metrics);
                Ok(String::new())
            }
            Event::Token { token, logprobs } => {
                self.times.token(&self.model.metrics);
                self.caller.charge(TokenKind::Generated, 1);
                self.token_ids.push(token);
                if let Some(logprobs) = logprobs {
                    let picked = self.picked_token(token, *logprobs)?;
                    self.logprobs.push(picked);
                }
                let Some((decoder, stops)) = &mut self.text else {
                    return Ok(String::new());
                };
                let text = decoder.push(token)?;
                let (text, reason) = match stops.push(&text) {
                    StopEvent::Text(text) => (text, None),
                    StopEvent::Stopped { text, stop } => {
                        (stopped_text(text, &stop, self.include_stop), Some(EndReason::Stop))
                    }
                };
                Ok(self.stopped((text, reason)))
            }
            Event::Finished(finished) => {
                self.times.finished(finished.decode);
                let reason = match finished.reason {
                    Finish::StopToken(token) if self.stop_tokens.contains(&token) => EndReason::Stop,
                    Finish::StopToken(_) | Finish::Complete => EndReason::EndOfText,
                    Finish::Length => EndReason::Length,
                };
                if let Finish::StopToken(token) = finished.reason {
                    let picked = finished.logprobs.map(|logprobs| self.picked_token(token, *logprobs));
                    self.end_token = Some((token, picked.transpose()?));
                }
                let Some((decoder, mut stops)) = self.text.take() else {
                    return Ok(String::new());
                };
                let held = decoder.finish()?;
                let (mut text, reason) = match stops.push(&held) {
                    StopEvent::Stopped { text, stop } => {
                        let text = stopped_text(text, &stop, self.include_stop);
                        return Ok(self.stopped((text, Some(EndReason::Stop))));
                    }
                    StopEvent::Text(text) => (text, reason),
                };
                let reason = match stops.finish() {
                    StopEvent::Stopped { text: last, stop } => {
                        text.push_str(&stopped_text(last, &stop, self.include_stop));
                        EndReason::Stop
                    }
                    StopEvent::Text(last) => {
                        text.push_str(&last);
                        reason
                    }
                };
                Ok(self.stopped((text, Some(reason))))
            }
        }
    }

    /// A failure of the engine is told here, where it is known of which request it is.
    fn log(&self, error: &GenerateError) {
        let model = self.model.name.as_str();
        match error {
            GenerateError::Engine(EngineError::Mask(_)) => {
                tracing::debug!(model, %error, "a format was given up");
            }
            GenerateError::Engine(_) if self.faulty => tracing::error!(model, %error, "generation failed"),
            _ => {}
        }
    }

    fn picked_token(&self, token: TokenId, logprobs: TokenLogprobs) -> Result<PickedToken, GenerateError> {
        let likely =
            |(id, logprob)| Ok(LikelyToken { id, text: self.model.tokenizer.decode(&[id], false)?, logprob });
        Ok(PickedToken {
            token: likely((token, logprobs.picked))?,
            top: logprobs.top.into_iter().map(likely).collect::<Result<_, GenerateError>>()?,
        })
    }

    /// Ends the generation if there is a reason; dropping the stream frees the row.
    fn stopped(&mut self, (text, reason): (String, Option<EndReason>)) -> String {
        if let Some(reason) = reason {
            self.stream = None;
            self.ended = Some(reason);
            self.count(reason.counted_as());
        }
        text
    }

    fn count(&mut self, end: GenerationEnd) {
        let prompt = (self.prompt_tokens.len(), self.cached_tokens);
        let Some(decode) = self.times.end(end, prompt, self.token_ids.len()) else { return };
        let health = &self.model.health;
        if let Some(waited) = self.times.first_token_after() {
            health.first_token(waited);
            health.tokens(self.token_ids.len().saturating_sub(1) as u64, decode);
        }
        if end != GenerationEnd::Cancelled {
            health.generation_ended(self.faulty);
        }
        self.model.metrics.generation(EndedGeneration {
            end,
            tokens: self.token_ids.len(),
            total: self.times.since_accepted(),
            decode,
            trace_id: self.times.sampled_trace(),
        });
    }
}

/// The last text, with the stop string that ended it if it is a part of it.
fn stopped_text(text: String, stop: &str, include_stop: bool) -> String {
    if include_stop { text + stop } else { text }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.count(GenerationEnd::Cancelled);
    }
}
