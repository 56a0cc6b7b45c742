//! What a watch tells of itself: in metrics always, in the log once a minute, and to whoever made it when that changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::WatchError;
use crate::metrics::Metrics;

/// The same error is told again after this.
const TOLD_EVERY: Duration = Duration::from_mins(1);

/// What stands in the way of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::k8s) struct Trouble {
    pub(in crate::k8s) message: String,
    /// The cluster answers, and does not know the kind: its definition was never installed, or is gone with all objects.
    pub(in crate::k8s) kind_is_missing: bool,
}

/// Tells how a watch does.
pub(super) struct Teller<F> {
    resource: &'static str,
    metrics: Arc<Metrics>,
    trouble: F,
    /// The error that was told last, and when.
    told: Option<(String, Instant)>,
    /// Whether it was not told yet that all is well again.
    complained: bool,
}

impl<F: Fn(Option<Trouble>)> Teller<F> {
    pub(super) fn new(resource: &'static str, metrics: Arc<Metrics>, trouble: F) -> Self {
        metrics.watch_healthy(resource, false);
        Self { resource, metrics, trouble, told: None, complained: false }
    }

    /// A watch is open.
    pub(super) fn well(&mut self) {
        self.metrics.watch_healthy(self.resource, true);
        if std::mem::take(&mut self.complained) {
            tracing::info!(resource = self.resource, "watching again");
        }
        (self.trouble)(None);
    }

    /// A list or a watch came to nothing.
    pub(super) fn failed(&mut self, error: &WatchError) {
        let resource = self.resource;
        self.metrics.watch_healthy(resource, false);
        self.metrics.watch_error(resource, error.code());
        let kind_is_missing = error.code() == Some(404);
        let message = if kind_is_missing {
            "the cluster does not know this kind: is its definition installed?".to_owned()
        } else {
            error.to_string()
        };
        let known = self.told.as_ref();
        if known.is_none_or(|(known, at)| *known != message || at.elapsed() >= TOLD_EVERY) {
            tracing::warn!(resource, error = message, "failed to watch; what is known stays in force");
            self.told = Some((message.clone(), Instant::now()));
            self.complained = true;
        }
        let message = format!("failed to watch {resource}: {message}");
        (self.trouble)(Some(Trouble { message, kind_is_missing }));
    }
}
