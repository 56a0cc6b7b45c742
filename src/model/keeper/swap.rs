//! The moment of the swap, and what is kept of the revision before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Keeper, Revision};
use crate::metrics::SwapKind;
use crate::model::ModelState;
use crate::model::history::{Doing, Stable};

impl Keeper {
    /// Moves the pointer, and begins to watch if there is something to go back to: here, or for the next process.
    pub(super) fn swap(&mut self, new: Revision, started: Instant) {
        let (target, key) = (Arc::clone(&new.target), self.slot.key.as_str());
        let kind = match (&self.serving, &self.previous, &self.unloaded) {
            (Some(old), _, _) | (None, Some(old), _) if old.target.revision == target.revision => {
                SwapKind::Reload
            }
            (Some(_), _, _) | (None, Some(_), _) => SwapKind::Update,
            (None, None, Some(_)) => SwapKind::Demand,
            (None, None, None) => SwapKind::First,
        };
        let phase = self.workshop.traces.phase("swap", key);
        drop(self.slot.swap(new.model.clone()));
        phase.done();
        let before = self.serving.replace(new);
        self.unloaded = None;
        self.demanded = false;
        self.slot.hold_requests(false, 0);
        self.slot.set_state(&target.revision, ModelState::Ready, "");
        self.workshop.metrics.model_swapped(key, &target.revision, kind, started.elapsed());
        // What was taken out to make room has been put there before.
        self.previous = before.or_else(|| self.previous.take());
        let window = Duration::from_secs(target.rollout.watch.window_seconds.into());
        let suspect = self.history.is_suspect(&target.revision) && self.fallback().is_some();
        let watched = kind == SwapKind::Update || (suspect && self.previous.is_none());
        if watched && !window.is_zero() {
            self.history.begin(&target.revision, Doing::Watching);
            self.watched_until = Some(Instant::now() + window);
        } else {
            self.close_window();
        }
    }

    /// Gives up the revision before: what answers now has proved itself.
    pub(super) fn close_window(&mut self) {
        self.watched_until = None;
        self.drain_previous();
        if let Some(serving) = &self.serving {
            self.history.set_stable(Stable {
                revision: serving.target.revision.clone(),
                document: serving.target.document.clone(),
                digest: serving.prepared.digest.as_ref().map(ToString::to_string),
                memory_bytes: serving.model.as_ref().map_or(0, |model| model.memory_bytes),
            });
        }
    }

    pub(super) fn drain_previous(&mut self) {
        self.watched_until = None;
        if let Some(Revision { target, prepared: _, model: Some(model) }) = self.previous.take() {
            self.drains.begin(model, &target.rollout);
        }
    }

    /// Gives the memory back until a request comes.
    pub(super) fn unload(&mut self) {
        let Some(Revision { target, prepared: _, model: Some(model) }) = self.serving.take() else {
            return;
        };
        tracing::info!(model = %self.slot.key, revision = target.revision, "nobody uses the model: giving its memory back");
        self.slot.hold_requests(true, target.live.queue);
        self.slot.set_state(&target.revision, ModelState::Unloaded, "");
        drop(self.slot.swap(None));
        self.unloaded = Some(target.revision.clone());
        self.drains.begin(model, &target.rollout);
    }
}
