//! THE MODEL FLOW. One keeper a model: it compares what is wanted with what is there, and does the next step, until the
//! model is not wanted any more.
//!
//! ```text
//! orders ─▶ plan ─▶ fetch ▶ verify ▶ make room ▶ load ▶ warm ▶ swap ▶ watch ─▶ keep, or go back
//!            ▲                                                   │
//!            └── ticks, demands, a dead engine ◀── rest          └▶ the old revision drains
//! ```
//!
//! Whatever fails before the swap leaves what serves untouched. A newer order ends an attempt at once; what a loading
//! thread still brings is thrown away.

mod ahead;
mod back;
mod making_room;
mod swap;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

use self::ahead::Ahead;
use super::drain::Drains;
use super::history::{Doing, History};
use super::plan::{Observed, Step, Window, plan};
use super::reason::chain;
use super::room::Way;
use super::slot::{Failure, Slot};
use super::source::Progress;
use super::store::Prepared;
use super::workshop::{AttemptError, Turn, Verified, Workshop};
use super::{Defaults, LoadedModel, ModelState, Reason, Target};

/// Pause after the first attempt that failed in passing; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// A hub that is down for an hour is asked about once a minute.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// How often a watched revision is judged, and idle time and drains are looked at.
const TICK: Duration = Duration::from_millis(250);
/// Orders that follow each other so closely are taken together.
const SETTLE: Duration = Duration::from_millis(300);
/// However closely they follow each other, one is followed after this.
const LONGEST_SETTLING: Duration = Duration::from_secs(10);

/// What a keeper is told.
#[derive(Clone)]
pub(super) struct Order {
    pub(super) target: Arc<Target>,
    /// Grows when the same revision is to be loaded once more.
    pub(super) reloads: u64,
    /// Grows when a revision that has failed is to be tried again.
    pub(super) retries: u64,
}

/// A revision that answers or has answered.
struct Revision {
    target: Arc<Target>,
    prepared: Prepared,
    /// `None` when only its files are still there.
    model: Option<Arc<LoadedModel>>,
}

/// The keeper of one model.
pub(super) struct Keeper {
    workshop: Workshop,
    defaults: Arc<Defaults>,
    slot: Arc<Slot>,
    orders: watch::Receiver<Order>,
    history: History,
    serving: Option<Revision>,
    /// The revision before, while the new one is watched.
    previous: Option<Revision>,
    watched_until: Option<Instant>,
    /// Revision that gave its memory back.
    unloaded: Option<String>,
    demanded: bool,
    /// Whether another model needs the memory of this one.
    asked_to_sleep: bool,
    drains: Drains,
    ahead: Ahead,
    /// The revision that was wanted last.
    wanted: String,
    /// When an attempt that failed in passing is made again.
    next_attempt: Option<Instant>,
    /// The end of the pauses that the last plan has seen: the rest after it must not see another moment.
    paused_until: Option<Instant>,
    pause: Duration,
    /// Of orders that have been followed.
    reloads: u64,
    retries: u64,
}

/// An engine that answered has died: the process cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("the engine of {model} has died")]
pub struct EngineDied {
    /// Key of the model.
    pub model: super::ModelName,
}

impl Keeper {
    pub(super) fn new(
        workshop: Workshop,
        defaults: Arc<Defaults>,
        slot: Arc<Slot>,
        orders: watch::Receiver<Order>,
    ) -> Self {
        let history = History::open(workshop.state.as_deref(), &slot.key);
        let drains = Drains::new(slot.key.clone(), Arc::clone(&workshop.metrics), workshop.traces.clone());
        Self {
            workshop,
            defaults,
            slot,
            orders,
            history,
            serving: None,
            previous: None,
            watched_until: None,
            unloaded: None,
            demanded: false,
            asked_to_sleep: false,
            drains,
            ahead: Ahead::default(),
            wanted: String::new(),
            next_attempt: None,
            paused_until: None,
            pause: FIRST_PAUSE,
            reloads: 0,
            retries: 0,
        }
    }

