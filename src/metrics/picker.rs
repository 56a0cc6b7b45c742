//! The families that endpoint pickers of the Gateway API Inference Extension read, under the names that they know.
//!
//! A picker looks at one series of each, the first, so they are sums over all models of the process. They are made anew for each
//! scrape, from the project's own gauges. Their names have colons, which Prometheus keeps for recording rules: off by default.
//!
//! From: Gateway API Inference Extension, proposal 003 (model server protocol).

use crate::openmetrics::{self, Kind, Writer};

/// Names and help texts of the gauges, for the reference page too.
pub(super) const FAMILIES: [(&str, &str, &[&str]); 4] = [
    ("vllm:num_requests_waiting", "Generations waiting for a row, of all models.", &[]),
    ("vllm:num_requests_running", "Generations in a row of the batch, of all models.", &[]),
    (
        "vllm:kv_cache_usage_perc",
        "Part of all caches that running generations may come to need now, from 0 to 1; 0 where they have no bound.",
        &[],
    ),
    (
        "vllm:cache_config_info",
        "1; tokens of a block, and blocks of the caches of all models.",
        &["block_size", "num_gpu_blocks"],
    ),
];

/// What the families are made from.
pub(super) struct Sums {
    pub(super) waiting: f64,
    pub(super) running: f64,
    pub(super) reserved_tokens: f64,
    pub(super) capacity_tokens: f64,
    /// Tokens of a prompt whose beginning is kept as one.
    pub(super) block_tokens: usize,
}

impl Sums {
    /// Writes the families.
    pub(super) fn write(&self, writer: &mut Writer) {
        let Self { waiting, running, reserved_tokens, capacity_tokens, block_tokens } = *self;
        let usage = if capacity_tokens > 0.0 { reserved_tokens / capacity_tokens } else { 0.0 };
        let blocks = capacity_tokens as usize / block_tokens.max(1);
        let numbers = [block_tokens, blocks].map(|number| number.to_string());
        for ((name, help, names), value) in FAMILIES.into_iter().zip([waiting, running, usage, 1.0]) {
            writer.family(name, Kind::Gauge, help);
            let values = numbers.iter().map(String::as_str);
            writer.value(&openmetrics::labels(names.iter().copied().zip(values)), value);
        }
    }
}
