//! Every metric of the process: name, unit, labels, buckets and help, declared once.
//!
//! Label values come from a bounded set: served model names, and enums of ours; nothing that a client sends.

mod cluster;
mod lifecycle;
mod model;

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use cluster::Cluster;
pub use cluster::WriteOutcome;
use lifecycle::Lifecycle;
pub use lifecycle::{LoadPhase, SwapKind};
use model::ModelFamilies;
pub use model::ModelMetrics;

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

/// All metrics, with the registry that gathers them.
pub struct Metrics {
    registry: Registry,
    http_requests: IntCounterVec,
    http_request_duration: Histogram,
    inference_duration: Histogram,
    active_connections: IntGauge,
    cluster: Cluster,
    lifecycle: Lifecycle,
    models: ModelFamilies,
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
            cluster: Cluster::new(&on),
            lifecycle: Lifecycle::new(&on),
            models: ModelFamilies::new(&on),
            registry,
        }
    }

    /// The metrics of a loaded model. `model` is a name that the operator chose, never one that a client sent.
    pub fn model(&self, model: &str) -> ModelMetrics {
        self.models.of(model, &self.inference_duration)
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

/// Declares metrics with the project's prefix; names are constants of this file, so a clash is a programming error.
struct Declare<'a>(&'a Registry);

const UNIQUE: &str = "metric names of this file are valid and unique";

impl Declare<'_> {
    fn register<C: Collector + Clone + 'static>(&self, metric: C) -> C {
        self.0.register(Box::new(metric.clone())).expect(UNIQUE);
        metric
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::new(full(name), help).expect(UNIQUE))
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
