//! Logits → token: the last step of the engine's loop, once per sequence and step.
//!
//! Pure: the same request, tokens so far and logits give the same token, alone or in company. The order, of which each
//! part is skipped when it is off:
//!
//! ```text
//! logits ─▶ mask ─▶ logit bias ─▶ repetition penalty ─▶ presence, frequency penalty ─▶ temperature ─▶ top_k ─▶ top_p ─▶ min_p ─▶ draw
//!                   added once    prompt and output     output only                    0: highest     each keeps a head of the
//!                                 x > 0 ? x/r : x·r     x − presence − count·frequency    logit       tokens, most likely first
//! ```
//!
//! Among equal logits the lower token id counts as the more likely one. `top_p` measures the mass of what `top_k` kept
//! and includes the token that crosses it; `min_p` is relative to the most likely token. The draw walks the kept tokens
//! by id until their mass passes one uniform number.
//!
//! It must never change the logits it is given (log-probabilities are the model's own, see [`Logprobs`]), never sort the
//! vocabulary, and never allocate per token: the passes over the vocabulary are in [`row`], which owns the buffers.

mod block;
mod logprobs;
mod passes;
mod row;

use std::collections::HashMap;

use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::Rng;
use thiserror::Error;

use super::request::{Sampling, TokenId};
pub(crate) use logprobs::Logprobs;
pub use row::Scratch;

/// Logits from which no token can be picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SampleError {
    /// A logit is NaN or +∞: the model run went wrong.
    #[error("the logits hold a number that is not finite")]
    NotFinite,
    /// Every logit is −∞, or there is none: a mask forbids every token.
    #[error("no token is allowed")]
    NothingAllowed,
}

/// What was picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pick {
    /// The token. Its log-probability, if somebody asks: `Logprobs::new(logits).of(pick.token)`.
    pub token: TokenId,
}

/// Picks the tokens of one sequence.
#[derive(Debug, Clone)]
pub struct Sampler {
    temperature: f32,
    limits: Limits,
    bias: Vec<(TokenId, f32)>,
    penalties: Option<Penalties>,
    random: Uniform,
}

/// Which head of the tokens, most likely first, may be drawn from.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Limits {
    top_k: u32,
    top_p: f32,
    min_p: f32,
}

/// The penalties, and the tokens they are for.
#[derive(Debug, Clone)]
struct Penalties {
    repetition: f32,
    presence: f32,
    frequency: f32,
    seen: Vec<Seen>,
    index: HashMap<TokenId, usize>,
}

/// A token of prompt or output.
#[derive(Debug, Clone, Copy)]
struct Seen {
    token: TokenId,
    /// Occurrences in the output.
    count: u32,
}

impl Sampler {
    /// The sampler of a sequence that continues `prompt`.
    pub fn new(sampling: &Sampling, prompt: &[TokenId]) -> Self {
        let Sampling {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            logit_bias,
            seed,
        } = sampling;
        Self {
            temperature: *temperature,
            limits: Limits { top_k: *top_k, top_p: *top_p, min_p: *min_p },
            bias: logit_bias.clone(),
            penalties: Penalties::new([*repetition_penalty, *presence_penalty, *frequency_penalty], prompt),
            random: Uniform::new(*seed),
        }
    }

    /// Picks a token from one row of logits, unnormalised, −∞ for a forbidden token. Picking again before
    /// [`Sampler::accept`] gives the same token.
    ///
    /// # Errors
    /// [`SampleError::NotFinite`] and [`SampleError::NothingAllowed`].
    pub fn sample(&self, logits: &[f32], scratch: &mut Scratch) -> Result<Pick, SampleError> {
        if self.is_greedy() && self.bias.is_empty() && self.penalties.is_none() {
            return Ok(Pick { token: scratch.most_likely(logits)? });
        }
        scratch.load(logits);
        self.pick(scratch)
    }

    /// As [`Sampler::sample`], of the tokens whose bit is set in `allowed`: bit `token % 32` of word `token / 32`. The others
    /// count as if the model had ruled them out, before bias and penalties.
    ///
    /// # Errors
    /// See [`Sampler::sample`].
    pub fn sample_allowed(
        &self,
        logits: &[f32],
        allowed: &[u32],
        scratch: &mut Scratch,
    ) -> Result<Pick, SampleError> {
        scratch.load(logits);
        scratch.allow(allowed);
        self.pick(scratch)
    }

