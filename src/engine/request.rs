//! What the engine is asked and what it answers: token ids in, token ids out.
//!
//! `generate.rs` makes a [`Request`] from text; the worker answers it with a row of [`Event`]s. Nothing here knows
//! text, HTTP or ONNX Runtime.

use std::time::{Duration, Instant};

use super::mask::MaskError;

/// Index into the model's vocabulary.
pub type TokenId = u32;

/// How the next token is picked from the logits. Values are in range: whoever parses outside input checks them.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Divides the logits before the draw; 0 is greedy.
    pub temperature: f32,
    /// Keep the so many most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of tokens with this probability mass, in 0..=1; 0 keeps the top token, 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this likely relative to the most likely one, in 0..=1; 0 keeps all.
    pub min_p: f32,
    /// Divides (or multiplies, when negative) logits of tokens seen in prompt or output, above 0; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted once from logits of tokens seen in the output, in -2..=2; 0 is off.
    pub presence_penalty: f32,
    /// Subtracted from logits per occurrence in the output, in -2..=2; 0 is off.
    pub frequency_penalty: f32,
    /// Added to single logits before anything else.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Seed of this sequence's own random numbers.
    pub seed: u64,
}

impl Sampling {
    /// The most likely token each time.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

/// One generation to run.
#[derive(Debug, Clone)]
pub struct Request {
    /// The prompt, at least one token.
    pub prompt: Vec<TokenId>,
    /// How tokens are picked.
    pub sampling: Sampling,
    /// Tokens to generate at most, at least 1; `prompt.len() + max_tokens` fits the context.
    pub max_tokens: usize,
    /// Tokens that end the generation; they are not part of the output.
    pub stop_tokens: Vec<TokenId>,
    /// Whether tokens come with log-probabilities, and with how many alternatives.
    pub logprobs: Option<usize>,
    /// When the request fails if it has not ended, waiting or running.
    pub deadline: Option<Instant>,
}

impl Request {
    /// Tokens whose cache the request may need.
    pub(super) fn reserved_tokens(&self) -> usize {
        self.prompt.len() + self.max_tokens
    }
}

/// What the worker tells the owner of a request, in order: one `Prefilled`, tokens, one `Finished`.
#[derive(Debug, Clone)]
pub enum Event {
    /// The prompt is in the cache, and the first token is picked.
    Prefilled {
        /// Prompt tokens whose cache was copied, not computed.
        cached_tokens: usize,
        /// Waiting for a row of the batch.
        queued: Duration,
        /// From the row to the first picked token.
        prefill: Duration,
    },
    /// The next token of the output.
    Token {
        /// The token.
        token: TokenId,
        /// How likely it was, if the request asks.
        logprobs: Option<Box<TokenLogprobs>>,
    },
    /// The end, with what it took.
    Finished(Finished),
}

/// How likely the model itself held a token, before bias, penalties and temperature. Natural logarithms, at most 0.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// Of the picked token.
    pub picked: f32,
    /// The most likely tokens, the most likely first, as many as asked for: fewer only where the model rules out the rest.
    pub top: Vec<(TokenId, f32)>,
}

/// The end of a generation.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Why it ended.
    pub reason: Finish,
    /// How likely the stop token was that ended it, if one did and the request asks.
    pub logprobs: Option<Box<TokenLogprobs>>,
    /// Waiting for a row of the batch.
    pub queued: Duration,
    /// From the row to the first picked token.
    pub prefill: Duration,
    /// From the first picked token to the last.
    pub decode: Duration,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model picked this stop token.
    StopToken(TokenId),
    /// `max_tokens` tokens were generated.
    Length,
    /// The mask says that the output is complete.
    Complete,
}

/// Why a request was not run, or not run to its end.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// All rows and all places in the queue are taken.
    #[error("the queue is full: {running} requests are running or waiting")]
    Overloaded {
        /// Requests in the engine.
        running: usize,
    },
    /// The client has as many places as it may have.
    #[error("{running} requests of yours are running or waiting, which leaves the other places to others")]
    LaneFull {
        /// Requests of the client in the engine.
        running: usize,
    },
    /// The prompt and the tokens asked for do not fit.
    #[error(
        "{prompt_tokens} prompt tokens and {max_tokens} tokens to generate exceed the context of {context_tokens} tokens"
    )]
    ContextExceeded {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens asked for.
        max_tokens: usize,
        /// Tokens that a sequence may have.
        context_tokens: usize,
    },
    /// The cache of the request alone is larger than all the memory for caches.
    #[error(
        "{tokens} tokens need more cache memory than there is ({available_tokens} tokens): ask for fewer, or give the \
         gateway more memory"
    )]
    CacheExceeded {
        /// Tokens of prompt and output.
        tokens: usize,
        /// Tokens that fit.
        available_tokens: usize,
    },
    /// The deadline has passed.
    #[error("the request did not end before its deadline")]
    DeadlineExceeded,
    /// A token id is outside the vocabulary.
    #[error("token id {token} is outside the vocabulary of {vocabulary_size} tokens")]
    UnknownToken {
        /// The offending id.
        token: TokenId,
        /// Ids below this one exist.
        vocabulary_size: usize,
    },
    /// The model run failed, or gave numbers that are not a distribution.
    #[error("the model run failed: {0}")]
    Run(String),
    /// The mask of the request cannot say which token may follow.
    #[error("the format cannot be followed any further: {0}")]
    Mask(#[from] MaskError),
    /// A logit is NaN or infinite: the model is broken, or its numbers overflow.
    #[error("the model gave a number that is not finite")]
    NotFinite,
    /// Another revision of the model has taken its place, and the time for requests of this one has passed.
    #[error("the model was replaced while the request ran, and its time to end has passed")]
    Replaced,
    /// The engine is stopping and does not finish what it has.
    #[error("the engine is shutting down")]
    ShuttingDown,
    /// The engine's thread is gone.
    #[error("the engine has stopped")]
    Stopped,
}
