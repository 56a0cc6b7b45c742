//! Log-probabilities of a row of logits, for those who ask. Never part of picking a token.

use std::f32::consts::LOG2_E;

use super::block::{BLOCK, padded};
use super::passes;
use crate::engine::request::{TokenId, TokenLogprobs};

/// The model's own distribution over one row: before bias, penalties, temperature and limits. Making one costs two passes
/// over the row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Logprobs<'logits> {
    logits: &'logits [f32],
    log_normaliser: f64,
}

impl<'logits> Logprobs<'logits> {
    /// The distribution of a row from which a token could be picked: no NaN, no +∞, not all −∞.
    pub(crate) fn new(logits: &'logits [f32]) -> Self {
        let (blocks, rest) = logits.as_chunks::<BLOCK>();
        let rest = [padded(rest)];
        let mut highest_of_blocks = vec![f32::NEG_INFINITY; blocks.len() + 1];
        let mut mass_of_blocks = vec![0.0; blocks.len() + 1];
        let (highest_of_whole, highest_of_rest) = highest_of_blocks.split_at_mut(blocks.len());
        passes::inspect(blocks, highest_of_whole);
        passes::inspect(&rest, highest_of_rest);
        let highest = highest_of_blocks.into_iter().fold(f32::NEG_INFINITY, f32::max);
        let (mass_of_whole, mass_of_rest) = mass_of_blocks.split_at_mut(blocks.len());
        passes::sum_weights(blocks, highest, LOG2_E, mass_of_whole);
        passes::sum_weights(&rest, highest, LOG2_E, mass_of_rest);
        let mass: f64 = mass_of_blocks.into_iter().sum();
        Self { logits, log_normaliser: f64::from(highest) + mass.ln() }
    }

    /// What a request that asks is told of a picked token.
    pub(crate) fn of_pick(&self, token: TokenId, top: usize) -> TokenLogprobs {
        TokenLogprobs { picked: self.of(token), top: self.top(top) }
    }

    /// Natural logarithm of the probability of a token; −∞ outside the vocabulary.
    pub(crate) fn of(&self, token: TokenId) -> f32 {
        self.logits.get(token as usize).map_or(f32::NEG_INFINITY, |logit| self.normalised(*logit))
    }

    /// The `n` most likely tokens, the most likely first, of equals the lower id first; none that is ruled out (−∞).
    pub(crate) fn top(&self, n: usize) -> Vec<(TokenId, f32)> {
        let mut top: Vec<(TokenId, f32)> = Vec::with_capacity(n + 1);
        for (token, logit) in self.logits.iter().enumerate() {
            if logit.is_finite() && top.len() < n || top.last().is_some_and(|(_, lowest)| logit > lowest) {
                let place = top.partition_point(|(_, other)| other >= logit);
                top.insert(place, (token as TokenId, *logit));
                top.truncate(n);
            }
        }
        top.into_iter().map(|(token, logit)| (token, self.normalised(logit))).collect()
    }

    fn normalised(&self, logit: f32) -> f32 {
        // Rounding may leave a certain token a little above 0.
        ((f64::from(logit) - self.log_normaliser) as f32).min(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_probabilities_are_those_of_the_softmax() {
        let logits: Vec<f32> = (0..1_000).map(|token| ((token * 37) % 101) as f32 / 10.0).collect();
        let mass: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        let logprobs = Logprobs::new(&logits);
        for (token, logit) in logits.iter().enumerate() {
            let exact = f64::from(*logit) - mass.ln();
            assert!((f64::from(logprobs.of(token as u32)) - exact).abs() < 1e-5);
        }
        assert!(logprobs.of(1_000).is_infinite());
    }

    #[test]
    fn the_most_likely_tokens_come_first_and_ties_by_id() {
        let logprobs = Logprobs::new(&[1.0, 3.0, 2.0, 3.0, f32::NEG_INFINITY]);
        let tokens = |n| logprobs.top(n).into_iter().map(|(token, _)| token).collect::<Vec<_>>();
        assert_eq!(tokens(0), [0; 0]);
        assert_eq!(tokens(3), [1, 3, 2]);
        assert_eq!(tokens(9), [1, 3, 2, 0]);
        assert_eq!(logprobs.top(1)[0].1.to_bits(), logprobs.of(1).to_bits());
    }
}
