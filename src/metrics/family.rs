//! A family: the metrics of one name, told apart by the values of their labels.
//!
//! The metrics are those of the crate `prometheus`. Its families and its registry are not used, because for each scrape they copy
//! every name, help and label: thousands of texts from all over the memory. A model that decodes leaves nothing of that in the
//! processor's caches, so that took two fifths of a scrape's time. Here each metric stands beside its labels as they are
//! written.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use prometheus::core::{Atomic, GenericCounter, GenericGauge, Metric, Number};
use prometheus::{Histogram, HistogramOpts};

use crate::openmetrics::{self, Kind, Writer};

/// Names are constants of this program.
const VALID: &str = "metric names of this program are valid";

/// A metric that a family can have.
pub(super) trait Sample: Clone + Send + Sync + 'static {
    /// What it is.
    const KIND: Kind;

    /// A new one. `bounds` are the upper bounds of a histogram's buckets.
    fn new(name: &str, help: &str, bounds: &'static [f64]) -> prometheus::Result<Self>;

    /// Writes it with these labels.
    fn write(&self, labels: &str, writer: &mut Writer);
}

/// A family; all clones are one.
pub(super) struct Family<M>(Arc<Inner<M>>);

struct Inner<M> {
    name: String,
    help: String,
    labels: &'static [&'static str],
    bounds: &'static [f64],
    /// By their labels as they are written.
    series: RwLock<BTreeMap<String, Series<M>>>,
}

struct Series<M> {
    /// Of the labels, in the order in which these were declared.
    values: Vec<String>,
    metric: M,
}

/// A family of any kind, for an exposition.
pub(super) trait Exposed: Send + Sync {
    /// Writes it, if it has a metric.
    fn write(&self, writer: &mut Writer);
}

impl<M> Clone for Family<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M: Sample> Family<M> {
    pub(super) fn new(
        name: String,
        help: &str,
        labels: &'static [&'static str],
        bounds: &'static [f64],
    ) -> Self {
        // What is wrong with a name is seen here, and not once there is a value.
        let _valid = M::new(&name, help, bounds).expect(VALID);
        let help = help.to_owned();
        Self(Arc::new(Inner { name, help, labels, bounds, series: RwLock::default() }))
    }

    /// The metric with these values of the labels, in the order of their declaration; a new one if there is none.
    pub(super) fn with_label_values(&self, values: &[&str]) -> M {
        let Inner { name, help, labels, bounds, .. } = &*self.0;
        assert_eq!(labels.len(), values.len(), "{name} has labels {labels:?}");
        let written = openmetrics::labels(labels.iter().copied().zip(values.iter().copied()));
        if let Some(series) = self.read().get(&written) {
            return series.metric.clone();
        }
        let new = || Series {
            values: values.iter().map(|&value| value.to_owned()).collect(),
            metric: M::new(name, help, bounds).expect(VALID),
        };
        self.write().entry(written).or_insert_with(new).metric.clone()
    }

    /// Looks at every metric, with the values of its labels.
    pub(super) fn each(&self, mut look: impl FnMut(&[String], &M)) {
        for Series { values, metric } in self.read().values() {
            look(values, metric);
        }
    }

    /// Forgets the metrics that have other values of labels than these.
    pub(super) fn retain(&self, is_kept: impl Fn(&[String]) -> bool) {
        self.write().retain(|_labels, series| is_kept(&series.values));
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<String, Series<M>>> {
        // A map is whole whatever happened to another holder.
        self.0.series.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<String, Series<M>>> {
        self.0.series.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: Sample> Exposed for Family<M> {
    fn write(&self, writer: &mut Writer) {
        let series = self.read();
        if series.is_empty() {
            return;
        }
        writer.family(&self.0.name, M::KIND, &self.0.help);
        for (labels, Series { metric, .. }) in &*series {
            metric.write(labels, writer);
        }
    }
}

impl<P: Atomic + 'static> Sample for GenericCounter<P> {
    const KIND: Kind = Kind::Counter;

    fn new(name: &str, help: &str, _bounds: &'static [f64]) -> prometheus::Result<Self> {
        Self::new(name, help)
    }

    fn write(&self, labels: &str, writer: &mut Writer) {
        writer.value(labels, self.get().into_f64());
    }
}

impl<P: Atomic + 'static> Sample for GenericGauge<P> {
    const KIND: Kind = Kind::Gauge;

    fn new(name: &str, help: &str, _bounds: &'static [f64]) -> prometheus::Result<Self> {
        Self::new(name, help)
    }

    fn write(&self, labels: &str, writer: &mut Writer) {
        writer.value(labels, self.get().into_f64());
    }
}

impl Sample for Histogram {
    const KIND: Kind = Kind::Histogram;

    fn new(name: &str, help: &str, bounds: &'static [f64]) -> prometheus::Result<Self> {
        Self::with_opts(HistogramOpts::new(name, help).buckets(bounds.to_vec()))
    }

    fn write(&self, labels: &str, writer: &mut Writer) {
        writer.histogram(labels, self.metric().get_histogram(), &[]);
    }
}
