//! The last sampled request of each bucket of a latency histogram, by its trace: what to look at when a bucket is too full.
//!
//! The crate `prometheus` has no exemplars, so they stand beside its histograms. There is one exemplar a bucket and series, so
//! they take as much memory as the histograms themselves.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use prometheus::Histogram;
use prometheus::core::Metric;

use super::family::Sample;
use crate::openmetrics::{Exemplar, Kind, Writer};

/// A histogram with exemplars; all clones are one.
#[derive(Clone)]
pub(super) struct Traced {
    histogram: Histogram,
    bounds: &'static [f64],
    /// One a bucket, the last one that of the bucket without a bound.
    last: Arc<Mutex<Vec<Option<Exemplar>>>>,
}

impl Traced {
    /// Counts a value, of the request with this trace if that is sampled.
    pub(super) fn observe(&self, value: f64, trace_id: Option<u128>) {
        self.histogram.observe(value);
        self.note(value, trace_id);
    }

    /// Notes whose a value is that has been counted by itself.
    pub(super) fn note(&self, value: f64, trace_id: Option<u128>) {
        if let Some(trace_id) = trace_id {
            let bucket = self.bounds.partition_point(|bound| *bound < value);
            self.last()[bucket] = Some(Exemplar { trace_id, value, at: SystemTime::now() });
        }
    }

    fn last(&self) -> MutexGuard<'_, Vec<Option<Exemplar>>> {
        // Plain values are whole whatever happened to another holder.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sample for Traced {
    const KIND: Kind = Kind::Histogram;

    fn new(name: &str, help: &str, bounds: &'static [f64]) -> prometheus::Result<Self> {
        let last = Arc::new(Mutex::new(vec![None; bounds.len() + 1]));
        Ok(Self { histogram: Sample::new(name, help, bounds)?, bounds, last })
    }

    fn write(&self, labels: &str, writer: &mut Writer) {
        writer.histogram(labels, self.histogram.metric().get_histogram(), &self.last());
    }
}
