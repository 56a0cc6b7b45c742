//! The families that endpoint pickers of the Gateway API Inference Extension read, under the names that they know.
//!
//! A picker looks at one series of each, the first, so they are sums over all models of the process. They are made anew for each
//! scrape, from the project's own gauges. Their names have colons, which Prometheus keeps for recording rules: off by default.
//!
//! From: Gateway API Inference Extension, proposal 003 (model server protocol).

use prometheus::IntGaugeVec;
use prometheus::core::Collector;
use prometheus::proto::{Gauge, LabelPair, Metric, MetricFamily, MetricType};

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

/// The sum of all series of a gauge.
pub(super) fn sum(gauges: &IntGaugeVec) -> f64 {
    let families = gauges.collect();
    let all = families.iter().flat_map(MetricFamily::get_metric).map(Metric::get_gauge);
    all.map(Gauge::get_value).sum()
}

impl Sums {
    /// The families.
    pub(super) fn families(&self) -> Vec<MetricFamily> {
        let Self { waiting, running, reserved_tokens, capacity_tokens, block_tokens } = *self;
        let usage = if capacity_tokens > 0.0 { reserved_tokens / capacity_tokens } else { 0.0 };
        let blocks = capacity_tokens as usize / block_tokens.max(1);
        let numbers = [block_tokens, blocks].map(|number| number.to_string());
        let [queued, rows, cache, info] = FAMILIES;
        let gauges = [(queued, waiting), (rows, running), (cache, usage), (info, 1.0)];
        gauges.into_iter().map(|(family, value)| gauge(family, &numbers, value)).collect()
    }
}

/// A family of one gauge. Not by the crate's own gauges, which cost as much as all else that a scrape gathers.
fn gauge((name, help, labels): (&str, &str, &[&str]), label_values: &[String], value: f64) -> MetricFamily {
    let pairs = labels.iter().zip(label_values).map(|(&label, value)| {
        let mut pair = LabelPair::default();
        pair.set_name(label.to_owned());
        pair.set_value(value.clone());
        pair
    });
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_gauge(gauge);
    metric.set_label(pairs.collect());
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(MetricType::GAUGE);
    family.set_metric(vec![metric]);
    family
}
