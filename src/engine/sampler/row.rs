//! The passes over one row of logits. [`super::Sampler`] decides which; this file does them at the speed of memory.
//!
//! The row is copied into blocks (see [`super::block`]). Each block knows its highest logit, so that a pass that looks for
//! logits above a threshold skips nearly all blocks.
//!
//! `top_k` and `top_p` need no sort of the row: [`head`] finds where they end.
//!
//! ```text
//! most_likely
//! load ─▶ edit… ─▶ inspect ─▶ highest_token
//!                         └─▶ weigh ─▶ keep_top_k ─▶ keep_top_p ─▶ keep_min_p ─▶ draw
//! ```

mod head;

use head::Measure;

use super::block::{self, BLOCK, Block};
use super::{SampleError, passes};
use crate::engine::request::TokenId;

/// Buffers for one row; used for one row after the other.
#[derive(Debug, Default)]
pub struct Scratch {
    logits: Vec<Block>,
    vocabulary_size: usize,
    block_highest: Vec<f32>,
    highest: f32,
    temperature: f32,
    /// exp((logit − highest) / temperature); 0 for tokens that are out.
    weights: Vec<Block>,
    /// Tokens below are out, whatever their weight.
    lowest_logit: f32,
    /// Tokens of a smaller weight are out.
    lowest_weight: f32,
    /// Sum of the weights of each block that are in.
    block_mass: Vec<f64>,
    candidates: Vec<(f32, TokenId)>,
}

impl Scratch {
    /// Copies a row in.
    pub(super) fn load(&mut self, logits: &[f32]) {
        let (blocks, rest) = logits.as_chunks::<BLOCK>();
        self.logits.clear();
        self.logits.extend_from_slice(blocks);
        if !rest.is_empty() {
            self.logits.push(block::padded(rest));
        }
        self.vocabulary_size = logits.len();
    }

    /// Rules out the tokens of the copy whose bit is not set; see [`super::Sampler::sample_allowed`]. Logits that are no
    /// numbers stay, so that they are found.
    pub(super) fn allow(&mut self, allowed: &[u32]) {
        let ruled_out = |logit: f32| if logit < f32::INFINITY { f32::NEG_INFINITY } else { logit };
        let mut words = allowed.iter().copied();
        for block in &mut self.logits {
            for logits in block.as_chunks_mut::<32>().0 {
                match words.next().unwrap_or(0) {
                    0 => logits.iter_mut().for_each(|logit| *logit = ruled_out(*logit)),
                    u32::MAX => {}
                    bits => {
                        for (place, logit) in logits.iter_mut().enumerate() {
                            *logit = if bits >> place & 1 == 1 { *logit } else { ruled_out(*logit) };
                        }
                    }
                }
            }
        }
    }

    /// The token with the highest logit of a row, the lowest of equals, in one pass and without a copy.
    pub(super) fn most_likely(&mut self, logits: &[f32]) -> Result<TokenId, SampleError> {
        let (blocks, rest) = logits.as_chunks::<BLOCK>();
        let rest = block::padded(rest);
        self.block_highest.resize(blocks.len() + 1, f32::NEG_INFINITY);
        let (highest, highest_of_rest) = self.block_highest.split_at_mut(blocks.len());
        let unsound = passes::inspect(blocks, highest) | passes::inspect(&[rest], highest_of_rest);
        self.find_highest(unsound)?;
        let is_highest = |logit: &f32| *logit >= self.highest;
        let block = self.block_highest.iter().position(is_highest).unwrap_or(0);
        let within = blocks.get(block).unwrap_or(&rest).iter().position(is_highest).unwrap_or(0);
        Ok((block * BLOCK + within) as TokenId)
    }

    /// Changes one logit of the copy. Tokens outside the vocabulary have none.
    pub(super) fn edit(&mut self, token: TokenId, change: impl FnOnce(f32) -> f32) {
        let index = token as usize;
        if index < self.vocabulary_size {
            let logit = &mut self.logits[index / BLOCK][index % BLOCK];
            *logit = change(*logit);
        }
    }

    /// Finds the highest logit of each block and of all, and whether all are sound.
    pub(super) fn inspect(&mut self) -> Result<(), SampleError> {
        self.block_highest.resize(self.logits.len(), f32::NEG_INFINITY);
        let unsound = passes::inspect(&self.logits, &mut self.block_highest);
        self.find_highest(unsound)
    }

