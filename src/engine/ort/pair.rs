//! Whether one graph of a pair (`decoder_model.onnx`, `decoder_with_past_model.onnx`) does the work of both.
//!
//! The second takes a cache. Where it can also be fed several tokens, and an empty cache, the first is not needed and its
//! weights are not loaded. Exporters have traced it with a single token: its shapes then may say so, or the mask between
//! fed tokens is missing, which no shape shows. So shapes only rule out; what they allow is tried on a few tokens.

use super::concat::Concat;
use super::numbers::Number;
use crate::engine::backend::{Backend, BackendError, Batch, Input, Wanted};
use crate::engine::request::TokenId;

/// Enough for a missing mask to show: what early tokens see changes what the last one finds in the second layer.
const TOKENS: usize = 6;

/// Whether a text gives the same logits fed at once, in two pieces and token by token.
pub(super) fn feeds_prompts(backend: &mut Concat, number: Number) -> bool {
    let mut logits = |piece: usize| -> Result<Vec<f32>, BackendError> {
        let vocabulary = backend.geometry().vocabulary_size;
        let text: Vec<TokenId> = (1..=TOKENS).map(|index| (index * 37 % vocabulary) as TokenId).collect();
        let mut last = Vec::new();
        for (index, tokens) in text.chunks(piece).enumerate() {
            let inputs = [Input { past: index * piece, tokens }];
            last = backend.forward(&Batch { first_row: 0, inputs: &inputs, wanted: Wanted::Last })?.to_vec();
        }
        backend.release_row(0, false);
        Ok(last)
    };
    let (Ok(single), Ok(pieces), Ok(whole)) = (logits(1), logits(TOKENS / 2), logits(TOKENS)) else {
        return false;
    };
    agree(&single, &pieces, number) && agree(&single, &whole, number)
}

/// Whether logits differ by no more than the order in which sums are made.
fn agree(one: &[f32], other: &[f32], number: Number) -> bool {
    let (lowest, highest) =
        one.iter().fold((f32::MAX, f32::MIN), |(low, high), logit| (low.min(*logit), high.max(*logit)));
    let rounding = match number {
        Number::F32 => 1e-3,
        Number::F16 => 2e-2,
    };
    let tolerance = (highest - lowest) * rounding;
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| (a - b).abs() <= tolerance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_forgiven_and_nothing_else() {
        assert!(agree(&[1.0, 2.0, 3.0], &[1.0005, 2.0, 3.0], Number::F32));
        assert!(!agree(&[1.0, 2.0, 3.0], &[1.01, 2.0, 3.0], Number::F32));
        assert!(agree(&[1.0, 2.0, 3.0], &[1.01, 2.0, 3.0], Number::F16));
        assert!(!agree(&[1.0, f32::NAN], &[1.0, f32::NAN], Number::F32));
    }
}
