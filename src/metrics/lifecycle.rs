//! The metrics of models coming into service and going out of it.

use std::collections::BTreeSet;
use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntGauge};

use super::family::Family;
use super::{Declare, LOAD_SECONDS, SINGLE};

/// Why a revision came into service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwapKind {
    /// Nothing served before.
    First,
    /// Another revision served before.
    Update,
    /// The same revision was loaded once more.
    Reload,
    /// A request came for a model that had given its memory back.
    Demand,
}

impl SwapKind {
    /// Value of the label `reason`.
    pub fn label(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Update => "update",
            Self::Reload => "reload",
            Self::Demand => "demand",
        }
    }
}

/// A step of bringing a model into service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadPhase {
    /// Files are brought to this machine.
    Fetch,
    /// The model is tried where it can do no harm.
    Verify,
    /// Tokenizer and graph are loaded.
    Load,
    /// A first generation is run.
    Warm,
    /// Requests of the revision before come to their end.
    Drain,
}

impl LoadPhase {
    /// Value of the label `phase`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Verify => "verify",
            Self::Load => "load",
            Self::Warm => "warm",
            Self::Drain => "drain",
        }
    }
}

/// The families.
pub(super) struct Lifecycle {
    pub(super) load_duration: Family<Histogram>,
    pub(super) swap_duration: Family<Histogram>,
    pub(super) swaps: Family<IntCounter>,
    pub(super) rollbacks: Family<IntCounter>,
    pub(super) failures: Family<IntCounter>,
    pub(super) ready: Family<IntGauge>,
    pub(super) info: Family<IntGauge>,
    pub(super) fetched_bytes: IntCounter,
    pub(super) reload_success: Family<IntGauge>,
    pub(super) reloads: Family<IntCounter>,
}

impl Lifecycle {
    pub(super) fn new(on: &Declare) -> Self {
        Self {
            load_duration: on.histograms(
                "model_load_duration_seconds",
                "Time of each phase of bringing a model into service, and of its drain: fetch, verify, load, warm, drain.",
                LOAD_SECONDS,
                &["model", "phase"],
            ),
            swap_duration: on.histograms(
                "model_swap_duration_seconds",
                "Time from the beginning of an attempt to the moment at which the new revision answers.",
                LOAD_SECONDS,
                &["model"],
            ),
            swaps: on.counters(
                "model_swaps_total",
                "Revisions that came into service, by reason: first, update, reload, demand.",
                &["model", "reason"],
            ),
            rollbacks: on.counters(
                "model_rollbacks_total",
                "Revisions that were replaced by the one before, by reason.",
                &["model", "reason"],
            ),
            failures: on.counters(
                "model_failures_total",
                "Attempts to bring a revision into service that failed, by reason.",
                &["model", "reason"],
            ),
            ready: on.gauges(
                "model_ready",
                "1 while the model answers, or will as soon as it is asked, else 0; nothing of one that waits for its turn.",
                &["model"],
            ),
            info: on.gauges("model_info", "1 for the revision that answers.", &["model", "revision"]),
            fetched_bytes: on.counter("fetched_bytes_total", "Bytes of models that were downloaded."),
            reload_success: on.gauges(
                "config_reload_success",
                "1 while the document that lists the models holds, 0 while the last good one is in force.",
                &[],
            ),
            reloads: on.counters(
                "config_reloads_total",
                "Documents that list the models which were read, by outcome: applied, refused.",
                &["outcome"],
            ),
        }
    }
}

impl super::Metrics {
    /// Records the time of a phase of bringing a model into service.
    pub fn model_load(&self, model: &str, phase: LoadPhase, duration: Duration) {
        let histogram = self.lifecycle.load_duration.with_label_values(&[model, phase.label()]);
        histogram.observe(duration.as_secs_f64());
    }

    /// A revision came into service after an attempt of `duration`.
    pub fn model_swapped(&self, model: &str, revision: &str, kind: SwapKind, duration: Duration) {
        let Self { lifecycle, .. } = self;
        lifecycle.swaps.with_label_values(&[model, kind.label()]).inc();
        lifecycle.swap_duration.with_label_values(&[model]).observe(duration.as_secs_f64());
        self.forget_revisions(model);
        lifecycle.info.with_label_values(&[model, revision]).set(1);
    }

    /// A revision was replaced by the one before. `reason` is a word of ours.
    pub fn model_rolled_back(&self, model: &str, reason: &'static str) {
        self.lifecycle.rollbacks.with_label_values(&[model, reason]).inc();
    }

    /// An attempt failed. `reason` is a word of ours.
    pub fn model_failed(&self, model: &str, reason: &'static str) {
        self.lifecycle.failures.with_label_values(&[model, reason]).inc();
    }

    /// Tells of every model whether it answers; `None` of one that waits for its turn to.
    pub fn models_ready<'model>(&self, models: impl IntoIterator<Item = (&'model str, Option<bool>)>) {
        let mut told = BTreeSet::new();
        for (model, ready) in models {
            if let Some(ready) = ready {
                told.insert(model);
                self.lifecycle.ready.with_label_values(&[model]).set(i64::from(ready));
            }
        }
        self.lifecycle.ready.retain(|values| told.contains(values[0].as_str()));
    }

    /// A model is not served any more: its gauges go, its counters stay.
    pub fn model_removed(&self, model: &str) {
        self.forget_revisions(model);
    }

    /// So many bytes were downloaded.
    pub fn fetched(&self, bytes: u64) {
        self.lifecycle.fetched_bytes.inc_by(bytes);
    }

    /// A document that lists the models was read.
    pub fn config_reloaded(&self, applied: bool) {
        let outcome = if applied { "applied" } else { "refused" };
        self.lifecycle.reloads.with_label_values(&[outcome]).inc();
        self.lifecycle.reload_success.with_label_values(SINGLE).set(i64::from(applied));
    }

    fn forget_revisions(&self, model: &str) {
        self.lifecycle.info.retain(|values| values[0] != model);
    }
}
