//! The metrics of a loaded model: what its requests and its engine do.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use prometheus::{Gauge, Histogram, IntCounter, IntGauge};

use super::exemplars::Traced;
use super::family::Family;
use super::latencies::{Latencies, LatencyFamilies};
use super::picker::Sums;
use super::{Declare, GenerationEnd, TOKEN_SECONDS};

/// Powers of four, as the conventions of OpenTelemetry have them for tokens of a request.
const TOKENS: &[f64] = &[1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0];
const BATCH_ROWS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

/// Families with a label `model`, from which [`ModelMetrics`] takes its own children.
pub(super) struct ModelFamilies {
    prompt_tokens: Family<IntCounter>,
    generated_tokens: Family<IntCounter>,
    generations: Family<IntCounter>,
    engine_failures: Family<IntCounter>,
    prompt_sizes: Family<Histogram>,
    output_sizes: Family<Histogram>,
    latencies: LatencyFamilies,
    requests_running: Family<IntGauge>,
    requests_waiting: Family<IntGauge>,
    queue_limit: Family<IntGauge>,
    rows: Family<IntGauge>,
    cache_capacity: Family<IntGauge>,
    cache_reserved: Family<IntGauge>,
    cache_usage: Family<Gauge>,
    prefix_bytes: Family<IntGauge>,
    prefix_queried: Family<IntCounter>,
    prefix_hit: Family<IntCounter>,
    draft_proposed: Family<IntCounter>,
    draft_accepted: Family<IntCounter>,
    step_duration: Family<Histogram>,
    step_rows: Family<Histogram>,
}

/// The metrics of one loaded model; looking up labels is done once. While a model is replaced, the old and the new one
/// add up under their common name.
#[derive(Clone)]
pub struct ModelMetrics {
    prompt_tokens: IntCounter,
    generated_tokens: IntCounter,
    generations: Family<IntCounter>,
    engine_failures: Family<IntCounter>,
    model: String,
    prompt_sizes: Histogram,
    output_sizes: Histogram,
    latencies: Latencies,
    requests_running: Share,
    requests_waiting: Share,
    queue_limit: Share,
    rows: Share,
    cache_capacity: Share,
    cache_reserved: Share,
    prefix_bytes: Share,
    prefix_queried: IntCounter,
    prefix_hit: IntCounter,
    draft_proposed: IntCounter,
    draft_accepted: IntCounter,
    step_duration: Histogram,
    step_rows: Histogram,
    inference_duration: Traced,
}

/// A generation that has ended.
#[derive(Debug, Clone, Copy)]
pub struct EndedGeneration {
    /// How.
    pub end: GenerationEnd,
    /// Tokens that it has.
    pub tokens: usize,
    /// Time since it was accepted.
    pub total: Duration,
    /// Time from its first to its last token.
    pub decode: Duration,
    /// The trace of its request, if that is sampled.
    pub trace_id: Option<u128>,
}

impl ModelFamilies {
    pub(super) fn new(on: &Declare) -> Self {
        Self {
            prompt_tokens: on.counters("prompt_tokens_total", "Tokens of accepted prompts.", &["model"]),
            generated_tokens: on.counters("generated_tokens_total", "Tokens generated.", &["model"]),
            generations: on.counters(
                "generations_total",
                "Generations ended, by reason: eos, stop, length, cancelled, error.",
                &["model", "finish_reason"],
            ),
            engine_failures: on.counters(
                "engine_failures_total",
                "Generations that the engine could not go on with, by kind: run, not_finite.",
                &["model", "kind"],
            ),
            prompt_sizes: on.histograms(
                "generation_prompt_tokens",
                "Tokens of the prompt of an accepted generation.",
                TOKENS,
                &["model"],
            ),
            output_sizes: on.histograms(
                "generation_output_tokens",
                "Tokens that a generation has when it ends.",
                TOKENS,
                &["model"],
            ),
            latencies: LatencyFamilies::new(on),
            requests_running: on.gauges("requests_running", "Generations in a row of the batch.", &["model"]),
            requests_waiting: on.gauges("requests_waiting", "Generations waiting for a row.", &["model"]),
            queue_limit: on.gauges(
                "queue_limit",
                "Generations that may wait for a row; one more is refused with status 429.",
                &["model"],
            ),
            rows: on.gauges("rows", "Generations that can be in a row at once.", &["model"]),
            cache_capacity: on.gauges(
                "cache_capacity_tokens",
                "Tokens of cache that running generations may come to need.",
                &["model"],
            ),
            cache_reserved: on.gauges(
                "cache_reserved_tokens",
                "Tokens of cache that running generations may come to need now.",
                &["model"],
            ),
            cache_usage: on.ratios(
                "cache_usage_ratio",
                "Part of the cache that running generations may come to need now, from 0 to 1; 0 where it has no bound.",
                &["model"],
            ),
            prefix_bytes: on.gauges("prefix_bytes", "Memory of kept beginnings of prompts.", &["model"]),
            prefix_queried: on.counters(
                "prefix_queried_tokens_total",
                "Prompt tokens for which a kept beginning was looked for.",
                &["model"],
            ),
            prefix_hit: on.counters(
                "prefix_hit_tokens_total",
                "Prompt tokens that were copied from a kept beginning, not computed.",
                &["model"],
            ),
            draft_proposed: on.counters(
                "draft_proposed_tokens_total",
                "Tokens that were drafted from the text so far, and verified.",
                &["model"],
            ),
            draft_accepted: on.counters(
                "draft_accepted_tokens_total",
                "Drafted tokens that were the ones picked.",
                &["model"],
            ),
            step_duration: on.histograms(
                "step_duration_seconds",
                "Time of an engine step: a piece of a prompt, if any, and one token or a draft for each decoding row.",
                TOKEN_SECONDS,
                &["model"],
            ),
            step_rows: on.histograms(
                "step_rows",
                "Rows that decoded together in an engine step.",
                BATCH_ROWS,
                &["model"],
            ),
        }
    }

