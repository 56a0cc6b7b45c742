//! The sampler's passes over a whole row, each compiled for several sets of vector instructions; the machine's best is
//! chosen when the process runs.
//!
//! A build for any x86-64 machine has vectors of four numbers; nearly all servers have eight or sixteen. The code is the
//! same for all, with its own order of additions (see [`super::block`]) and without fused multiplication, so that every
//! version gives the same bits: seeds in requests are a promise.

use multiversion::multiversion;

use super::block::{self, BLOCK, Block, LANES, Lanes};
use crate::engine::request::TokenId;

/// Blocks whose accumulators are computed before they are joined.
const TILE: usize = 8;
/// Accumulators of a tile, before anything is in them.
const EMPTY: [Lanes; TILE] = [[0.0; LANES]; TILE];

/// Finds the highest logit of each block; returns whether a logit is NaN or +∞.
#[multiversion(targets("x86_64+avx2"))]
pub(super) fn inspect(row: &[Block], block_highest: &mut [f32]) -> bool {
    let mut unsound = [0; LANES];
    for (block, highest) in row.iter().zip(block_highest) {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        block::inspect(block, &mut lanes, &mut unsound);
        // Seen together, the compiler would run this loop and the joining across blocks, four times slower.
        *highest = block::join(&std::hint::black_box(lanes), block::higher);
    }
    unsound != [0; LANES]
}

/// Writes the weight 2^((logit − highest) · scale) of every token, and the mass of each block.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub(super) fn weigh(row: &[Block], highest: f32, scale: f32, weights: &mut [Block], block_mass: &mut [f64]) {
    let mut tile = EMPTY;
    let tiles = row.chunks(TILE).zip(weights.chunks_mut(TILE)).zip(block_mass.chunks_mut(TILE));
    for ((blocks, weights), block_mass) in tiles {
        for ((logits, weights), lanes) in blocks.iter().zip(weights).zip(&mut tile) {
            block::weigh(logits, highest, scale, weights, lanes);
        }
        for (mass, lanes) in block_mass.iter_mut().zip(&tile) {
            *mass = joined_sum(lanes);
        }
    }
}

/// The mass of each block, without keeping the weights.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub(super) fn sum_weights(row: &[Block], highest: f32, scale: f32, block_mass: &mut [f64]) {
    let (mut tile, mut weights) = (EMPTY, [0.0; BLOCK]);
    for (blocks, block_mass) in row.chunks(TILE).zip(block_mass.chunks_mut(TILE)) {
        for (logits, lanes) in blocks.iter().zip(&mut tile) {
            block::weigh(logits, highest, scale, &mut weights, lanes);
        }
        for (mass, lanes) in block_mass.iter_mut().zip(&tile) {
            *mass = joined_sum(lanes);
        }
    }
}

/// Number of the tokens with a logit of at least `threshold`.
#[multiversion(targets("x86_64+avx2"))]
pub(super) fn count_from(row: &[Block], block_highest: &[f32], threshold: f32) -> u32 {
    let mut count = 0;
    for (logits, highest) in row.iter().zip(block_highest) {
        if *highest >= threshold {
            count += block::count_from(logits, threshold);
        }
    }
    count
}

/// Mass of the tokens with a logit of at least `threshold`.
#[multiversion(targets("x86_64+avx2"))]
pub(super) fn mass_from(row: &[Block], weights: &[Block], block_highest: &[f32], threshold: f32) -> f64 {
    let mut mass = 0.0;
    let mut tile = EMPTY;
    let tiles = row.chunks(TILE).zip(weights.chunks(TILE)).zip(block_highest.chunks(TILE));
    for ((row, weights), highest) in tiles {
        if highest.iter().all(|highest| *highest < threshold) {
            continue;
        }
        for ((logits, weights), lanes) in row.iter().zip(weights).zip(&mut tile) {
            block::sum_where(logits, weights, |logit, _| u32::from(logit >= threshold), lanes);
        }
        for lanes in &tile[..row.len()] {
            mass += joined_sum(lanes);
        }
    }
    mass
}

/// Finds, block by block, the mass of the tokens with at least this logit and at least this weight.
#[multiversion(targets("x86_64+avx2"))]
pub(super) fn mass_kept(
    (row, weights, block_highest): (&[Block], &[Block], &[f32]),
    (lowest_logit, lowest_weight): (f32, f32),
    block_mass: &mut [f64],
) {
    let is_kept = |logit, weight| u32::from(logit >= lowest_logit) & u32::from(weight >= lowest_weight);
    let mut tile = EMPTY;
    let tiles = row.chunks(TILE).zip(weights.chunks(TILE)).zip(block_highest.chunks(TILE));
    for (((row, weights), highest), block_mass) in tiles.zip(block_mass.chunks_mut(TILE)) {
        if highest.iter().all(|highest| *highest < lowest_logit) {
            block_mass.fill(0.0);
            continue;
        }
        for ((logits, weights), lanes) in row.iter().zip(weights).zip(&mut tile) {
            block::sum_where(logits, weights, is_kept, lanes);
        }
        for (mass, lanes) in block_mass.iter_mut().zip(&tile) {
            *mass = joined_sum(lanes);
        }
    }
}

#[expect(
    clippy::inline_always,
    reason = "only code that is inlined gets the vector instructions of its caller"
)]
#[inline(always)]
fn joined_sum(lanes: &Lanes) -> f64 {
    f64::from(block::join(lanes, |a, b| a + b))
}

/// Appends the tokens with `low` ≤ logit < `high`, by id.
#[multiversion(targets("x86_64+avx2"))]
pub(super) fn gather(
    row: &[Block],
    block_highest: &[f32],
    (low, high): (f32, f32),
    candidates: &mut Vec<(f32, TokenId)>,
) {
    for (index, (logits, highest)) in row.iter().zip(block_highest).enumerate() {
        if *highest < low {
            continue;
        }
        let flags = block::between(logits, low, high);
        // Eight flags at a time: nearly all are 0.
        for (eighth, flags) in flags.as_chunks::<8>().0.iter().enumerate() {
            let mut left = u64::from_le_bytes(*flags);
            while left != 0 {
                let within = eighth * 8 + left.trailing_zeros() as usize / 8;
                candidates.push((logits[within], (index * BLOCK + within) as TokenId));
                left &= left - 1;
            }
        }
    }
}
