//! Revisions that were taken out of service and still have requests: they end with their last request, or when their time
//! has passed.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::spec::{AfterDrain, RolloutSpec};
use super::{LoadedModel, ModelName};
use crate::engine::EngineError;
use crate::metrics::{LoadPhase, Metrics};
use crate::telemetry::{Phase, Traces};

/// The revisions of one model that are draining.
pub(super) struct Drains {
    model: ModelName,
    metrics: Arc<Metrics>,
    traces: Traces,
    going: Vec<Drain>,
}

struct Drain {
    model: Weak<LoadedModel>,
    freed: watch::Receiver<bool>,
    /// Taken when it is over.
    span: Option<Phase>,
    deadline: Instant,
    after: AfterDrain,
    ended: bool,
}

impl Drains {
    pub(super) fn new(model: ModelName, metrics: Arc<Metrics>, traces: Traces) -> Self {
        Self { model, metrics, traces, going: Vec::new() }
    }

    /// Gives up the keeper's hold on a revision: from now on only requests hold it.
    #[expect(clippy::needless_pass_by_value, reason = "the hold is given up here")]
    pub(super) fn begin(&mut self, model: Arc<LoadedModel>, rollout: &RolloutSpec) {
        let allowed = Duration::from_secs(rollout.drain_seconds.into());
        tracing::info!(
            model = %self.model,
            revision = model.revision,
            in_flight = model.in_flight(),
            "revision drains"
        );
        self.going.push(Drain {
            freed: model.freed(),
            model: Arc::downgrade(&model),
            span: Some(self.traces.phase(LoadPhase::Drain.label(), self.model.as_str())),
            deadline: Instant::now() + allowed,
            after: rollout.after_drain,
            ended: false,
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.going.is_empty()
    }

    /// What there is to wait for, for a person; `None` when nothing is.
    pub(super) fn told(&mut self) -> Option<String> {
        self.look();
        let models = self.going.iter().filter_map(|drain| drain.model.upgrade());
        let requests =
            models.map(|model| format!("{} requests of revision {}", model.in_flight(), model.revision));
        let requests: Vec<String> = requests.collect();
        (!self.is_empty()).then(|| format!("waits for the end of {}", requests.join(" and ")))
    }

    /// Ends requests whose time has passed, and forgets what is gone.
    pub(super) fn look(&mut self) {
        let now = Instant::now();
        let (model, metrics) = (&self.model, &self.metrics);
        self.going.retain_mut(|drain| {
            if drain.is_gone() {
                if let Some(span) = drain.span.take() {
                    metrics.model_load(model.as_str(), LoadPhase::Drain, span.done());
                }
                return false;
            }
            if now >= drain.deadline && drain.after == AfterDrain::End && !drain.ended {
                drain.ended = true;
                if let Some(old) = drain.model.upgrade() {
                    let in_flight = old.in_flight();
                    tracing::warn!(%model, revision = old.revision, in_flight, "the drain time has passed: ending what is left");
                    old.engine.end(EngineError::Replaced);
                }
            }
            true
        });
    }

    /// Waits until the memory of all of them has been given back.
    pub(super) async fn all_gone(&mut self) {
        loop {
            self.look();
            let Some(drain) = self.going.first_mut() else {
                return;
            };
            // A look now and then, for the deadline and for an engine that was ended.
            drop(tokio::time::timeout(Duration::from_millis(50), drain.freed.wait_for(|freed| *freed)).await);
        }
    }
}

impl Drain {
    /// Whether its memory has been given back: an engine that was ended gives it back whoever still reads its last answers.
    fn is_gone(&self) -> bool {
        *self.freed.borrow()
            || self.model.upgrade().is_some_and(|model| self.ended && !*model.engine.alive().borrow())
    }
}
