//! Every metric of the process: name, unit, labels, buckets and help, declared once.
//!
//! Label values come from a bounded set: served model names, and enums of ours; nothing that a client sends.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// Requests take from a millisecond (a refusal) to minutes (a long generation).
const REQUEST_SECONDS: &[f64] =
    &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];
/// The buckets that users of language model servers know for the first token.
const FIRST_TOKEN_SECONDS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0,
];
/// From a small model on a fast core to a large one on a slow one.
const TOKEN_SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];
/// Loading takes from milliseconds (a tiny file) to half an hour (a download).
const LOAD_SECONDS: &[f64] =
    &[0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0];
const BATCH_ROWS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

/// A step of bringing a model into service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadPhase {
    /// Files are brought to this machine.
    Fetch,
    /// Tokenizer and graph are loaded.
    Load,
    /// A first generation is run.
    Warm,
}

impl LoadPhase {
    /// Value of the label `phase`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Load => "load",
            Self::Warm => "warm",
        }
    }
}

/// How a generation ended, as counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GenerationEnd {
    /// The model ended its text.
    EndOfText,
    /// A stop string came.
    Stop,
    /// The token limit was reached.
    Length,
    /// The client went away.
    Cancelled,
    /// The model run failed.
    Error,
}

impl GenerationEnd {
    /// Value of the label `finish_reason`.
    pub fn label(self) -> &'static str {
        match self {
            Self::EndOfText => "eos",
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
            Self::Error => "error",
        }
    }
}

/// All metrics, with the registry that gathers them.
pub struct Metrics {
    registry: Registry,
    http_requests: IntCounterVec,
    http_request_duration: Histogram,
    inference_duration: Histogram,
    active_connections: IntGauge,
    load_duration: HistogramVec,
    model_ready: IntGaugeVec,
    models: ModelFamilies,
}

/// Families with a label `model`, from which [`ModelMetrics`] takes its own children.
struct ModelFamilies {
    prompt_tokens: IntCounterVec,
    generated_tokens: IntCounterVec,
    generations: IntCounterVec,
    engine_failures: IntCounterVec,
    time_to_first_token: HistogramVec,
    time_per_output_token: HistogramVec,
    requests_running: IntGaugeVec,
    requests_waiting: IntGaugeVec,
    rows: IntGaugeVec,
    cache_capacity: IntGaugeVec,
    cache_reserved: IntGaugeVec,
    prefix_bytes: IntGaugeVec,
    prefix_queried: IntCounterVec,
    prefix_hit: IntCounterVec,
    draft_proposed: IntCounterVec,
    draft_accepted: IntCounterVec,
    queue_duration: HistogramVec,
    prefill_duration: HistogramVec,
    step_duration: HistogramVec,
    step_rows: HistogramVec,
}

/// The metrics of one served model; looking up labels is done once.
#[derive(Clone)]
pub struct ModelMetrics {
    prompt_tokens: IntCounter,
    generated_tokens: IntCounter,
    generations: IntCounterVec,
    engine_failures: IntCounterVec,
    model: String,
    time_to_first_token: Histogram,
    time_per_output_token: Histogram,
    requests_running: IntGauge,
    requests_waiting: IntGauge,
    rows: IntGauge,
    cache_capacity: IntGauge,
    cache_reserved: IntGauge,
    prefix_bytes: IntGauge,
    prefix_queried: IntCounter,
    prefix_hit: IntCounter,
    draft_proposed: IntCounter,
    draft_accepted: IntCounter,
    queue_duration: Histogram,
    prefill_duration: Histogram,
    step_duration: Histogram,
    step_rows: Histogram,
    inference_duration: Histogram,
}

