//! How a family is declared: registered under the project's prefix, and noted for the reference page.

use std::cell::RefCell;

use prometheus::core::Collector;
use prometheus::{
    Counter, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

use super::exemplars::{Exemplars, Traced, TracedFamily};

/// Names are constants of this program, so a clash is a programming error.
const UNIQUE: &str = "metric names of this program are valid and unique";
/// What every program tells of its process has the same names everywhere.
const OF_ANY_PROCESS: &str = "process_";

/// A family as it was declared.
#[derive(Debug, Clone)]
pub(super) struct Declared {
    pub(super) name: String,
    pub(super) kind: &'static str,
    pub(super) labels: Vec<String>,
    pub(super) help: String,
    /// Upper bounds of a histogram's buckets.
    pub(super) buckets: Vec<f64>,
}

/// Declares metrics with the project's prefix.
#[derive(Default)]
pub(super) struct Declare {
    registry: Registry,
    declared: RefCell<Vec<Declared>>,
    exemplars: Exemplars,
}

impl Declare {
    /// The registry with everything, everything that was declared, and where exemplars are.
    pub(super) fn done(self) -> (Registry, Vec<Declared>, Exemplars) {
        (self.registry, self.declared.into_inner(), self.exemplars)
    }

    fn register<C: Collector + Clone + 'static>(&self, metric: C, kind: &'static str, buckets: &[f64]) -> C {
        for family in metric.desc() {
            self.declared.borrow_mut().push(Declared {
                name: family.fq_name.clone(),
                kind,
                labels: family.variable_labels.clone(),
                help: family.help.clone(),
                buckets: buckets.to_vec(),
            });
        }
        self.registry.register(Box::new(metric.clone())).expect(UNIQUE);
        metric
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::new(full(name), help).expect(UNIQUE), "counter", &[])
    }

    pub(super) fn seconds_counter(&self, name: &str, help: &str) -> Counter {
        self.register(Counter::new(full(name), help).expect(UNIQUE), "counter", &[])
    }

    /// Without labels it is a family that is there once it has a value.
    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        let options = Opts::new(full(name), help);
        self.register(IntCounterVec::new(options, labels).expect(UNIQUE), "counter", &[])
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::new(full(name), help).expect(UNIQUE), "gauge", &[])
    }

    pub(super) fn seconds_gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(Gauge::new(full(name), help).expect(UNIQUE), "gauge", &[])
    }

    /// Without labels it is a family that is there once it has a value.
    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        let options = Opts::new(full(name), help);
        self.register(IntGaugeVec::new(options, labels).expect(UNIQUE), "gauge", &[])
    }

    pub(super) fn ratios(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        let options = Opts::new(full(name), help);
        self.register(GaugeVec::new(options, labels).expect(UNIQUE), "gauge", &[])
    }

    pub(super) fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let options = HistogramOpts::new(full(name), help).buckets(buckets.to_vec());
        self.register(Histogram::with_opts(options).expect(UNIQUE), "histogram", buckets)
    }

    pub(super) fn histograms(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
        labels: &[&str],
    ) -> HistogramVec {
        let options = HistogramOpts::new(full(name), help).buckets(buckets.to_vec());
        self.register(HistogramVec::new(options, labels).expect(UNIQUE), "histogram", buckets)
    }

    /// A histogram with exemplars.
    pub(super) fn traced(&self, name: &str, help: &str, buckets: &[f64]) -> Traced {
        Traced::single(self.histogram(name, help, buckets), &full(name), buckets, &self.exemplars)
    }

    /// A family of histograms with exemplars, one for each model.
    pub(super) fn traced_by_model(&self, name: &str, help: &str, bounds: &'static [f64]) -> TracedFamily {
        let histograms = self.histograms(name, help, bounds, &["model"]);
        TracedFamily { histograms, name: full(name), bounds, exemplars: self.exemplars.clone() }
    }
}

fn full(name: &str) -> String {
    if name.starts_with(OF_ANY_PROCESS) { name.to_owned() } else { format!("inference_gateway_{name}") }
}
