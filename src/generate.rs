//! The request flow: reserve → encode → submit → decode → stop.
//!
//! ```text
//! Input ─▶ reserve a place ─▶ encode (off the async threads) ─▶ submit ─▶ Generation::next ─▶ Delta … Summary
//! ```
//!
//! A generation pins its model for its whole life. Dropping it cancels the request in the engine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::{EngineError, Event, Finish, Request, Sampling, TokenId, TokenLogprobs, TokenStream};
use crate::metrics::GenerationEnd;
use crate::model::{LoadedModel, Pinned};
use crate::text::decoder::Decoder;
use crate::text::stop::{StopEvent, Stops};
use crate::text::tokenizer::TextError;

/// Tokens that are generated when the request does not say, if the context has room for them.
pub const DEFAULT_MAX_TOKENS: usize = 50;

/// A text to continue, checked by the dialect that parsed it.
#[derive(Debug, Clone)]
pub struct Input {
    /// The prompt, not empty.
    pub prompt: String,
    /// How tokens are picked.
    pub sampling: Sampling,
    /// Tokens to generate at most, at least 1; `None`: [`DEFAULT_MAX_TOKENS`], or what is left of the context.
    pub max_tokens: Option<usize>,
    /// Time after which the generation fails if it has not ended.
    pub timeout: Option<Duration>,
    /// The text ends before the first of these.
    pub stop: Vec<String>,
    /// The text ends before the first of these tokens; they are in the vocabulary.
    pub stop_tokens: Vec<TokenId>,
    /// Whether tokens come with log-probabilities, and with how many alternatives.
    pub logprobs: Option<usize>,
    /// Whether end-of-text tokens are tokens like any other.
    pub ignore_eos: bool,
    /// Whether special tokens are left out of the text.
    pub skip_special_tokens: bool,
}

/// A running generation.
pub struct Generation {
    model: Pinned,
    prompt_tokens: Vec<TokenId>,
    token_ids: Vec<TokenId>,
    /// Stop tokens that the request named itself.
    stop_tokens: Vec<TokenId>,
    /// Those that nobody has taken yet.
    logprobs: Vec<PickedToken>,
    /// `None` once the engine has nothing more to say, which also frees the row.
    stream: Option<TokenStream>,
    /// `None` once their end has been taken.
    text: Option<(Decoder, Stops)>,
    /// The last event, when its text had to go out before it.
    ended: Option<EndReason>,
    clock: Clock,
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

/// When things happened, for the metrics.
struct Clock {
    accepted: Instant,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    counted: bool,
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
    /// The model ended it.
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

/// Why a generation did not begin or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The tokenizer refused the text.
    #[error("failed to tokenise or to decode")]
    Text(#[from] TextError),
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The prompt has no token.
    #[error("the prompt has no tokens")]
    NoTokens,
    /// More tokens than the model's limits allow.
    #[error("{asked} tokens are more than the {allowed} that this model generates for a request")]
    TooManyTokens {
        /// As the request says.
        asked: usize,
        /// As the model's limits say.
        allowed: usize,
    },
    /// The tokeniser thread was lost.
    #[error("the tokeniser was interrupted")]
    Interrupted,
}

impl GenerateError {
    /// Whether the model or its engine is to blame, rather than the request, the load or the end of the process.
    fn is_the_models_fault(&self) -> bool {
        match self {
            Self::Text(_) | Self::Interrupted => true,
            Self::NoTokens | Self::TooManyTokens { .. } => false,
            Self::Engine(error) => match error {
                EngineError::Run(_) | EngineError::NotFinite | EngineError::Stopped => true,
                EngineError::Overloaded { .. }
                | EngineError::ContextExceeded { .. }
                | EngineError::CacheExceeded { .. }
                | EngineError::DeadlineExceeded
                | EngineError::UnknownToken { .. }
                | EngineError::Replaced
                | EngineError::ShuttingDown => false,
            },
        }
    }
}

/// Begins a generation.
///
/// # Errors
/// The queue is full, the prompt does not fit or cannot be tokenised, the engine is gone.
pub async fn start(model: Pinned, input: Input) -> Result<Generation, GenerateError> {
    let accepted = Instant::now();
    let Input {
        prompt,
        sampling,
        max_tokens,
        timeout,
        stop,
        stop_tokens,
        logprobs,
        ignore_eos,
        skip_special_tokens,
    } = input;
    let most_tokens = model.live().output_tokens.unwrap_or(usize::MAX);
    if let Some(asked) = max_tokens.filter(|asked| *asked > most_tokens) {
        return Err(GenerateError::TooManyTokens { asked, allowed: most_tokens });
    }
    let place = model.engine.reserve()?;
    let prompt_tokens = encode(&model, prompt).await?;
    let context_tokens = model.engine.geometry().context_tokens;
    let left = context_tokens.saturating_sub(prompt_tokens.len()).max(1);
    let end_tokens = if ignore_eos { &[][..] } else { &model.end_tokens };
    let request = Request {
        prompt: prompt_tokens.clone(),
        sampling,
        max_tokens: max_tokens.unwrap_or(DEFAULT_MAX_TOKENS.min(left).min(most_tokens)),
        deadline: timeout.map(|timeout| accepted + timeout),
        stop_tokens: [end_tokens, &stop_tokens].concat(),
        logprobs,
    };
    let decoder = Decoder::new(Arc::clone(&model.tokenizer), &prompt_tokens, skip_special_tokens)?;
    let stream = model.engine.submit(place, request)?;
    model.metrics.accepted(prompt_tokens.len());
    Ok(Generation {
        model,
        prompt_tokens,
        token_ids: Vec::new(),
        stop_tokens,
        logprobs: Vec::new(),
        stream: Some(stream),
        text: Some((decoder, Stops::new(stop))),
        ended: None,
        clock: Clock { accepted, first_token: None, last_token: None, counted: false },
        faulty: false,
    })
}

/// Tokenises off the async threads: a long prompt takes milliseconds to seconds.
async fn encode(model: &LoadedModel, prompt: String) -> Result<Vec<TokenId>, GenerateError> {
    let tokenizer = Arc::clone(&model.tokenizer);
    let tokens = tokio::task::spawn_blocking(move || tokenizer.encode(&prompt, true))
        .await
        .map_err(|_panicked| GenerateError::Interrupted)??;
    if tokens.is_empty() { Err(GenerateError::NoTokens) } else { Ok(tokens) }
}

impl Generation {
    /// The model that answers.
    pub fn model(&self) -> &LoadedModel {
        &self.model
    }

