//! The random numbers of a seed, and what is drawn with them.

use super::*;

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
