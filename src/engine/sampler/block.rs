//! Arithmetic on a block of 64 logits: the inner loops of the sampler.
//!
//! They run over arrays of fixed length, without branches and with [`LANES`] independent accumulators, so that the
//! compiler turns them into vector code for any target, without intrinsics or `unsafe`. A row whose length is no multiple
//! of 64 is padded with −∞, which has no weight and is never the highest.

/// Tokens of a block: a multiple of any vector length, small enough that most are skipped by their highest logit.
pub(super) const BLOCK: usize = 64;

/// Accumulators side by side: four of the smallest vectors, which hides the latency of an addition.
const LANES: usize = 16;

/// Tokens with a weight below 2^−86, about e^−60, of the highest get none. A million of them would have less than 1e-19 of
/// the mass, and the exponential stays clear of subnormal numbers.
pub(super) const LOWEST_POWER: f32 = -86.0;

/// Logits or weights of consecutive tokens.
pub(super) type Block = [f32; BLOCK];

/// The last, incomplete block of a row.
pub(super) fn padded(rest: &[f32]) -> Block {
    let mut block = [f32::NEG_INFINITY; BLOCK];
    block[..rest.len()].copy_from_slice(rest);
    block
}

/// The highest logit, and whether one is NaN or +∞.
pub(super) fn inspect(block: &Block) -> (f32, bool) {
    let mut highest = [f32::NEG_INFINITY; LANES];
    let mut sound = [1u32; LANES];
    for lanes in block.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            highest[lane] = if lanes[lane] > highest[lane] { lanes[lane] } else { highest[lane] };
            sound[lane] &= u32::from(lanes[lane] < f32::INFINITY);
        }
    }
    (reduce(highest, |a, b| if b > a { b } else { a }), reduce(sound, |a, b| a & b) == 0)
}

/// Writes 2^((logit − highest) · scale) for each logit and returns the sum.
pub(super) fn weigh(logits: &Block, highest: f32, scale: f32, weights: &mut Block) -> f32 {
    for (weight, logit) in weights.iter_mut().zip(logits) {
        *weight = power_of_two((logit - highest) * scale);
    }
    sum(weights)
}

/// Number of the tokens with a logit of at least `low` and less than `high`.
pub(super) fn count_between(logits: &Block, low: f32, high: f32) -> u32 {
    logits.iter().map(|logit| u32::from(*logit >= low) & u32::from(*logit < high)).sum()
}

/// Mass of the tokens with a logit of at least `threshold`.
pub(super) fn mass_from(logits: &Block, weights: &Block, threshold: f32) -> f32 {
    mass_where(weights, |index| u32::from(logits[index] >= threshold))
}

/// Mass of the tokens with at least this logit and at least this weight.
pub(super) fn mass_kept(logits: &Block, weights: &Block, lowest_logit: f32, lowest_weight: f32) -> f32 {
    mass_where(weights, |index| {
        u32::from(logits[index] >= lowest_logit) & u32::from(weights[index] >= lowest_weight)
    })
}

/// `is_in` is 1 for the tokens to count and 0 for the others.
fn mass_where(weights: &Block, is_in: impl Fn(usize) -> u32) -> f32 {
    let mut kept = [0.0; BLOCK];
    for index in 0..BLOCK {
        // All bits or none: a choice by mask stays a vector operation.
        let mask = is_in(index).wrapping_neg();
        kept[index] = f32::from_bits(weights[index].to_bits() & mask);
    }
    sum(&kept)
}

fn sum(block: &Block) -> f32 {
    let mut sums = [0.0; LANES];
    for lanes in block.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            sums[lane] += lanes[lane];
        }
    }
    reduce(sums, |a, b| a + b)
}

/// Joins the lanes, half with half.
fn reduce<T: Copy>(mut lanes: [T; LANES], join: impl Fn(T, T) -> T) -> T {
    for width in [8, 4, 2, 1] {
        for lane in 0..width {
            lanes[lane] = join(lanes[lane], lanes[lane + width]);
        }
    }
    lanes[0]
}

/// 2^x for x ≤ 0, and 0 from [`LOWEST_POWER`] down; relative error below 4e-7.
///
/// 2^x = 2^whole · 2^part with `part` in −½..=½: the first goes into the exponent bits, the second is a polynomial.
fn power_of_two(x: f32) -> f32 {
    /// Adding it rounds to a whole number, which then stands in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    #[expect(clippy::approx_constant, reason = "fitted, and not quite ln 2")]
    /// Least greatest relative error on −½..=½ among those that are exact at 0 (a Remez fit): 1e-7.
    const COEFFICIENTS: [f32; 6] =
        [1.0, 0.693_147, 0.240_222_42, 0.055_507_34, 0.009_671_513, 0.001_326_471_5];

    let power = if x > LOWEST_POWER { x } else { LOWEST_POWER };
    let rounded = power + ROUND;
    let part = power - (rounded - ROUND);
    let mut polynomial = COEFFICIENTS[5];
    for coefficient in COEFFICIENTS[..5].iter().rev() {
        polynomial = polynomial * part + coefficient;
    }
    let result = f32::from_bits(polynomial.to_bits().wrapping_add(rounded.to_bits() << 23));
    if x > LOWEST_POWER { result } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_power_is_close_and_ends_at_its_limit() {
        let mut x = 0.0f32;
        while x > LOWEST_POWER {
            let error = f64::from(power_of_two(x)) / f64::from(x).exp2() - 1.0;
            assert!(error.abs() < 4e-7, "2^{x} is off by {error}");
            x -= 0.000_7;
        }
        let at_the_ends = [0.0, LOWEST_POWER, f32::NEG_INFINITY].map(|x| power_of_two(x).to_bits());
        assert_eq!(at_the_ends, [1.0f32, 0.0, 0.0].map(f32::to_bits));
    }

    #[test]
    fn unsound_logits_are_seen_in_every_place() {
        for place in 0..BLOCK {
            for unsound in [f32::NAN, f32::INFINITY] {
                let mut block = [f32::NEG_INFINITY; BLOCK];
                assert!(!inspect(&block).1);
                block[place] = unsound;
                assert!(inspect(&block).1);
            }
        }
    }
}
