//! Tests of the sampler: each part by hand here, the draw in [`random`], all of it together in [`reference`].

mod random;
mod reference;

use super::*;

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

#[test]
fn tokens_that_are_not_allowed_count_as_ruled_out_by_the_model() {
    let allowed: Vec<usize> = vec![0, 33, 63, 64, 95, 130, 199];
    let mut bits = [0_u32; 7];
    for token in &allowed {
        bits[token / 32] |= 1 << (token % 32);
    }
    let logits: Vec<f32> = (0u8..200).map(|token| f32::from(token % 17)).collect();
    let ruled_out: Vec<f32> = (0..200)
        .map(|token| if allowed.contains(&token) { logits[token] } else { f32::NEG_INFINITY })
        .collect();
    let mut scratch = Scratch::default();
    for temperature in [0.0, 0.5, 2.0] {
        for seed in 0..20 {
            let sampling = Sampling {
                temperature,
                seed,
                repetition_penalty: 1.2,
                logit_bias: vec![(5, 100.0), (33, 2.0)],
                ..Sampling::greedy()
            };
            let sampler = Sampler::new(&sampling, &[64]);
            let expected = sampler.sample(&ruled_out, &mut scratch);
            assert_eq!(sampler.sample_allowed(&logits, &bits, &mut scratch), expected);
        }
    }
    let sampler = Sampler::new(&Sampling::greedy(), &[]);
    assert_eq!(sampler.sample_allowed(&logits, &[], &mut scratch), Err(SampleError::NothingAllowed));
    assert_eq!(sampler.sample_allowed(&[1.0, f32::NAN], &[1], &mut scratch), Err(SampleError::NotFinite));
}