    /// Keeps the model until nobody wants it any more.
    ///
    /// # Errors
    /// Its engine has died and there is nothing to go back to.
    pub(super) async fn run(mut self) -> Result<(), EngineDied> {
        loop {
            let order = self.orders.borrow_and_update().clone();
            self.obey(&order);
            match plan(&order.target, &self.observed(&order)) {
                Step::Rest => {
                    if !self.rest(&order.target).await? {
                        break;
                    }
                }
                Step::Load => Box::pin(self.attempt(&order)).await,
                Step::LoadFallback => self.load_fallback().await,
                Step::Flip => self.flip(),
                Step::GoBack(why) => self.go_back(&why).await,
                Step::CloseWindow => self.close_window(),
                Step::Unload => self.unload(),
                Step::PrepareAhead => self.prepare_ahead(&order.target),
            }
        }
        self.retire().await;
        Ok(())
    }

    /// Does what needs no step: live limits, another chance for what has failed.
    fn obey(&mut self, order: &Order) {
        let Order { target, reloads: _, retries } = order;
        if *retries > self.retries {
            self.retries = *retries;
            self.history.forgive(&target.revision);
            self.next_attempt = None;
            self.forgive_ahead(target);
        }
        self.history.judge(&target.revision, target.is_stable);
        if self.wanted != target.revision {
            // The pause is that of another revision.
            self.wanted.clone_from(&target.revision);
            self.next_attempt = None;
            self.pause = FIRST_PAUSE;
        }
        self.forget_ahead(target);
        if let Some(serving) = &mut self.serving
            && serving.target.revision == target.revision
        {
            if let Some(model) = serving.model.as_ref().filter(|model| model.live() != target.live) {
                model.set_live(target.live);
                tracing::info!(model = %self.slot.key, "limits changed");
            }
            let prompts = &target.templates.prompts;
            if let Some(model) = serving.model.as_ref().filter(|model| model.prompts() != *prompts) {
                model.set_prompts(Arc::clone(prompts));
                tracing::info!(model = %self.slot.key, "prompt templates changed");
            }
            serving.target = Arc::clone(target);
        }
        self.tell(target);
    }

    /// Brings the status into line with what is wanted and there, between steps.
    fn tell(&self, target: &Target) {
        let serving = self.serving.as_ref().map(|serving| serving.target.revision.as_str());
        if let Some(failed) = self.history.quarantined(&target.revision)
            && serving != Some(&target.revision)
        {
            let message = match serving {
                Some(other) => format!("{}: {}; revision {other} goes on", failed.reason, failed.message),
                None => format!("{}: {}", failed.reason, failed.message),
            };
            self.slot.set_state(&target.revision, ModelState::Failed, &message);
            self.slot.set_failure_of(&target.revision, failed.reason, &failed.message);
        } else if serving == Some(&target.revision) && self.slot.status().state != ModelState::Ready {
            self.slot.set_state(&target.revision, ModelState::Ready, "");
        }
    }

    fn observed(&mut self, order: &Order) -> Observed {
        let now = Instant::now();
        let revision = |revision: &Revision| revision.target.revision.clone();
        let quarantined = self.history.quarantined(&order.target.revision).is_some();
        let idle = self.idle();
        let pauses = [self.next_attempt, self.ahead.next_attempt()];
        self.paused_until = pauses.into_iter().flatten().filter(|at| *at > now).min();
        let serving = self.serving.as_ref();
        Observed {
            serving: serving.map(revision),
            kept: self.previous.as_ref().filter(|previous| previous.model.is_some()).map(revision),
            quarantined,
            fallback: quarantined && serving.is_none() && self.fallback().is_some(),
            window: self.window(now),
            unloaded: self.unloaded.clone(),
            demanded: self.demanded,
            idle,
            pausing: self.next_attempt.is_some_and(|at| at > now),
            reload: order.reloads > self.reloads,
            ahead_due: self.ahead_due(&order.target, now),
        }
    }

    /// Time without a request; for ever, when another model needs the memory and no request is running.
    fn idle(&mut self) -> Duration {
        let asked = std::mem::take(&mut self.asked_to_sleep);
        let model = self.serving.as_ref().and_then(|serving| serving.model.as_ref());
        match model {
            Some(model) if asked && model.in_flight() == 0 => Duration::MAX,
            Some(model) => model.idle(),
            None => Duration::ZERO,
        }
    }

