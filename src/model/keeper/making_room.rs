//! Memory for the next revision: beside what serves, or in its place.

use super::Keeper;
use crate::model::room::{self, Way};
use crate::model::workshop::AttemptError;
use crate::model::{ModelState, Target};

impl Keeper {
    /// Decides whether the revision is loaded beside what serves.
    pub(super) async fn make_room(&self, target: &Target, needed_bytes: u64) -> Result<Way, AttemptError> {
        let serving = self.serving.as_ref().and_then(|serving| serving.model.as_ref());
        let serving_bytes = serving.map_or(0, |model| model.memory_bytes);
        let free_bytes = self.workshop.free_for(target, needed_bytes).await;
        let policy = (target.rollout.swap_policy, target.leave.is_some());
        Ok(room::decide(needed_bytes, free_bytes, serving_bytes, policy)?)
    }

    /// Takes out what serves, to make room: where others serve meanwhile, nobody sends requests here any more. Those that come all
    /// the same wait until something serves again.
    pub(super) async fn take_out(&mut self, target: &Target) {
        if let Some(delay) = target.leave.filter(|_| self.serving.is_some()) {
            let told =
                "the revision that serves makes room; not ready meanwhile, since other pods serve the model";
            self.slot.set_state(&target.revision, ModelState::Waiting, told);
            self.slot.set_leaving(true);
            tokio::time::sleep(delay).await;
        }
        let Some(mut serving) = self.serving.take() else {
            return;
        };
        self.slot.hold_requests(true, serving.target.live.queue);
        drop(self.slot.swap(None));
        if let Some(model) = serving.model.take() {
            self.drains.begin(model, &serving.target.rollout);
        }
        self.previous = Some(serving);
        self.drains.all_gone().await;
    }
}