    /// Brings up to date what follows from other metrics.
    pub(super) fn refresh(&self) {
        self.cache_capacity.each(|values, capacity| {
            let label = &[values[0].as_str()];
            let (reserved, capacity) =
                (self.cache_reserved.with_label_values(label).get() as f64, capacity.get() as f64);
            let usage = if capacity > 0.0 { reserved / capacity } else { 0.0 };
            self.cache_usage.with_label_values(label).set(usage);
        });
    }

    /// What endpoint pickers are told.
    pub(super) fn sums(&self, block_tokens: usize) -> Sums {
        let sum = |gauges: &Family<IntGauge>| {
            let mut sum = 0.0;
            gauges.each(|_values, gauge| sum += gauge.get() as f64);
            sum
        };
        Sums {
            waiting: sum(&self.requests_waiting),
            running: sum(&self.requests_running),
            reserved_tokens: sum(&self.cache_reserved),
            capacity_tokens: sum(&self.cache_capacity),
            block_tokens,
        }
    }

    /// The children of one model.
    pub(super) fn of(&self, model: &str, inference_duration: &Traced) -> ModelMetrics {
        let ModelFamilies {
            prompt_tokens,
            generated_tokens,
            generations,
            engine_failures,
            prompt_sizes,
            output_sizes,
            latencies,
            requests_running,
            requests_waiting,
            queue_limit,
            rows,
            cache_capacity,
            cache_reserved,
            cache_usage: _,
            prefix_bytes,
            prefix_queried,
            prefix_hit,
            draft_proposed,
            draft_accepted,
            step_duration,
            step_rows,
        } = self;
        let label = &[model];
        ModelMetrics {
            prompt_tokens: prompt_tokens.with_label_values(label),
            generated_tokens: generated_tokens.with_label_values(label),
            generations: generations.clone(),
            engine_failures: engine_failures.clone(),
            model: model.to_owned(),
            prompt_sizes: prompt_sizes.with_label_values(label),
            output_sizes: output_sizes.with_label_values(label),
            latencies: latencies.of(model),
            requests_running: Share::of(requests_running.with_label_values(label)),
            requests_waiting: Share::of(requests_waiting.with_label_values(label)),
            queue_limit: Share::of(queue_limit.with_label_values(label)),
            rows: Share::of(rows.with_label_values(label)),
            cache_capacity: Share::of(cache_capacity.with_label_values(label)),
            cache_reserved: Share::of(cache_reserved.with_label_values(label)),
            prefix_bytes: Share::of(prefix_bytes.with_label_values(label)),
            prefix_queried: prefix_queried.with_label_values(label),
            prefix_hit: prefix_hit.with_label_values(label),
            draft_proposed: draft_proposed.with_label_values(label),
            draft_accepted: draft_accepted.with_label_values(label),
            step_duration: step_duration.with_label_values(label),
            step_rows: step_rows.with_label_values(label),
            inference_duration: inference_duration.clone(),
        }
    }
}

impl ModelMetrics {
    /// A generation was accepted.
    pub fn accepted(&self, prompt_tokens: usize) {
        self.prompt_tokens.inc_by(prompt_tokens as u64);
        self.prompt_sizes.observe(prompt_tokens as f64);
    }

