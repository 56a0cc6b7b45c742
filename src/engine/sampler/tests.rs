//! Tests of the sampler: each part by hand, all of it against a plain reference that sorts everything in f64.

use super::*;
use proptest::prelude::*;

const OFF: f32 = f32::NEG_INFINITY;

fn drawing() -> Sampling {
    Sampling { temperature: 1.0, ..Sampling::greedy() }
}

/// The token that greedy sampling picks after this output.
fn greedy(sampling: Sampling, prompt: &[TokenId], output: &[TokenId], logits: &[f32]) -> TokenId {
    let mut sampler = Sampler::new(&Sampling { temperature: 0.0, ..sampling }, prompt);
    for token in output {
        sampler.accept(*token);
    }
    sampler.sample(logits, &mut Scratch::default()).unwrap().token
}

/// The tokens that can be drawn.
fn kept(sampling: &Sampling, logits: &[f32]) -> Vec<TokenId> {
    let mut scratch = Scratch::default();
    Sampler::new(sampling, &[]).sample(logits, &mut scratch).unwrap();
    scratch.kept_tokens()
}

fn error(sampling: &Sampling, logits: &[f32]) -> SampleError {
    Sampler::new(sampling, &[]).sample(logits, &mut Scratch::default()).unwrap_err()
}

#[test]
fn greedy_takes_the_highest_logit_and_of_equals_the_lowest_id() {
    assert_eq!(greedy(Sampling::greedy(), &[], &[], &[1.0, 3.0, 2.0, 3.0]), 1);
    let mut logits = vec![-5.0; 1_000];
    (logits[999], logits[640]) = (-4.0, -4.0);
    assert_eq!(greedy(Sampling::greedy(), &[], &[], &logits), 640);
}

#[test]
fn a_top_k_of_one_a_top_p_of_zero_and_a_vanishing_temperature_are_greedy() {
    let logits = [1.0, 1.1, 1.1];
    for sampling in [
        Sampling { top_k: 1, ..drawing() },
        Sampling { top_p: 0.0, ..drawing() },
        Sampling { temperature: 1e-40, ..drawing() },
    ] {
        for seed in 0..50 {
            let sampler = Sampler::new(&Sampling { seed, ..sampling.clone() }, &[]);
            assert_eq!(sampler.sample(&logits, &mut Scratch::default()).unwrap().token, 1);
        }
    }
}

#[test]
fn bias_is_added_and_outside_the_vocabulary_ignored() {
    let sampling = Sampling { logit_bias: vec![(0, 1.5), (0, 1.0), (9, 100.0)], ..drawing() };
    assert_eq!(greedy(sampling, &[], &[], &[1.0, 3.0]), 0);
    let banned = Sampling { logit_bias: vec![(1, OFF)], ..drawing() };
    assert_eq!(kept(&banned, &[1.0, 3.0, 2.0]), [0, 2]);
}

#[test]
fn the_repetition_penalty_is_for_prompt_and_output_and_knows_the_sign() {
    let sampling = Sampling { repetition_penalty: 2.0, ..drawing() };
    assert_eq!(greedy(sampling.clone(), &[], &[], &[4.0, 3.0]), 0);
    assert_eq!(greedy(sampling.clone(), &[0, 0], &[], &[4.0, 3.0]), 1);
    assert_eq!(greedy(sampling.clone(), &[], &[0], &[4.0, 3.0]), 1);
    assert_eq!(greedy(sampling.clone(), &[0], &[], &[-2.0, -3.0]), 1);
    // Once, however often the token was seen: 4 / 2 is still more than 1.5.
    assert_eq!(greedy(sampling, &[0, 0], &[0, 0], &[4.0, 1.5]), 0);
}

#[test]
fn the_presence_penalty_is_for_the_output_and_once() {
    let sampling = Sampling { presence_penalty: 1.5, ..drawing() };
    assert_eq!(greedy(sampling.clone(), &[0], &[], &[4.0, 3.0]), 0);
    assert_eq!(greedy(sampling.clone(), &[], &[0], &[4.0, 3.0]), 1);
    assert_eq!(greedy(sampling, &[], &[0, 0, 0], &[4.0, 2.0]), 0);
}

#[test]
fn the_frequency_penalty_is_for_the_output_and_counts() {
    let sampling = Sampling { frequency_penalty: 0.5, ..drawing() };
    assert_eq!(greedy(sampling.clone(), &[0; 9], &[0], &[4.0, 3.0]), 0);
    assert_eq!(greedy(sampling, &[], &[0, 0, 0], &[4.0, 3.0]), 1);
}

