//! Preparing ahead: a revision is brought here and tried while another one serves, or nothing does, so that its turn to serve
//! begins with everything that can go wrong behind it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;

use super::{FIRST_PAUSE, Keeper, LONGEST_PAUSE, jittered};
use crate::model::reason::chain;
use crate::model::slot::Preparation;
use crate::model::source::Progress;
use crate::model::store::Prepared;
use crate::model::workshop::AttemptError;
use crate::model::{ModelState, Target};

/// Revisions that are held ready: the one that serves, the one before, the next one, and one that was given up.
const MOST_PREPARED: usize = 4;

/// What is prepared ahead.
#[derive(Default)]
pub(super) struct Ahead {
    running: Option<Running>,
    /// What is here and has been tried, the newest last. Holding it keeps it in the store.
    prepared: Vec<(String, Prepared)>,
    /// Of the revision that failed in passing: when it is tried again, and the pause after that.
    waiting: Option<(String, Instant, Duration)>,
}

struct Running {
    target: Arc<Target>,
    /// Never locked: it makes the keeper one that other threads may look at.
    work: Mutex<BoxFuture<'static, Result<Prepared, AttemptError>>>,
}

/// What came of a preparation.
pub(super) struct Outcome {
    target: Arc<Target>,
    result: Result<Prepared, AttemptError>,
}

impl Ahead {
    /// When a revision that failed in passing is tried again.
    pub(super) fn next_attempt(&self) -> Option<Instant> {
        self.waiting.as_ref().map(|(_, at, _)| *at)
    }

    /// Waits for the end of what is being prepared; for ever, when nothing is.
    pub(super) async fn ended(&mut self) -> Outcome {
        let Some(running) = &mut self.running else {
            return std::future::pending().await;
        };
        let result = running.work.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut().await;
        let target = Arc::clone(&running.target);
        self.running = None;
        Outcome { target, result }
    }

    fn has(&self, revision: &str) -> bool {
        self.prepared.iter().any(|(known, _)| known == revision)
    }
}

impl Keeper {
    /// Whether a revision is to be prepared, and nothing stands against it.
    pub(super) fn ahead_due(&self, target: &Arc<Target>, now: Instant) -> bool {
        target.to_prepare().is_some_and(|wanted| {
            let serves = self.serving.as_ref().is_some_and(|one| one.target.revision == wanted.revision);
            let waits = self.ahead.waiting.as_ref().is_some_and(|(_, at, _)| *at > now);
            let quarantined = self.history.quarantined(&wanted.revision).is_some();
            !(serves
                || waits
                || quarantined
                || self.ahead.running.is_some()
                || self.ahead.has(&wanted.revision))
        })
    }

    /// Begins to bring the wanted revision here and to try it.
    pub(super) fn prepare_ahead(&mut self, target: &Arc<Target>) {
        let Some(wanted) = target.to_prepare().cloned() else {
            return;
        };
        tracing::info!(model = %self.slot.key, revision = wanted.revision, "preparing a revision ahead");
        let (workshop, slot, target) = (self.workshop.clone(), Arc::clone(&self.slot), Arc::clone(&wanted));
        let whole = workshop.traces.work("prepare ahead", self.slot.key.as_str(), &wanted.revision);
        let work = async move {
            let progress = Progress::default();
            slot.set_progress(&progress);
            slot.set_ahead(Some(at(&target, ModelState::Fetching)));
            let prepared = workshop.prepare(&target, &progress).await?;
            slot.set_ahead(Some(at(&target, ModelState::Verifying)));
            workshop.verify(&target, &prepared, None).await?;
            Ok(prepared)
        };
        let work = async move {
            let result = whole.scope(work).await;
            match &result {
                Ok(_) => whole.done(),
                Err(error) => whole.failed(AttemptError::reason(error).label()),
            }
            result
        };
        self.ahead.running = Some(Running { target: wanted, work: Mutex::new(Box::pin(work)) });
    }