    /// The prompt as the model sees it.
    pub fn prompt_tokens(&self) -> &[TokenId] {
        &self.prompt_tokens
    }

    /// Tokens generated so far, without the end-of-text token.
    pub fn token_ids(&self) -> &[TokenId] {
        &self.token_ids
    }

    /// The log-probabilities of the tokens since they were taken last, if the request asks for them.
    pub fn take_logprobs(&mut self) -> Vec<PickedToken> {
        std::mem::take(&mut self.logprobs)
    }

    /// The next piece; `None` after the end.
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
            Event::Prefilled { cached_tokens: _ } => Ok(String::new()),
            Event::Token { token, logprobs } => {
                self.clock.token(&self.model.metrics);
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
                    StopEvent::Stopped { text, stop: _ } => (text, Some(EndReason::Stop)),
                };
                Ok(self.stopped((text, reason)))
            }
            Event::Finished(finished) => {
                let reason = match finished.reason {
                    Finish::StopToken(token) if self.stop_tokens.contains(&token) => EndReason::Stop,
                    Finish::StopToken(_end_of_text) => EndReason::EndOfText,
                    Finish::Length => EndReason::Length,
                };
                let Some((decoder, mut stops)) = self.text.take() else {
                    return Ok(String::new());
                };
                let held = decoder.finish()?;
                let (mut text, reason) = match stops.push(&held) {
                    StopEvent::Stopped { text, stop: _ } => {
                        return Ok(self.stopped((text, Some(EndReason::Stop))));
                    }
                    StopEvent::Text(text) => (text, reason),
                };
                let reason = match stops.finish() {
                    StopEvent::Stopped { text: last, stop: _ } => {
                        text.push_str(&last);
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
        if !std::mem::replace(&mut self.clock.counted, true) {
            let decode = self.clock.decode();
            let health = &self.model.health;
            if let Some(first) = self.clock.first_token {
                health.first_token(first - self.clock.accepted);
                health.tokens(self.token_ids.len().saturating_sub(1) as u64, decode);
            }
            if end != GenerationEnd::Cancelled {
                health.generation_ended(self.faulty);
            }
            self.model.metrics.generation(end, self.token_ids.len(), self.clock.accepted.elapsed(), decode);
        }
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.count(GenerationEnd::Cancelled);
    }
}

impl Clock {
    fn token(&mut self, metrics: &crate::metrics::ModelMetrics) {
        let now = Instant::now();
        if self.first_token.is_none() {
            self.first_token = Some(now);
            metrics.first_token(now - self.accepted);
        }
        self.last_token = Some(now);
    }

    fn decode(&self) -> Duration {
        match (self.first_token, self.last_token) {
            (Some(first), Some(last)) => last - first,
            _ => Duration::ZERO,
        }
    }
}