    fn find_highest(&mut self, unsound: bool) -> Result<(), SampleError> {
        self.highest = self.block_highest.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if unsound {
            return Err(SampleError::NotFinite);
        }
        if self.highest == f32::NEG_INFINITY {
            return Err(SampleError::NothingAllowed);
        }
        Ok(())
    }

    /// The token with the highest logit, the lowest of equals.
    pub(super) fn highest_token(&self) -> TokenId {
        let is_highest = |logit: &f32| *logit >= self.highest;
        let block = self.block_highest.iter().position(is_highest).unwrap_or(0);
        let within = self.logits[block].iter().position(is_highest).unwrap_or(0);
        (block * BLOCK + within) as TokenId
    }

    /// Gives every token its weight.
    pub(super) fn weigh(&mut self, temperature: f32) {
        self.temperature = temperature;
        self.lowest_logit = f32::NEG_INFINITY;
        self.lowest_weight = 0.0;
        self.weights.resize(self.logits.len(), [0.0; BLOCK]);
        self.block_mass.resize(self.logits.len(), 0.0);
        let scale = temperature.recip() * std::f32::consts::LOG2_E;
        passes::weigh(&self.logits, self.highest, scale, &mut self.weights, &mut self.block_mass);
    }

    /// Keeps the `top_k` most likely tokens; 0 keeps all.
    pub(super) fn keep_top_k(&mut self, top_k: u32) {
        if top_k > 0 && (top_k as usize) < self.vocabulary_size {
            self.keep_until(Measure::Count, f64::from(top_k));
        }
    }

    /// Keeps the fewest most likely tokens that have this share of the mass; 1 keeps all.
    pub(super) fn keep_top_p(&mut self, top_p: f32) {
        if top_p < 1.0 {
            let mass = f64::from(top_p) * self.block_mass.iter().sum::<f64>();
            self.keep_until(Measure::Mass, mass);
        }
    }

    /// Keeps the tokens of at least this share of the highest weight, which is 1.
    pub(super) fn keep_min_p(&mut self, min_p: f32) {
        if min_p > 0.0 {
            self.lowest_weight = min_p;
            self.sum_kept();
        }
    }

    /// The token at this share of the kept mass, counted by token id.
    pub(super) fn draw(&self, uniform: f64) -> TokenId {
        let mut left = uniform * self.block_mass.iter().sum::<f64>();
        let mut last = 0;
        for (block, mass) in self.block_mass.iter().enumerate() {
            if left < *mass {
                return self.draw_within(block, left);
            }
            left -= mass;
            last = if *mass > 0.0 { block } else { last };
        }
        self.draw_within(last, f64::INFINITY)
    }

    /// The token within a block. Rounding may leave nothing to find at its end: then it is the last kept one.
    fn draw_within(&self, block: usize, mut left: f64) -> TokenId {
        let mut last = 0;
        for (within, weight) in self.kept(block) {
            last = within;
            left -= f64::from(weight);
            if left < 0.0 {
                break;
            }
        }
        (block * BLOCK + last) as TokenId
    }

    /// The tokens of a block that may be drawn, by their place in it, and their weights.
    fn kept(&self, block: usize) -> impl Iterator<Item = (usize, f32)> {
        let tokens = self.logits[block].iter().zip(&self.weights[block]).enumerate();
        tokens.filter_map(|(within, (logit, weight))| {
            let kept = *weight > 0.0 && *weight >= self.lowest_weight && *logit >= self.lowest_logit;
            kept.then_some((within, *weight))
        })
    }

    /// Sums the weights that are in.
    fn sum_kept(&mut self) {
        passes::mass_kept(
            (&self.logits, &self.weights, &self.block_highest),
            (self.lowest_logit, self.lowest_weight),
            &mut self.block_mass,
        );
    }
}

#[cfg(test)]
impl Scratch {
    /// The tokens that the last draw could have given, by id.
    pub(super) fn kept_tokens(&self) -> Vec<TokenId> {
        let blocks = 0..self.logits.len();
        blocks
            .flat_map(|block| self.kept(block).map(move |(within, _)| (block * BLOCK + within) as TokenId))
            .collect()
    }
}
