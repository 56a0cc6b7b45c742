//! What it costs to pick a token, without a model.
//!
//! ```sh
//! cargo bench --bench sampler
//! ```
//!
//! Prints, for each case, the microseconds that a row takes, and a checksum of the tokens that were picked: it stays the
//! same as long as seeds keep their promise. Sixteen rows are picked in turn, as in a step, so that each comes from
//! beyond the core's own cache, as the rows of a model run do.

use std::io::Write;
use std::time::Instant;

use anyhow::Result;
use inference_gateway::engine::{Sampler, Sampling, Scratch};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const ROWS: usize = 16;
const VOCABULARY: usize = 49_152;
/// Steps of a case; its time is their median.
const STEPS: usize = 60;

/// A sum of uniform numbers, close to the normal distribution.
fn normal(random: &mut StdRng) -> f32 {
    (0..12).map(|_| random.random::<f32>()).sum::<f32>() - 6.0
}

/// Logits of this spread, with some tokens `lead` ahead of the rest.
fn row(random: &mut StdRng, spread: f32, lead: f32) -> Vec<f32> {
    let mut logits: Vec<f32> = (0..VOCABULARY).map(|_| normal(random) * spread).collect();
    for rank in 0..40u8 {
        let token = random.random_range(0..VOCABULARY);
        logits[token] += lead * (-0.1 * f32::from(rank)).exp();
    }
    logits
}

fn distributions() -> [(&'static str, Vec<Vec<f32>>); 3] {
    let mut random = StdRng::seed_from_u64(1);
    [("peaked", 2.5, 14.0), ("broad", 2.5, 0.0), ("flat", 0.5, 0.0)]
        .map(|(name, spread, lead)| (name, (0..ROWS).map(|_| row(&mut random, spread, lead)).collect()))
}

fn cases() -> [(&'static str, Sampling); 9] {
    let drawing = || Sampling { temperature: 1.0, ..Sampling::greedy() };
    let typical = Sampling { temperature: 0.8, top_k: 50, top_p: 0.95, ..drawing() };
    [
        ("greedy", Sampling::greedy()),
        ("greedy, penalty", Sampling { repetition_penalty: 1.1, ..Sampling::greedy() }),
        ("temperature", drawing()),
        ("top_k 50", Sampling { top_k: 50, ..drawing() }),
        ("top_k 5000", Sampling { top_k: 5_000, ..drawing() }),
        ("top_p 0.9", Sampling { top_p: 0.9, ..drawing() }),
        ("min_p 0.05", Sampling { min_p: 0.05, ..drawing() }),
        ("top_k 50, top_p 0.95", typical),
        (
            "top_k 5000, top_p 0.9, min_p 0.01",
            Sampling { top_k: 5_000, top_p: 0.9, min_p: 0.01, ..drawing() },
        ),
    ]
}

/// Median microseconds of a row, and a checksum of the tokens.
fn measure(sampling: &Sampling, rows: &[Vec<f32>]) -> Result<(f64, u32)> {
    let prompt: Vec<u32> = (0..500).map(|n| n * 7).collect();
    let mut samplers: Vec<Sampler> = (0u64..)
        .zip(rows)
        .map(|(seed, _)| Sampler::new(&Sampling { seed, ..sampling.clone() }, &prompt))
        .collect();
    let mut scratch = Scratch::default();
    let mut checksum = 0u32;
    let mut times = Vec::with_capacity(STEPS);
    for _ in 0..STEPS {
        let begin = Instant::now();
        for (sampler, logits) in samplers.iter_mut().zip(rows) {
            let token = sampler.sample(logits, &mut scratch)?.token;
            sampler.accept(token);
            checksum = checksum.wrapping_mul(31).wrapping_add(token);
        }
        times.push(begin.elapsed().as_secs_f64() * 1e6 / ROWS as f64);
    }
    times.sort_by(f64::total_cmp);
    Ok((times[STEPS / 2], checksum))
}

fn main() -> Result<()> {
    let mut out = std::io::stdout().lock();
    for (distribution, rows) in distributions() {
        for (name, sampling) in cases() {
            let (microseconds, checksum) = measure(&sampling, &rows)?;
            writeln!(out, "{distribution:8} {name:35} {microseconds:7.1} us a row   {checksum:08x}")?;
        }
    }
    Ok(())
}