    /// The first token came `since_accepted` after the request was accepted. Of sampled requests the trace is told.
    pub fn first_token(&self, since_accepted: Duration, trace_id: Option<u128>) {
        self.latencies.time_to_first_token.observe(since_accepted.as_secs_f64(), trace_id);
    }

    /// The engine, which knows of no traces, has counted that a generation `queued` and was prefilled: whose it was.
    pub fn engine_phases(&self, queued: Duration, prefill: Duration, trace_id: Option<u128>) {
        self.latencies.queue_duration.note(queued.as_secs_f64(), trace_id);
        self.latencies.prefill_duration.note(prefill.as_secs_f64(), trace_id);
    }

    /// A generation ended.
    pub fn generation(&self, ended: EndedGeneration) {
        let EndedGeneration { end, tokens, total, decode, trace_id } = ended;
        self.generations.with_label_values(&[self.model.as_str(), end.label()]).inc();
        self.generated_tokens.inc_by(tokens as u64);
        self.output_sizes.observe(tokens as f64);
        self.inference_duration.observe(total.as_secs_f64(), trace_id);
        self.latencies.generation_duration.observe(total.as_secs_f64(), trace_id);
        if tokens > 1 {
            self.latencies.decode_duration.observe(decode.as_secs_f64(), trace_id);
            self.latencies
                .time_per_output_token
                .observe(decode.as_secs_f64() / (tokens - 1) as f64, trace_id);
        }
    }

    /// Generations in a row, and those that wait for one, of this loaded model alone.
    pub fn running_and_waiting(&self) -> (usize, usize) {
        let of = |share: &Share| usize::try_from(share.get()).unwrap_or_default();
        (of(&self.requests_running), of(&self.requests_waiting))
    }

    /// The engine could not go on with a generation; `kind` is `run` or `not_finite`.
    pub(crate) fn engine_failed(&self, kind: &'static str) {
        self.engine_failures.with_label_values(&[self.model.as_str(), kind]).inc();
    }

    /// What the engine can hold. Without a bound on the cache its capacity is not told.
    pub(crate) fn capacity(&self, rows: usize, cache_tokens: usize) {
        self.rows.set(rows as i64);
        self.cache_capacity.set(i64::try_from(cache_tokens).unwrap_or_default());
    }

    /// Generations that may wait for a row.
    pub(crate) fn queue_limit(&self, limit: usize) {
        self.queue_limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
    }

    /// Sequences in rows and in the queue, and tokens of cache that those in rows may come to need.
    pub(crate) fn load(&self, running: usize, waiting: usize, reserved_tokens: usize) {
        self.requests_running.set(running as i64);
        self.requests_waiting.set(waiting as i64);
        self.cache_reserved.set(reserved_tokens as i64);
    }

    /// A sequence got a row after `waited`.
    pub(crate) fn admitted(&self, waited: Duration) {
        self.latencies.queue_duration.observe(waited.as_secs_f64(), None);
    }

    /// A sequence has its first token.
    pub(crate) fn prefilled(&self, duration: Duration) {
        self.latencies.prefill_duration.observe(duration.as_secs_f64(), None);
    }

    /// Of a prompt of `tokens` tokens, `copied` were known.
    pub(crate) fn prefix(&self, tokens: usize, copied: usize) {
        self.prefix_queried.inc_by(tokens as u64);
        self.prefix_hit.inc_by(copied as u64);
    }

    /// Of `proposed` drafted tokens, `accepted` were the ones picked.
    pub(crate) fn draft(&self, proposed: usize, accepted: usize) {
        self.draft_proposed.inc_by(proposed as u64);
        self.draft_accepted.inc_by(accepted as u64);
    }

    /// Memory of kept beginnings.
    pub(crate) fn prefix_bytes(&self, bytes: usize) {
        self.prefix_bytes.set(bytes as i64);
    }

    /// An engine step with `rows` decoding rows.
    pub(crate) fn step(&self, rows: usize, duration: Duration) {
        self.step_duration.observe(duration.as_secs_f64());
        if rows > 0 {
            self.step_rows.observe(rows as f64);
        }
    }
}

/// What one loaded model adds to a gauge; all clones are one share, which is taken back when the last one is dropped.
#[derive(Clone)]
struct Share(Arc<Part>);

struct Part {
    gauge: IntGauge,
    value: AtomicI64,
}

impl Share {
    fn of(gauge: IntGauge) -> Self {
        Self(Arc::new(Part { gauge, value: AtomicI64::new(0) }))
    }

    fn get(&self) -> i64 {
        self.0.value.load(Ordering::Relaxed)
    }

    fn set(&self, value: i64) {
        self.0.gauge.add(value - self.0.value.swap(value, Ordering::Relaxed));
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.gauge.sub(*self.value.get_mut());
    }
}
