//! The sampler against a plain reference that sorts everything and computes in f64.

use super::*;
use proptest::prelude::*;

/// Tokens and f64 weights, most likely first, and how many of them are kept at least and at most: a border within 1e-6
/// of a token may fall on either side of it.
struct Reference {
    order: Vec<(TokenId, f64)>,
    kept: std::ops::RangeInclusive<usize>,
}

/// Weights below e^−60 are 0 by definition; the comparison leaves out all that cannot matter.
const NEGLIGIBLE: f64 = 1e-20;

fn weights(temperature: f32, logits: &[f32]) -> Vec<f64> {
    let highest = f64::from(logits.iter().copied().fold(OFF, f32::max));
    logits.iter().map(|logit| ((f64::from(*logit) - highest) / f64::from(temperature)).exp()).collect()
}

fn reference(sampling: &Sampling, logits: &[f32]) -> Reference {
    let mut order: Vec<(TokenId, f64)> = (0..).zip(weights(sampling.temperature, logits)).collect();
    order.sort_by(|(left, _), (right, _)| {
        logits[*right as usize].partial_cmp(&logits[*left as usize]).unwrap().then(left.cmp(right))
    });
    order.retain(|(_, weight)| *weight > NEGLIGIBLE);
    if sampling.top_k > 0 {
        order.truncate(sampling.top_k as usize);
    }
    let mass: f64 = order.iter().map(|(_, weight)| weight).sum();
    let count = |shift: f64| {
        let enough = (f64::from(sampling.top_p) + shift) * mass;
        let mut sum = 0.0;
        let crossing = order.iter().position(|(_, weight)| {
            sum += weight;
            sum >= enough
        });
        let by_top_p =
            if sampling.top_p < 1.0 { crossing.map_or(order.len(), |at| at + 1) } else { order.len() };
        let lowest = f64::from(sampling.min_p) - shift;
        let by_min_p = order.partition_point(|(_, weight)| sampling.min_p <= 0.0 || *weight >= lowest);
        by_top_p.min(by_min_p)
    };
    let kept = count(-1e-6)..=count(1e-6);
    Reference { order, kept }
}

/// Whether a token may be the one at this share of the kept mass, give or take 1e-6.
fn may_be_drawn(kept: &[(TokenId, f64)], token: TokenId, uniform: f64) -> bool {
    let mass: f64 = kept.iter().map(|(_, weight)| weight).sum();
    let mut by_id = kept.to_vec();
    by_id.sort_by_key(|(id, _)| *id);
    let mut start = 0.0;
    for (id, weight) in by_id {
        let end = start + weight / mass;
        if id == token {
            return start - 1e-6 <= uniform && uniform <= end + 1e-6;
        }
        start = end;
    }
    false
}

/// Rows expanded from a seed, because proptest is slow to make long vectors: a few spread logits, many ties, or many
/// close ones; some masked, never the first.
fn logits() -> impl Strategy<Value = Vec<f32>> {
    let lengths =
        prop_oneof![3 => (Just(0), 1..200u64), 2 => (Just(1), 1..600u64), 1 => (Just(2), 1_000..3_000u64)];
    (lengths, any::<u64>()).prop_map(|((kind, length), seed)| {
        let logit = |token| {
            let random = split_mix(seed, token);
            let fraction = (random >> 40) as f32 / (1u64 << 24) as f32;
            let step = (random >> 8 & 31) as f32 / 2.0 - 8.0;
            match (kind, random & 7) {
                (0 | 1, 0) if token > 1 => OFF,
                (0, 1..4) | (1, _) => step,
                (0, _) => fraction * 40.0 - 20.0,
                _close => fraction,
            }
        };
        (1..=length).map(logit).collect()
    })
}

fn sampling() -> impl Strategy<Value = Sampling> {
    let temperature = (-3.0..0.301f32).prop_map(|exponent| 10f32.powf(exponent));
    let top_k = prop_oneof![2 => Just(0), 2 => 2..40u32, 1 => 40..4_000u32];
    let top_p = prop_oneof![2 => Just(1.0), 3 => 0.001..1.0f32, 1 => Just(0.999_999_9)];
    let min_p = prop_oneof![2 => Just(0.0), 2 => 0.0..1.0f32, 1 => 0.0..0.01f32, 1 => Just(1.0)];
    (temperature, top_k, top_p, min_p, any::<u64>()).prop_map(|(temperature, top_k, top_p, min_p, seed)| {
        Sampling { temperature, top_k, top_p, min_p, seed, ..Sampling::greedy() }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]
    #[test]
    fn kept_tokens_and_draws_are_those_of_the_reference(sampling in sampling(), logits in logits()) {
        let mut scratch = Scratch::default();
        let sampler = Sampler::new(&sampling, &[]);
        let token = sampler.sample(&logits, &mut scratch).unwrap().token;
        let mut tokens = scratch.kept_tokens();
        let weights = weights(sampling.temperature, &logits);
        tokens.retain(|token| weights[*token as usize] > NEGLIGIBLE);
        let Reference { order, kept } = reference(&sampling, &logits);
        prop_assert!(kept.contains(&tokens.len()), "{} kept, expected {:?}", tokens.len(), kept);
        let mut expected: Vec<TokenId> = order[..tokens.len()].iter().map(|(token, _)| *token).collect();
        expected.sort_unstable();
        prop_assert_eq!(&tokens, &expected);
        prop_assert!(may_be_drawn(&order[..tokens.len()], token, sampler.random.current));
    }

    #[test]
    fn greedy_is_the_first_of_the_reference_order(logits in logits()) {
        let first = reference(&drawing(), &logits).order[0].0;
        prop_assert_eq!(greedy(Sampling::greedy(), &[], &[], &logits), first);
    }
}
