//! Going back: to the revision that is kept, to one whose files are still here, or to the one that an earlier process
//! served.

use std::sync::Arc;
use std::time::Instant;

use super::{Keeper, Revision};
use crate::metrics::SwapKind;
use crate::model::reason::chain;
use crate::model::workshop::Turn;
use crate::model::{ModelState, Reason, Target};

impl Keeper {
    /// Loads the revision before again, whose memory was given up for one that failed.
    pub(super) async fn bring_back(&mut self, turn: &Turn) {
        let Some(previous) = self.previous.take() else {
            return;
        };
        match self.workshop.load(&previous.target, &previous.prepared, turn).await {
            Ok(model) => {
                drop(self.slot.swap(Some(Arc::clone(&model))));
                self.serving = Some(Revision { model: Some(model), ..previous });
                self.slot.hold_requests(false, 0);
            }
            Err(error) => {
                let reason = chain(&error);
                tracing::error!(model = %self.slot.key, reason, "the revision before could not be loaded again");
            }
        }
    }

    /// Puts the kept revision back because it is wanted again.
    pub(super) fn flip(&mut self) {
        let Some(previous) = self.previous.take() else {
            return;
        };
        let started = Instant::now();
        drop(self.slot.swap(previous.model.clone()));
        let (key, revision) = (self.slot.key.as_str(), previous.target.revision.clone());
        self.workshop.metrics.model_swapped(key, &revision, SwapKind::Update, started.elapsed());
        self.previous = self.serving.replace(previous);
        self.slot.set_state(&revision, ModelState::Ready, "");
        self.close_window();
    }

    /// Puts the revision before back, and does not try the one that answers again.
    pub(super) async fn go_back(&mut self, why: &str) {
        self.watched_until = None;
        let Some(failed) = self.serving.as_ref().map(|serving| Arc::clone(&serving.target)) else {
            return;
        };
        let key = self.slot.key.clone();
        tracing::error!(model = %key, revision = failed.revision, reason = why, "the new revision does worse than it may: going back");
        self.history.quarantine(&failed.revision, Reason::SoakErrors, why);
        self.note_failure(&failed, Reason::SoakErrors, why);
        self.workshop.metrics.model_rolled_back(key.as_str(), Reason::SoakErrors.label());
        if self.previous.as_ref().is_some_and(|previous| previous.model.is_some()) {
            let revision = self.previous.as_ref().map(|previous| previous.target.revision.clone());
            self.flip();
            tracing::info!(model = %key, revision, "the revision before answers again");
        } else {
            let turn = self.workshop.turn().await;
            if let Some(Revision { target, model: Some(model), prepared: _ }) = self.serving.take() {
                let queue = target.live.queue;
                self.slot.hold_requests(true, queue);
                drop(self.slot.swap(None));
                self.drains.begin(model, &target.rollout);
                self.drains.all_gone().await;
            }
            self.bring_back(&turn).await;
            self.slot.hold_requests(false, 0);
        }
    }

    /// A revision that has proved itself before, other than the wanted one.
    pub(super) fn fallback(&self) -> Option<Arc<Target>> {
        let document = self.history.stable()?.document.as_ref()?;
        let target = Target::from_document(document, &self.defaults).ok()?;
        self.history.quarantined(&target.revision).is_none().then(|| Arc::new(target))
    }

    pub(super) async fn load_fallback(&mut self) {
        let Some(target) = self.fallback() else {
            return;
        };
        tracing::warn!(model = %self.slot.key, revision = target.revision, "loading the last revision that has proved itself");
        let outcome = self.bring(&target).await;
        self.history.end();
        self.settle_service();
        if let Err(error) = outcome {
            self.failed(&target, &error);
        }
    }
}