impl ModelFamilies {
    fn new(on: &Declare<'_>) -> Self {
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
            time_to_first_token: on.histograms(
                "time_to_first_token_seconds",
                "Time from an accepted generation to its first token, the wait in the queue included.",
                FIRST_TOKEN_SECONDS,
                &["model"],
            ),
            time_per_output_token: on.histograms(
                "time_per_output_token_seconds",
                "Mean time of each output token after the first, one observation a generation.",
                TOKEN_SECONDS,
                &["model"],
            ),
            requests_running: on.gauges("requests_running", "Generations in a row of the batch.", &["model"]),
            requests_waiting: on.gauges("requests_waiting", "Generations waiting for a row.", &["model"]),
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
            queue_duration: on.histograms(
                "queue_duration_seconds",
                "Time that generations waited for a row.",
                FIRST_TOKEN_SECONDS,
                &["model"],
            ),
            prefill_duration: on.histograms(
                "prefill_duration_seconds",
                "Time from the row to the first token.",
                FIRST_TOKEN_SECONDS,
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
}

impl Metrics {
    /// Declares and registers everything.
    pub fn new() -> Self {
        let registry = Registry::new();
        let on = Declare(&registry);
        Self {
            http_requests: on.counters(
                "http_requests_total",
                "HTTP requests answered, by method and status code.",
                &["method", "status"],
            ),
            http_request_duration: on.histogram(
                "http_request_duration_seconds",
                "Time from the head of an HTTP request to the end of its answer.",
                REQUEST_SECONDS,
            ),
            inference_duration: on.histogram(
                "inference_duration_seconds",
                "Time from an accepted generation to its last token, the wait in the queue included.",
                REQUEST_SECONDS,
            ),
            active_connections: on.gauge("active_connections", "Open connections of the API listener."),
            load_duration: on.histograms(
                "model_load_duration_seconds",
                "Time of each phase of bringing a model into service.",
                LOAD_SECONDS,
                &["model", "phase"],
            ),
            model_ready: on.gauges("model_ready", "1 while the model answers, else 0.", &["model"]),
            models: ModelFamilies::new(&on),
            registry,
        }
    }

    /// The metrics of a served model. `model` is a name that the operator chose, never one that a client sent.
    pub fn model(&self, model: &str) -> ModelMetrics {
        let ModelFamilies {
            prompt_tokens,
            generated_tokens,
            generations,
            engine_failures,
            time_to_first_token,
            time_per_output_token,
            requests_running,
            requests_waiting,
            rows,
            cache_capacity,
            cache_reserved,
            prefix_bytes,
            prefix_queried,
            prefix_hit,
            draft_proposed,
            draft_accepted,
            queue_duration,
            prefill_duration,
            step_duration,
            step_rows,
        } = &self.models;
        let label = &[model];
        ModelMetrics {
            prompt_tokens: prompt_tokens.with_label_values(label),
            generated_tokens: generated_tokens.with_label_values(label),
            generations: generations.clone(),
            engine_failures: engine_failures.clone(),
            model: model.to_owned(),
            time_to_first_token: time_to_first_token.with_label_values(label),
            time_per_output_token: time_per_output_token.with_label_values(label),
            requests_running: requests_running.with_label_values(label),
            requests_waiting: requests_waiting.with_label_values(label),
            rows: rows.with_label_values(label),
            cache_capacity: cache_capacity.with_label_values(label),
            cache_reserved: cache_reserved.with_label_values(label),
            prefix_bytes: prefix_bytes.with_label_values(label),
            prefix_queried: prefix_queried.with_label_values(label),
            prefix_hit: prefix_hit.with_label_values(label),
            draft_proposed: draft_proposed.with_label_values(label),
            draft_accepted: draft_accepted.with_label_values(label),
            queue_duration: queue_duration.with_label_values(label),
            prefill_duration: prefill_duration.with_label_values(label),
            step_duration: step_duration.with_label_values(label),
            step_rows: step_rows.with_label_values(label),
            inference_duration: self.inference_duration.clone(),
        }
    }

    /// Counts an answered HTTP request. `method` is a method of HTTP itself or `other`.
    pub fn http_request(&self, method: &'static str, status: u16, duration: Duration) {
        self.http_requests.with_label_values(&[method, &status.to_string()]).inc();
        self.http_request_duration.observe(duration.as_secs_f64());
    }

    /// Counts a connection of the API listener as open until the guard is dropped.
    pub fn connection_opened(&self) -> OpenConnection {
        self.active_connections.inc();
        OpenConnection(self.active_connections.clone())
    }

    /// Records the time of a phase of loading.
    pub fn model_load(&self, model: &str, phase: LoadPhase, duration: Duration) {
        self.load_duration.with_label_values(&[model, phase.label()]).observe(duration.as_secs_f64());
    }

    /// Tells whether a model answers.
    pub fn model_ready(&self, model: &str, ready: bool) {
        self.model_ready.with_label_values(&[model]).set(i64::from(ready));
    }

    /// Everything, for an exposition.
    pub fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }
}

/// An open connection of the API listener.
pub struct OpenConnection(IntGauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl ModelMetrics {
    /// A generation was accepted.
    pub fn accepted(&self, prompt_tokens: usize) {
        self.prompt_tokens.inc_by(prompt_tokens as u64);
    }

    /// The first token came `since_accepted` after the request was accepted.
    pub fn first_token(&self, since_accepted: Duration) {
        self.time_to_first_token.observe(since_accepted.as_secs_f64());
    }

    /// A generation ended. `decode` is the time from its first to its last token.
    pub fn generation(&self, end: GenerationEnd, tokens: usize, total: Duration, decode: Duration) {
        self.generations.with_label_values(&[self.model.as_str(), end.label()]).inc();
        self.generated_tokens.inc_by(tokens as u64);
        self.inference_duration.observe(total.as_secs_f64());
        if tokens > 1 {
            self.time_per_output_token.observe(decode.as_secs_f64() / (tokens - 1) as f64);
        }
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

    /// Sequences in rows and in the queue, and tokens of cache that those in rows may come to need.
    pub(crate) fn load(&self, running: usize, waiting: usize, reserved_tokens: usize) {
        self.requests_running.set(running as i64);
        self.requests_waiting.set(waiting as i64);
        self.cache_reserved.set(reserved_tokens as i64);
    }

    /// A sequence got a row after `waited`.
    pub(crate) fn admitted(&self, waited: Duration) {
        self.queue_duration.observe(waited.as_secs_f64());
    }

    /// A sequence has its first token.
    pub(crate) fn prefilled(&self, duration: Duration) {
        self.prefill_duration.observe(duration.as_secs_f64());
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

/// Declares metrics with the project's prefix; names are constants of this file, so a clash is a programming error.
struct Declare<'a>(&'a Registry);

const UNIQUE: &str = "metric names of this file are valid and unique";

impl Declare<'_> {
    fn register<C: Collector + Clone + 'static>(&self, metric: C) -> C {
        self.0.register(Box::new(metric.clone())).expect(UNIQUE);
        metric
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(full(name), help), labels).expect(UNIQUE))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::new(full(name), help).expect(UNIQUE))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register(IntGaugeVec::new(Opts::new(full(name), help), labels).expect(UNIQUE))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let options = HistogramOpts::new(full(name), help).buckets(buckets.to_vec());
        self.register(Histogram::with_opts(options).expect(UNIQUE))
    }

    fn histograms(&self, name: &str, help: &str, buckets: &[f64], labels: &[&str]) -> HistogramVec {
        let options = HistogramOpts::new(full(name), help).buckets(buckets.to_vec());
        self.register(HistogramVec::new(options, labels).expect(UNIQUE))
    }
}

fn full(name: &str) -> String {
    format!("inference_gateway_{name}")
}
