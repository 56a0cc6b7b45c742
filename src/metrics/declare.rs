//! How a family is declared: put among the others under the project's prefix, and noted for the reference page.

use std::cell::RefCell;
use std::collections::BTreeMap;

use prometheus::{Counter, Gauge, Histogram, IntCounter, IntGauge};

use super::exemplars::Traced;
use super::family::{Exposed, Family, Sample};
use crate::openmetrics::Kind;

/// What every program tells of its process has the same names everywhere.
const OF_ANY_PROCESS: &str = "process_";

/// All families, by their names.
pub(super) type Families = BTreeMap<String, Box<dyn Exposed>>;

/// A family as it was declared.
#[derive(Debug, Clone)]
pub(super) struct Declared {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) labels: &'static [&'static str],
    pub(super) help: String,
    /// Upper bounds of a histogram's buckets.
    pub(super) buckets: &'static [f64],
}

/// Declares metrics with the project's prefix.
#[derive(Default)]
pub(super) struct Declare {
    families: RefCell<Families>,
    declared: RefCell<Vec<Declared>>,
}

impl Declare {
    /// All families, and how each was declared.
    pub(super) fn done(self) -> (Families, Vec<Declared>) {
        (self.families.into_inner(), self.declared.into_inner())
    }

    /// Without labels it is a family that is there once it has a value.
    fn family<M: Sample>(
        &self,
        name: &str,
        help: &str,
        labels: &'static [&'static str],
        buckets: &'static [f64],
    ) -> Family<M> {
        let name = full(name);
        let family = Family::<M>::new(name.clone(), help, labels, buckets);
        let before = self.families.borrow_mut().insert(name.clone(), Box::new(family.clone()));
        assert!(before.is_none(), "{name} is declared once");
        let declared = Declared { name, kind: M::KIND, labels, help: help.to_owned(), buckets };
        self.declared.borrow_mut().push(declared);
        family
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.counters(name, help, &[]).with_label_values(&[])
    }

    pub(super) fn seconds_counter(&self, name: &str, help: &str) -> Counter {
        self.family(name, help, &[], &[]).with_label_values(&[])
    }

    pub(super) fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &'static [&'static str],
    ) -> Family<IntCounter> {
        self.family(name, help, labels, &[])
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.gauges(name, help, &[]).with_label_values(&[])
    }

    pub(super) fn seconds_gauge(&self, name: &str, help: &str) -> Gauge {
        self.ratios(name, help, &[]).with_label_values(&[])
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &'static [&'static str]) -> Family<IntGauge> {
        self.family(name, help, labels, &[])
    }

    pub(super) fn ratios(&self, name: &str, help: &str, labels: &'static [&'static str]) -> Family<Gauge> {
        self.family(name, help, labels, &[])
    }

    pub(super) fn histograms(
        &self,
        name: &str,
        help: &str,
        buckets: &'static [f64],
        labels: &'static [&'static str],
    ) -> Family<Histogram> {
        self.family(name, help, labels, buckets)
    }

    /// A histogram with exemplars.
    pub(super) fn traced(&self, name: &str, help: &str, buckets: &'static [f64]) -> Traced {
        self.family(name, help, &[], buckets).with_label_values(&[])
    }

    /// Histograms with exemplars, one for each model.
    pub(super) fn traced_by_model(&self, name: &str, help: &str, buckets: &'static [f64]) -> Family<Traced> {
        self.family(name, help, &["model"], buckets)
    }
}

fn full(name: &str) -> String {
    if name.starts_with(OF_ANY_PROCESS) { name.to_owned() } else { format!("inference_gateway_{name}") }
}