    /// Picks a token from the row in `scratch`.
    fn pick(&self, scratch: &mut Scratch) -> Result<Pick, SampleError> {
        for (token, bias) in &self.bias {
            scratch.edit(*token, |logit| logit + bias);
        }
        if let Some(penalties) = &self.penalties {
            penalties.apply(scratch);
        }
        scratch.inspect()?;
        if self.is_greedy() {
            return Ok(Pick { token: scratch.highest_token() });
        }
        scratch.weigh(self.temperature);
        if self.limits != Limits::OFF {
            let Limits { top_k, top_p, min_p } = self.limits;
            scratch.keep_top_k(top_k);
            scratch.keep_top_p(top_p);
            scratch.keep_min_p(min_p);
        }
        Ok(Pick { token: scratch.draw(self.random.current) })
    }

    /// Takes a token into the output: it counts for the penalties, and the next random number is due. The token need not
    /// be the one that was picked.
    pub fn accept(&mut self, token: TokenId) {
        if let Some(penalties) = &mut self.penalties {
            penalties.see(token).count += 1;
        }
        self.random.advance();
    }

    /// Nothing to draw: a temperature this low divides every difference of logits into certainty.
    fn is_greedy(&self) -> bool {
        !self.temperature.recip().is_finite() || self.limits.top_k == 1 || self.limits.top_p <= 0.0
    }
}

impl Limits {
    const OFF: Self = Self { top_k: 0, top_p: 1.0, min_p: 0.0 };
}

impl Penalties {
    #[expect(clippy::float_cmp, reason = "exactly these values mean off")]
    /// `None` when all are off. The prompt counts for the repetition penalty only.
    fn new([repetition, presence, frequency]: [f32; 3], prompt: &[TokenId]) -> Option<Self> {
        if [repetition, presence, frequency] == [1.0, 0.0, 0.0] {
            return None;
        }
        let mut penalties = Self { repetition, presence, frequency, seen: Vec::new(), index: HashMap::new() };
        for token in prompt {
            penalties.see(*token);
        }
        Some(penalties)
    }

    fn see(&mut self, token: TokenId) -> &mut Seen {
        let index = *self.index.entry(token).or_insert_with(|| {
            self.seen.push(Seen { token, count: 0 });
            self.seen.len() - 1
        });
        &mut self.seen[index]
    }

    /// Repetition by the rule of Hugging Face's `RepetitionPenaltyLogitsProcessor`, the others by the formula of the
    /// OpenAI reference.
    fn apply(&self, scratch: &mut Scratch) {
        for Seen { token, count } in &self.seen {
            scratch.edit(*token, |logit| {
                let repeated = if logit > 0.0 { logit / self.repetition } else { logit * self.repetition };
                let present = if *count > 0 { self.presence } else { 0.0 };
                repeated - present - *count as f32 * self.frequency
            });
        }
    }
}

/// The uniform numbers of one sequence: the n-th depends on the seed and n alone.
///
/// The generator is PCG XSL 128/64 (MCG); its 128-bit state is two outputs of `SplitMix64` started at the seed, the first
/// being the lower half, with the lowest bit set. A number is the upper 53 bits of an output, over 2^53. None of it may
/// change: seeds in requests are a promise.
#[derive(Debug, Clone)]
struct Uniform {
    generator: Pcg64Mcg,
    /// In 0..1.
    current: f64,
}

impl Uniform {
    fn new(seed: u64) -> Self {
        let [low, high] = [1, 2].map(|step| split_mix(seed, step));
        let generator = Pcg64Mcg::new(u128::from(high) << 64 | u128::from(low));
        let mut uniform = Self { generator, current: 0.0 };
        uniform.advance();
        uniform
    }

    fn advance(&mut self) {
        self.current = (self.generator.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    }
}

/// Output number `step`, counted from 1, of `SplitMix64` (Steele, Lea, Flood 2014) started at `seed`.
fn split_mix(seed: u64, step: u64) -> u64 {
    let mut mixed = seed.wrapping_add(step.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

#[cfg(test)]
mod tests;