    fn window(&self, now: Instant) -> Window {
        let (Some(until), Some(serving)) = (self.watched_until, &self.serving) else {
            return Window::Closed;
        };
        let Some(model) = &serving.model else {
            return Window::Closed;
        };
        if self.previous.is_none() {
            // There is nothing here to go back to: only the deaths of the process count.
            return if now >= until { Window::Passed } else { Window::Open };
        }
        if !*model.engine.alive().borrow() {
            return Window::Failed("its engine has died".to_owned());
        }
        let step = model.engine.running_step().map(|step| step.age);
        match model.health.judge(&serving.target.rollout.watch, step) {
            Some(why) => Window::Failed(why),
            None if now >= until => Window::Passed,
            None => Window::Open,
        }
    }

    /// Waits until something changes; false when the model is not wanted any more.
    async fn rest(&mut self, target: &Target) -> Result<bool, EngineDied> {
        let busy = self.watched_until.is_some() || target.live.unload_after_idle.is_some();
        let ticks = busy || !self.drains.is_empty();
        let alive = self.serving.as_ref().and_then(|serving| Some(serving.model.as_ref()?.engine.alive()));
        let died = async {
            match alive {
                // An error means that the engine's thread is gone, which is the same news.
                Some(mut alive) => drop(alive.wait_for(|alive| !alive).await),
                None => std::future::pending().await,
            }
        };
        // What is watched or drains is looked at in a pause too.
        let tick = ticks.then(|| Instant::now() + TICK);
        let until = self.paused_until.into_iter().chain(tick).min();
        let wake = async {
            match until {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.orders.changed() => {
                if changed.is_err() {
                    return Ok(false);
                }
                self.settle().await;
            }
            () = self.slot.demanded.notified() => self.demanded = self.unloaded.is_some(),
            () = self.slot.asked_to_sleep.notified() => self.asked_to_sleep = true,
            () = died => {
                if self.watched_until.is_none() || self.previous.is_none() {
                    self.history.die();
                    return Err(EngineDied { model: self.slot.key.clone() });
                }
            }
            outcome = self.ahead.ended() => self.end_ahead(outcome),
            () = wake => {}
        }
        self.drains.look();
        Ok(true)
    }

    /// Waits until no more orders come: each revision that is loaded and not wanted any more is work for nothing.
    async fn settle(&mut self) {
        let until = Instant::now() + LONGEST_SETTLING;
        while Instant::now() < until {
            let target = Arc::clone(&self.orders.borrow_and_update().target);
            if self.serving.as_ref().is_none_or(|serving| serving.target.revision != target.revision) {
                self.slot.set_state(&target.revision, ModelState::Pending, "");
            }
            if tokio::time::timeout(SETTLE, self.orders.changed()).await.is_err() {
                return;
            }
        }
    }

    /// Tries to bring the wanted revision into service; a newer order ends the attempt.
    async fn attempt(&mut self, order: &Order) {
        let mut orders = self.orders.clone();
        let superseded = orders.wait_for(|newer| {
            newer.target.revision != order.target.revision || newer.reloads != order.reloads
        });
        let started = Instant::now();
        let (key, revision) = (self.slot.key.clone(), order.target.revision.as_str());
        let work = self.workshop.traces.work("bring into service", key.as_str(), revision);
        let outcome = tokio::select! {
            biased;
            // An error means that the model is not wanted any more.
            newer = superseded => { drop(newer); None }
            outcome = work.scope(self.bring(&order.target)) => Some(outcome),
        };
        self.history.end_attempt(self.watched_until.is_some());
        self.reloads = order.reloads;
        match outcome {
            None => {
                tracing::info!(model = %self.slot.key, revision = order.target.revision, "attempt superseded");
            }
            Some(Ok(())) => {
                work.done();
                self.next_attempt = None;
                self.pause = FIRST_PAUSE;
                let duration_ms = started.elapsed().as_millis() as u64;
                tracing::info!(model = %self.slot.key, revision = order.target.revision, duration_ms, "model ready");
                self.workshop.prune().await;
            }
            Some(Err(error)) => {
                work.failed(error.reason().label());
                self.failed(&order.target, &error);
            }
        }
        self.settle_service();
    }

    /// After an attempt that may have taken out what served: requests wait only for what is on its way.
    fn settle_service(&self) {
        if self.serving.is_some() {
            self.slot.set_leaving(false);
        } else if self.unloaded.is_none() {
            self.slot.hold_requests(false, 0);
        }
    }

    /// The steps up to the swap. An error leaves what serves untouched.
    async fn bring(&mut self, target: &Arc<Target>) -> Result<(), AttemptError> {
        let started = Instant::now();
        let prepared = self.prepare(target).await?;
        let Verified { needed_bytes, is_owed } = self.try_out(target, &prepared, None).await?;
        // At most two revisions are in memory: whatever is going, or kept to go back to, goes first.
        self.drain_previous();
        if let Some(told) = self.drains.told() {
            self.slot.set_state(&target.revision, ModelState::Waiting, &told);
            self.drains.all_gone().await;
        }
        let turn = self.workshop.turn().await;
        let way = self.make_room(target, needed_bytes).await?;
        if way == Way::Instead {
            self.take_out(target).await;
            // Now there is memory to try it where it can do no harm.
            if is_owed && let Err(error) = self.try_out(target, &prepared, Some(&turn)).await {
                self.bring_back(&turn).await;
                return Err(error);
            }
        }
        self.history.begin(&target.revision, Doing::Loading);
        self.slot.set_state(&target.revision, ModelState::Loading, "");
        match self.workshop.load(target, &prepared, &turn).await {
            Ok(model) => {
                let revision = Revision { target: Arc::clone(target), prepared, model: Some(model) };
                self.swap(revision, started);
                Ok(())
            }
            Err(error) => {
                self.history.end();
                if way == Way::Instead {
                    self.bring_back(&turn).await;
                }
                Err(error)
            }
        }
    }

    async fn prepare(&self, target: &Target) -> Result<Prepared, AttemptError> {
        let progress = Progress::default();
        self.slot.set_state(&target.revision, ModelState::Fetching, "");
        self.slot.set_progress(&progress);
        self.workshop.prepare(target, &progress).await
    }

    /// Tries the revision, unless it has proved itself before.
    async fn try_out(
        &self,
        target: &Target,
        prepared: &Prepared,
        turn: Option<&Turn>,
    ) -> Result<Verified, AttemptError> {
        if let Some(proved) = self.history.stable()
            && proved.revision == target.revision
            && proved.digest.is_some()
            && proved.digest == prepared.digest.as_ref().map(ToString::to_string)
        {
            return Ok(Verified { needed_bytes: proved.memory_bytes, is_owed: false });
        }
        self.slot.set_state(&target.revision, ModelState::Verifying, "");
        self.workshop.verify(target, prepared, turn).await
    }

    /// Notes why an attempt failed, and when it is made again.
    fn failed(&mut self, target: &Target, error: &AttemptError) {
        let (reason, message) = (error.reason(), chain(error));
        self.note_failure(target, reason, &message);
        if error.is_permanent() {
            tracing::error!(model = %self.slot.key, revision = target.revision, %reason, message, "model failed");
            self.history.quarantine(&target.revision, reason, &message);
            return;
        }
        let wait = error.retry_after().unwrap_or(self.pause).max(self.pause);
        let retry_in_seconds = wait.as_secs();
        tracing::warn!(model = %self.slot.key, revision = target.revision, %reason, message, retry_in_seconds, "attempt failed");
        let state = self.slot.status().state;
        let told = format!("{reason}: {message}; tried again within {retry_in_seconds} s");
        self.slot.set_state(&target.revision, state, &told);
        self.next_attempt = Some(Instant::now() + jittered(wait));
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    fn note_failure(&self, target: &Target, reason: Reason, message: &str) {
        self.workshop.metrics.model_failed(self.slot.key.as_str(), reason.label());
        self.slot.set_failure(Failure {
            revision: target.revision.clone(),
            reason,
            message: message.to_owned(),
            at: SystemTime::now(),
        });
    }

    /// Ends the service of a model that nobody wants any more: no new requests, then those that it has.
    async fn retire(mut self) {
        let key = self.slot.key.clone();
        tracing::info!(model = %key, "model removed");
        drop(self.slot.swap(None));
        self.drain_previous();
        if let Some(Revision { target, prepared: _, model: Some(model) }) = self.serving.take() {
            self.drains.begin(model, &target.rollout);
        }
        self.drains.all_gone().await;
        self.workshop.metrics.model_removed(key.as_str());
    }
}

/// Between 75 and 100 % of the pause, so that many gateways do not ask at once.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.75..=1.0))
}