    /// Notes what came of it.
    pub(super) fn end_ahead(&mut self, outcome: Outcome) {
        let Outcome { target, result } = outcome;
        let told = match result {
            Ok(prepared) => {
                tracing::info!(model = %self.slot.key, revision = target.revision, "revision prepared");
                self.ahead.waiting = None;
                let digest = prepared.digest.clone();
                self.ahead.prepared.push((target.revision.clone(), prepared));
                let surplus = self.ahead.prepared.len().saturating_sub(MOST_PREPARED);
                self.ahead.prepared.drain(..surplus);
                let all = self.ahead.prepared.iter().map(|(revision, _)| revision.clone()).collect();
                self.slot.set_prepared(all);
                Preparation { digest, ..at(&target, ModelState::Prepared) }
            }
            Err(error) => {
                let (reason, message) = (error.reason(), chain(&error));
                self.note_failure(&target, reason, &message);
                tracing::error!(model = %self.slot.key, revision = target.revision, %reason, message, "preparing a revision ahead failed");
                if error.is_permanent() {
                    self.history.quarantine(&target.revision, reason, &message);
                } else {
                    let before = self.ahead.waiting.take().filter(|(known, _, _)| *known == target.revision);
                    let pause = before.map_or(FIRST_PAUSE, |(_, _, pause)| (pause * 2).min(LONGEST_PAUSE));
                    let wait = error.retry_after().unwrap_or(pause).max(pause);
                    self.ahead.waiting =
                        Some((target.revision.clone(), Instant::now() + jittered(wait), pause));
                }
                let state = if error.is_permanent() { ModelState::Failed } else { ModelState::Pending };
                Preparation { failure: Some((reason, message)), ..at(&target, state) }
            }
        };
        self.slot.set_ahead(Some(told));
    }

    /// Gives up what is not wanted any more.
    pub(super) fn forget_ahead(&mut self, target: &Arc<Target>) {
        let wanted = target.to_prepare().map(|wanted| wanted.revision.clone());
        if self
            .ahead
            .running
            .as_ref()
            .is_some_and(|running| Some(&running.target.revision) != wanted.as_ref())
        {
            self.ahead.running = None;
        }
        if self.ahead.waiting.as_ref().is_some_and(|(revision, _, _)| Some(revision) != wanted.as_ref()) {
            self.ahead.waiting = None;
        }
        let told = self.slot.status().ahead.as_ref().map(|told| told.revision.clone());
        if told != wanted {
            let known = wanted.as_ref().and_then(|_| target.to_prepare());
            self.slot.set_ahead(known.map(|wanted| self.known_ahead(wanted)));
        }
    }

    /// What is known of a revision before anything is done for it.
    fn known_ahead(&self, wanted: &Target) -> Preparation {
        if let Some((_, prepared)) = self.ahead.prepared.iter().find(|(known, _)| *known == wanted.revision) {
            return Preparation { digest: prepared.digest.clone(), ..at(wanted, ModelState::Prepared) };
        }
        if let Some(serving) = self.serving.as_ref().filter(|one| one.target.revision == wanted.revision) {
            return Preparation {
                digest: serving.prepared.digest.clone(),
                ..at(wanted, ModelState::Prepared)
            };
        }
        match self.history.quarantined(&wanted.revision) {
            Some(failed) => {
                let failure = Some((failed.reason, failed.message.clone()));
                Preparation { failure, ..at(wanted, ModelState::Failed) }
            }
            None => at(wanted, ModelState::Pending),
        }
    }

    /// Lets a revision be prepared again that has failed.
    pub(super) fn forgive_ahead(&mut self, target: &Arc<Target>) {
        if let Some(wanted) = target.to_prepare() {
            self.history.forgive(&wanted.revision);
            self.ahead.waiting = None;
            let known = self.known_ahead(wanted);
            self.slot.set_ahead(Some(known));
        }
    }
}

fn at(target: &Target, state: ModelState) -> Preparation {
    Preparation { revision: target.revision.clone(), state, digest: None, failure: None }
}
