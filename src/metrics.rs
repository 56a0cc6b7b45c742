//! Every metric of the process: name, unit, labels, buckets and help, declared once; `docs/metrics.md` is printed from that.
//!
//! Label values come from a bounded set: served model names, and enums of ours; nothing that a client sends.

mod access;
mod cluster;
mod declare;
mod exemplars;
mod family;
mod latencies;
mod lifecycle;
mod model;
mod picker;
mod process;
mod reference;

use std::time::Duration;

use prometheus::{IntCounter, IntGauge};

use crate::openmetrics::{Format, Writer};

use access::AccessFamilies;
pub use access::{CallerMetrics, FollowedFile, Refusal, ReviewOutcome, Stranger};
use cluster::Cluster;
pub use cluster::WriteOutcome;
use declare::{Declare, Declared, Families};
use exemplars::Traced;
use family::Family;
use lifecycle::Lifecycle;
pub use lifecycle::{LoadPhase, SwapKind};
use model::ModelFamilies;
pub use model::{EndedGeneration, ModelMetrics};
use process::Process;

/// Labels of a family that has none, and is there only once it has a value.
const SINGLE: &[&str] = &[];

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

/// What became of spans that were to be sent to a collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanOutcome {
    /// The collector has them.
    Exported,
    /// The collector did not take them in time.
    Failed,
    /// There was no room for them to wait.
    Dropped,
}

impl SpanOutcome {
    /// Value of the label `outcome`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Exported => "exported",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

/// All metrics.
pub struct Metrics {
    families: Families,
    declared: Vec<Declared>,
    /// Tokens of a block, where endpoint pickers are told.
    picker_block_tokens: Option<usize>,
    http_requests: Family<IntCounter>,
    http_request_duration: Traced,
    inference_duration: Traced,
    active_connections: IntGauge,
    trace_spans: Family<IntCounter>,
    refused_connections: IntCounter,
    ready: Family<IntGauge>,
    access: AccessFamilies,
    cluster: Cluster,
    lifecycle: Lifecycle,
    models: ModelFamilies,
    process: Process,
}

impl Metrics {
    /// Declares and registers everything.
    pub fn new() -> Self {
        let on = Declare::default();
        let build = on.gauges("build_info", "1 for the version that runs.", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let metrics = Self {
            families: Families::new(),
            declared: Vec::new(),
            picker_block_tokens: None,
            http_requests: on.counters(
                "http_requests_total",
                "HTTP requests answered, by method and status code.",
                &["method", "status"],
            ),
            http_request_duration: on.traced(
                "http_request_duration_seconds",
                "Time from the head of an HTTP request to the end of its answer.",
                REQUEST_SECONDS,
            ),
            inference_duration: on.traced(
                "inference_duration_seconds",
                "Time from an accepted generation to its last token, the wait in the queue included.",
                REQUEST_SECONDS,
            ),
            active_connections: on.gauge("active_connections", "Open connections of the API listener."),
            trace_spans: on.counters(
                "trace_spans_total",
                "Spans that were to be sent to a collector, by outcome: exported, failed, dropped.",
                &["outcome"],
            ),
            refused_connections: on.counter(
                "refused_connections_total",
                "Connections of the API listener that were closed because there were as many as there may be.",
            ),
            ready: on.gauges("ready", "1 while `/readyz` of this gateway says so, else 0.", &[]),
            access: AccessFamilies::new(&on),
            cluster: Cluster::new(&on),
            lifecycle: Lifecycle::new(&on),
            models: ModelFamilies::new(&on),
            process: Process::new(&on),
        };
        let (families, declared) = on.done();
        Self { families, declared, ..metrics }
    }

    /// Adds the families that endpoint pickers look for; a block has so many tokens.
    #[must_use]
    pub fn for_pickers(self, block_tokens: usize) -> Self {
        Self { picker_block_tokens: Some(block_tokens), ..self }
    }

    /// The metrics of a loaded model. `model` is a name that the operator chose, never one that a client sent.
    pub fn model(&self, model: &str) -> ModelMetrics {
        self.models.of(model, &self.inference_duration)
    }

    /// Counts an answered HTTP request. `method` is a method of HTTP itself or `other`; of sampled requests the trace is told.
    pub fn http_request(
        &self,
        method: &'static str,
        status: u16,
        duration: Duration,
        trace_id: Option<u128>,
    ) {
        self.http_requests.with_label_values(&[method, &status.to_string()]).inc();
        self.http_request_duration.observe(duration.as_secs_f64(), trace_id);
    }

    /// Counts spans by what became of them.
    pub(crate) fn spans(&self, outcome: SpanOutcome, spans: usize) {
        self.trace_spans.with_label_values(&[outcome.label()]).inc_by(spans as u64);
    }

    /// Counts a connection of the API listener as open until the guard is dropped.
    pub fn connection_opened(&self) -> OpenConnection {
        self.active_connections.inc();
        OpenConnection(self.active_connections.clone())
    }

    /// A connection was one too many.
    pub fn connection_refused(&self) {
        self.refused_connections.inc();
    }

    /// Tells whether the process is ready.
    pub fn ready(&self, ready: bool) {
        self.ready.with_label_values(SINGLE).set(i64::from(ready));
    }

    /// Everything that has a value, by its name.
    pub fn exposition(&self, format: Format) -> String {
        self.process.refresh();
        self.models.refresh();
        let mut writer = Writer::new(format);
        for family in self.families.values() {
            family.write(&mut writer);
        }
        if let Some(block_tokens) = self.picker_block_tokens {
            self.models.sums(block_tokens).write(&mut writer);
        }
        writer.finish()
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

#[cfg(test)]
mod tests;