#[test]
fn bias_comes_before_the_repetition_penalty_and_that_before_the_others() {
    // (1 + 3) / 2 = 2, not 1 / 2 + 3.
    let sampling = Sampling { logit_bias: vec![(0, 3.0)], repetition_penalty: 2.0, ..drawing() };
    assert_eq!(greedy(sampling, &[0], &[], &[1.0, 2.5]), 1);
    // 4 / 2 − 1 = 1, not (4 − 1) / 2.
    let sampling = Sampling { repetition_penalty: 2.0, presence_penalty: 1.0, ..drawing() };
    assert_eq!(greedy(sampling, &[], &[0], &[4.0, 1.2]), 1);
}

#[test]
fn top_k_keeps_exactly_so_many() {
    let sampling = |top_k| Sampling { top_k, ..drawing() };
    let logits = [1.0, 3.0, 2.0, 2.0, 2.0, OFF];
    assert_eq!(kept(&sampling(2), &logits), [1, 2]);
    assert_eq!(kept(&sampling(3), &logits), [1, 2, 3]);
    assert_eq!(kept(&sampling(0), &logits), [0, 1, 2, 3, 4]);
    assert_eq!(kept(&sampling(100), &logits), [0, 1, 2, 3, 4]);
    assert_eq!(kept(&sampling(700), &[0.5; 1_000]), (0..700).collect::<Vec<_>>());
}

#[test]
fn top_p_keeps_the_token_that_crosses() {
    let logits = [0.1f32, 0.5, 0.15, 0.25].map(f32::ln);
    for (top_p, tokens) in [(0.3, vec![1]), (0.6, vec![1, 3]), (0.8, vec![1, 2, 3]), (0.95, vec![0, 1, 2, 3])]
    {
        assert_eq!(kept(&Sampling { top_p, ..drawing() }, &logits), tokens);
    }
    // Measured on what top_k kept: 0.5 of 0.75 is enough for 0.6.
    assert_eq!(kept(&Sampling { top_p: 0.6, top_k: 2, ..drawing() }, &logits), [1]);
}

#[test]
fn min_p_is_relative_to_the_most_likely_token() {
    let logits = [0.1f32, 0.5, 0.15, 0.25].map(f32::ln);
    for (min_p, tokens) in [(0.6, vec![1]), (0.4, vec![1, 3]), (0.25, vec![1, 2, 3]), (0.1, vec![0, 1, 2, 3])]
    {
        assert_eq!(kept(&Sampling { min_p, ..drawing() }, &logits), tokens);
    }
    // The temperature comes first: the square root of 0.25 / 0.5 is 0.71.
    assert_eq!(kept(&Sampling { min_p: 0.6, temperature: 2.0, ..drawing() }, &logits), [1, 3]);
}

#[test]
fn logits_that_are_no_numbers_are_an_error() {
    for bad in [f32::NAN, f32::INFINITY] {
        for place in [0, 63, 64, 129] {
            let mut logits = [1.0; 130];
            logits[place] = bad;
            assert_eq!(error(&drawing(), &logits), SampleError::NotFinite);
            assert_eq!(error(&Sampling::greedy(), &logits), SampleError::NotFinite);
        }
    }
}

#[test]
fn nothing_allowed_is_an_error_and_a_masked_token_is_never_drawn() {
    assert_eq!(error(&drawing(), &[OFF; 70]), SampleError::NothingAllowed);
    assert_eq!(error(&Sampling::greedy(), &[]), SampleError::NothingAllowed);
    let mut logits = [OFF; 200];
    logits[150] = -1e30;
    assert_eq!(kept(&drawing(), &logits), [150]);
}

#[test]
fn a_buffer_that_was_used_for_a_longer_row_makes_no_difference() {
    let mut scratch = Scratch::default();
    let sampler = Sampler::new(&Sampling { top_p: 0.95, ..drawing() }, &[]);
    sampler.sample(&[9.0; 500], &mut scratch).unwrap();
    sampler.sample(&[1.0, 2.0, 3.0], &mut scratch).unwrap();
    assert_eq!(scratch.kept_tokens(), [0, 1, 2]);
}

