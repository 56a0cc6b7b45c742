//! Arithmetic on a block of 64 logits: the inner loops of the sampler.
//!
//! They run over arrays of fixed length, without branches and with [`LANES`] independent accumulators, so that the
//! compiler turns them into vector code for any target, without intrinsics or `unsafe`. The accumulators of a block are
//! [`joined`](join) apart from that: in one loop the compiler would arrange both for the few that are left at the end. A
//! row whose length is no multiple of 64 is padded with −∞, which has no weight and is never the highest.

#![expect(
    clippy::inline_always,
    reason = "only code that is inlined gets the vector instructions of its caller"
)]

/// Tokens of a block: a multiple of any vector length, small enough that most are skipped by their highest logit.
pub(super) const BLOCK: usize = 64;

/// Accumulators side by side: four of the smallest vectors, which hides the latency of an addition.
pub(super) const LANES: usize = 16;

/// The accumulators of a block.
pub(super) type Lanes = [f32; LANES];

/// Tokens with a weight below 2^−86, about e^−60, of the highest get none. A million of them would have less than 1e-19 of
/// the mass, and the exponential stays clear of subnormal numbers.
pub(super) const LOWEST_POWER: f32 = -86.0;

/// Logits or weights of consecutive tokens.
pub(super) type Block = [f32; BLOCK];

/// The last, incomplete block of a row.
#[inline(always)]
pub(super) fn padded(rest: &[f32]) -> Block {
    let mut block = [f32::NEG_INFINITY; BLOCK];
    block[..rest.len()].copy_from_slice(rest);
    block
}

/// The highest logits; sets lanes of `unsound` in which one is NaN or +∞.
#[inline(always)]
pub(super) fn inspect(block: &Block, highest: &mut Lanes, unsound: &mut [u32; LANES]) {
    *highest = [f32::NEG_INFINITY; LANES];
    for lanes in block.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            highest[lane] = higher(highest[lane], lanes[lane]);
            let sound = lanes[lane] < f32::INFINITY;
            unsound[lane] |= u32::from(!sound);
        }
    }
}

/// The second of equals, or of two of which one is NaN: a single instruction.
#[inline(always)]
pub(super) fn higher(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// Writes 2^((logit − highest) · scale) for each logit and sums it.
#[inline(always)]
pub(super) fn weigh(logits: &Block, highest: f32, scale: f32, weights: &mut Block, sums: &mut Lanes) {
    for (weight, logit) in weights.iter_mut().zip(logits) {
        *weight = power_of_two((logit - highest) * scale);
    }
    *sums = [0.0; LANES];
    for lanes in weights.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            sums[lane] += lanes[lane];
        }
    }
}

/// Number of the tokens with a logit of at least `threshold`.
#[inline(always)]
pub(super) fn count_from(logits: &Block, threshold: f32) -> u32 {
    logits.iter().map(|logit| u32::from(*logit >= threshold)).sum()
}

/// 1 for each token with `low` ≤ logit < `high`, 0 for the others.
#[inline(always)]
pub(super) fn between(logits: &Block, low: f32, high: f32) -> [u8; BLOCK] {
    logits.map(|logit| u8::from(logit >= low) & u8::from(logit < high))
}

/// Sums the weights of the tokens for which `is_kept`, given logit and weight, is 1 and not 0.
#[inline(always)]
pub(super) fn sum_where(
    logits: &Block,
    weights: &Block,
    is_kept: impl Fn(f32, f32) -> u32,
    sums: &mut Lanes,
) {
    *sums = [0.0; LANES];
    for (logits, weights) in logits.as_chunks::<LANES>().0.iter().zip(weights.as_chunks::<LANES>().0) {
        for lane in 0..LANES {
            // All bits or none: a choice by mask stays a vector operation.
            let mask = is_kept(logits[lane], weights[lane]).wrapping_neg();
            sums[lane] += f32::from_bits(weights[lane].to_bits() & mask);
        }
    }
}

/// Joins the accumulators, half with half.
#[inline(always)]
pub(super) fn join(lanes: &Lanes, pair: impl Fn(f32, f32) -> f32) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|lane| pair(lanes[lane], lanes[lane + 8]));
    let four: [f32; 4] = std::array::from_fn(|lane| pair(eight[lane], eight[lane + 4]));
    pair(pair(four[0], four[2]), pair(four[1], four[3]))
}

/// 2^x for x ≤ 0, and 0 from [`LOWEST_POWER`] down; relative error below 4e-7.
///
/// 2^x = 2^whole · 2^part with `part` in −½..=½: the first goes into the exponent bits, the second is a polynomial.
#[inline(always)]
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
    let result = polynomial.to_bits().wrapping_add(rounded.to_bits() << 23);
    f32::from_bits(result & u32::from(x > LOWEST_POWER).wrapping_neg())
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
        let is_unsound = |block: &Block| {
            let mut unsound = [0; LANES];
            inspect(block, &mut [0.0; LANES], &mut unsound);
            unsound != [0; LANES]
        };
        for place in 0..BLOCK {
            for number in [f32::NAN, f32::INFINITY] {
                let mut block = [f32::NEG_INFINITY; BLOCK];
                assert!(!is_unsound(&block));
                block[place] = number;
                assert!(is_unsound(&block));
            }
        }
    }
}
