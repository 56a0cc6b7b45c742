//! The last sampled request of each bucket of a latency histogram, by its trace: what to look at when a bucket is too full.
//!
//! The crate `prometheus` has no exemplars, so they stand beside its histograms, and `openmetrics.rs` puts both together. There is
//! one exemplar a bucket and series, so they take as much memory as the histograms themselves.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use prometheus::proto::{LabelPair, Metric};
use prometheus::{Histogram, HistogramVec};

/// A request that was counted in a bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exemplar {
    /// Its trace.
    pub trace_id: u128,
    /// What was observed, within the bounds of the bucket.
    pub value: f64,
    /// When.
    pub at: SystemTime,
}

/// The exemplars of all histograms that have some.
#[derive(Clone, Default)]
pub struct Exemplars(Arc<Mutex<BTreeMap<Series, Arc<Buckets>>>>);

/// Name of the family, and values of the labels in the order of their names.
type Series = (String, Vec<String>);

/// The exemplars of one series: one a bucket, the last one that of the bucket without a bound.
struct Buckets {
    bounds: Vec<f64>,
    last: Mutex<Vec<Option<Exemplar>>>,
}

impl Exemplars {
    /// Those of a series of `family`, by bucket; `None` when the family has none.
    pub fn of(&self, family: &str, metric: &Metric) -> Option<Vec<Option<Exemplar>>> {
        let values = metric.get_label().iter().map(LabelPair::value).map(str::to_owned).collect();
        let buckets = locked(&self.0).get(&(family.to_owned(), values)).cloned()?;
        let last = locked(&buckets.last).clone();
        Some(last)
    }

    fn buckets(&self, family: &str, labels: &[&str], bounds: &[f64]) -> Arc<Buckets> {
        let series = (family.to_owned(), labels.iter().map(|&label| label.to_owned()).collect());
        let new =
            || Arc::new(Buckets { bounds: bounds.to_vec(), last: Mutex::new(vec![None; bounds.len() + 1]) });
        Arc::clone(locked(&self.0).entry(series).or_insert_with(new))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Plain values are whole whatever happened to another holder.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A histogram with exemplars.
#[derive(Clone)]
pub(super) struct Traced {
    histogram: Histogram,
    buckets: Arc<Buckets>,
}

/// A family of them; its labels are declared in the order of their names.
pub(super) struct TracedFamily {
    pub(super) histograms: HistogramVec,
    pub(super) name: String,
    pub(super) bounds: &'static [f64],
    pub(super) exemplars: Exemplars,
}

impl TracedFamily {
    pub(super) fn of(&self, labels: &[&str]) -> Traced {
        let histogram = self.histograms.with_label_values(labels);
        Traced { histogram, buckets: self.exemplars.buckets(&self.name, labels, self.bounds) }
    }
}

impl Traced {
    /// The only series of a family without labels.
    pub(super) fn single(histogram: Histogram, name: &str, bounds: &[f64], exemplars: &Exemplars) -> Self {
        Self { histogram, buckets: exemplars.buckets(name, &[], bounds) }
    }

    /// Counts a value, of the request with this trace if that is sampled.
    pub(super) fn observe(&self, value: f64, trace_id: Option<u128>) {
        self.histogram.observe(value);
        self.note(value, trace_id);
    }

    /// Notes whose a value is that has been counted by itself.
    pub(super) fn note(&self, value: f64, trace_id: Option<u128>) {
        if let Some(trace_id) = trace_id {
            let bucket = self.buckets.bounds.partition_point(|bound| *bound < value);
            locked(&self.buckets.last)[bucket] = Some(Exemplar { trace_id, value, at: SystemTime::now() });
        }
    }
}