/// Seeds and the first numbers of each, from an implementation of the documented generator in Python.
const GOLDEN: [(u64, [f64; 3]); 4] = [
    (0, [0.584_725_192_470_706_1, 0.463_036_100_232_346_65, 0.130_145_089_474_317_9]),
    (1, [0.440_986_186_542_590_36, 0.109_033_261_818_708_43, 0.786_356_498_041_549]),
    (42, [0.258_769_571_022_896_55, 0.298_018_191_786_584_73, 0.780_712_850_900_822_1]),
    (u64::MAX, [0.192_973_025_684_107_35, 0.548_806_913_465_112_2, 0.321_590_555_158_571_7]),
];

#[test]
fn the_random_numbers_of_a_seed_never_change() {
    for (seed, expected) in GOLDEN {
        let mut uniform = Uniform::new(seed);
        for number in expected {
            assert_eq!(uniform.current.to_bits(), f64::to_bits(number));
            uniform.advance();
        }
    }
}

#[test]
fn the_random_number_depends_on_the_place_in_the_output_only() {
    let sampling = Sampling { seed: 7, ..drawing() };
    let (mut alone, mut other) = (Sampler::new(&sampling, &[]), Sampler::new(&sampling, &[1, 2]));
    let mut scratch = Scratch::default();
    for step in 0..20 {
        let logits: Vec<f32> = (0..100).map(|token| ((token * 31 + step * 17) % 23) as f32 / 5.0).collect();
        let pick = alone.sample(&logits, &mut scratch).unwrap();
        assert_eq!(alone.sample(&logits, &mut scratch).unwrap(), pick);
        assert_eq!(other.sample(&logits, &mut scratch).unwrap(), pick);
        alone.accept(pick.token);
        other.accept(0);
    }
}

#[test]
fn draws_follow_the_distribution() {
    const DRAWS: u32 = 40_000;
    let logits: Vec<f32> =
        (0..100).map(|token| if token % 12 == 5 { token as f32 / 40.0 } else { OFF }).collect();
    let mass: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
    let mut sampler = Sampler::new(&Sampling { seed: 3, ..drawing() }, &[]);
    let mut scratch = Scratch::default();
    let mut drawn = vec![0u32; 100];
    for _ in 0..DRAWS {
        let token = sampler.sample(&logits, &mut scratch).unwrap().token;
        sampler.accept(token);
        drawn[token as usize] += 1;
    }
    let allowed = (0..100).filter(|token| logits[*token] > OFF);
    let chi_square: f64 = allowed
        .map(|token| {
            let expected = f64::from(DRAWS) * f64::from(logits[token]).exp() / mass;
            (f64::from(drawn[token]) - expected).powi(2) / expected
        })
        .sum();
    // Eight tokens: seven degrees of freedom, exceeded by chance once in a thousand seeds.
    assert!(chi_square < 24.3, "chi square {chi_square}");
}

/// Tokens and f64 weights, most likely first, and how many of them are kept at least and at most: a border within 1e-6
/// of a token may fall on either side of it.
struct Reference {
    order: Vec<(TokenId, f64)>,
    kept: std::ops::RangeInclusive<usize>,
}

/// Weights below e^−60 are 0 by definition; the comparison leaves out all that cannot matter.
const NEGLIGIBLE: f64 = 1e-20;

fn weight(temperature: f32, logits: &[f32], token: TokenId) -> f64 {
    let highest = logits.iter().copied().fold(OFF, f32::max);
    ((f64::from(logits[token as usize]) - f64::from(highest)) / f64::from(temperature)).exp()
}

fn reference(sampling: &Sampling, logits: &[f32]) -> Reference {
    let weigh = |token| (token, weight(sampling.temperature, logits, token));
    let mut order: Vec<(TokenId, f64)> = (0..logits.len() as TokenId).map(weigh).collect();
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

fn logits() -> impl Strategy<Value = Vec<f32>> {
    let steps = (-12..12i32).prop_map(|step| step as f32 / 2.0);
    let spread = -20.0..20.0f32;
    let close = 0.0..1.0f32;
    let few = prop::collection::vec(prop_oneof![4 => spread, 2 => steps.clone(), 1 => Just(OFF)], 1..200);
    let ties = prop::collection::vec(prop_oneof![9 => steps, 1 => Just(OFF)], 1..600);
    let many = prop::collection::vec(close, 1_000..3_000);
    let allowed = |logits: &Vec<f32>| logits.iter().any(|logit| *logit > OFF);
    prop_oneof![3 => few, 2 => ties, 1 => many].prop_filter("a token is allowed", allowed)
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
        tokens.retain(|token| weight(sampling.temperature, &logits, *token) > NEGLIGIBLE);
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
