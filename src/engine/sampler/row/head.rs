//! Where a head of the tokens, most likely first, ends: the search behind `top_k` and `top_p`.
//!
//! "How many tokens, or what mass, have a logit of at least t" is one cheap pass over the row. So the threshold at which
//! enough is kept is first stepped down from the highest logit, then bracketed by bisection until few tokens are left in
//! between; only those are gathered and sorted.
//!
//! ```text
//! highest ──────────────▶ lower logits
//!     above: not enough  [high ░ candidates ░ low]  below: enough
//! ```

use std::cmp::Ordering;

use super::Scratch;
use crate::engine::request::TokenId;
use crate::engine::sampler::block::{BLOCK, LOWEST_POWER};
use crate::engine::sampler::passes;

/// Tokens that are sorted to find the border: fewer cost more passes, more cost a longer sort.
const CANDIDATES: f64 = 256.0;

/// What a head of the tokens is measured by.
#[derive(Debug, Clone, Copy)]
pub(super) enum Measure {
    /// The number of its tokens.
    Count,
    /// The sum of their weights.
    Mass,
}

/// Two thresholds: the tokens from `low` on, which measure `below`, are enough; those from `high` on, which measure `above`,
/// are not.
struct Bracket {
    low: f32,
    below: f64,
    high: f32,
    above: f64,
}

impl Bracket {
    fn step(&mut self, threshold: f32, enough: f64, measure: impl Fn(f32) -> f64) {
        let measured = measure(threshold);
        if measured >= enough {
            (self.low, self.below) = (threshold, measured);
        } else {
            (self.high, self.above) = (threshold, measured);
        }
    }
}

impl Scratch {
    /// Keeps the shortest head of the tokens, most likely first, that measures `enough`.
    pub(super) fn keep_until(&mut self, measure: Measure, enough: f64) {
        let Some(bracket) = self.bracket(measure, enough) else {
            return;
        };
        self.gather(bracket.low, bracket.high);
        let mut measured = bracket.above;
        let mut kept = 0;
        while kept < self.candidates.len() && measured < enough {
            measured += match measure {
                Measure::Count => 1.0,
                Measure::Mass => f64::from(*self.weight(self.candidates[kept].1)),
            };
            kept += 1;
        }
        let candidates = std::mem::take(&mut self.candidates);
        // Not lower than before: rounding of the mass must not bring back what top_k left out.
        let border = candidates[..kept].last().map_or(bracket.high, |(logit, _)| *logit);
        self.lowest_logit = self.lowest_logit.max(border);
        for (logit, token) in &candidates[kept..] {
            // Equal to the last kept one, but of a higher id.
            if *logit >= self.lowest_logit {
                *self.weight(*token) = 0.0;
            }
        }
        self.candidates = candidates;
        self.sum_kept();
    }

    fn weight(&mut self, token: TokenId) -> &mut f32 {
        &mut self.weights[token as usize / BLOCK][token as usize % BLOCK]
    }

    /// Narrows down where the head that measures `enough` ends, until few tokens are left in between. `None` when all
    /// tokens that have a weight do not measure enough.
    fn bracket(&self, measure: Measure, enough: f64) -> Option<Bracket> {
        let measured_from = |threshold| self.measure(measure, threshold);
        let mut bracket =
            Bracket { low: f32::NAN, below: f64::NAN, high: self.highest.next_up(), above: 0.0 };
        let mut depths = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, -LOWEST_POWER].into_iter();
        while bracket.low.is_nan() {
            bracket.step(self.highest - depths.next()? * self.temperature, enough, measured_from);
        }
        while self.most_within(measure, &bracket) > CANDIDATES {
            let middle = bracket.low.midpoint(bracket.high);
            if middle <= bracket.low || middle >= bracket.high {
                break;
            }
            bracket.step(middle, enough, measured_from);
        }
        Some(bracket)
    }

    /// A number of tokens that the bracket does not exceed: none of them weighs less than a token of the logit `low`.
    fn most_within(&self, measure: Measure, bracket: &Bracket) -> f64 {
        let measured = bracket.below - bracket.above;
        match measure {
            Measure::Count => measured,
            Measure::Mass => measured * f64::from((self.highest - bracket.low) / self.temperature).exp(),
        }
    }

    /// Number or mass of the tokens with a logit of at least `threshold`.
    fn measure(&self, measure: Measure, threshold: f32) -> f64 {
        match measure {
            Measure::Count => f64::from(passes::count_from(&self.logits, &self.block_highest, threshold)),
            Measure::Mass => passes::mass_from(&self.logits, &self.weights, &self.block_highest, threshold),
        }
    }

    /// Gathers the tokens with `low` ≤ logit < `high`, most likely first.
    fn gather(&mut self, low: f32, high: f32) {
        self.candidates.clear();
        passes::gather(&self.logits, &self.block_highest, (low, high), &mut self.candidates);
        self.candidates.sort_unstable_by(|(left, left_token), (right, right_token)| {
            right.partial_cmp(left).unwrap_or(Ordering::Equal).then(left_token.cmp(right_token))
        });
    }
}
