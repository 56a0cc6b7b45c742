//! One model of the registry: the pointer that a swap moves, and what can be told about it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, watch};

use super::manifest::Digest;
use super::source::Progress;
use super::{LoadedModel, ModelName, Pinned, Reason, Unavailable};

/// Failures of a model that are remembered for its page.
const MOST_FAILURES: usize = 5;

/// Where a model is on its way into service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelState {
    /// Known, nothing done yet.
    Pending,
    /// Its files are being brought here.
    Fetching,
    /// It is tried where it can do no harm.
    Verifying,
    /// Requests of an earlier revision are waited for: at most two revisions are in memory.
    Waiting,
    /// Tokenizer and graph are being loaded.
    Loading,
    /// A first generation is being run.
    Warming,
    /// It is here and has been tried, and waits for its turn to serve.
    Prepared,
    /// The wanted revision answers.
    Ready,
    /// It has given its memory back and is loaded again when a request comes.
    Unloaded,
    /// The wanted revision does not come into service; the reason says why, and whether it is tried again.
    Failed,
}

impl ModelState {
    /// The word in readiness and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Fetching => "fetching",
            Self::Verifying => "verifying",
            Self::Waiting => "waiting",
            Self::Loading => "loading",
            Self::Warming => "warming",
            Self::Prepared => "prepared",
            Self::Ready => "ready",
            Self::Unloaded => "unloaded",
            Self::Failed => "failed",
        }
    }
}

/// Why a revision did not come into service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Of which revision.
    pub revision: String,
    /// One word.
    pub reason: Reason,
    /// For a person.
    pub message: String,
    /// When.
    pub at: SystemTime,
}

/// What can be told about a model.
#[derive(Debug, Clone)]
pub struct Status {
    /// The wanted revision: hash of the spec as given.
    pub revision: String,
    /// Where that is.
    pub state: ModelState,
    /// Why, for a person; empty when there is nothing to explain.
    pub message: String,
    /// How far a download is.
    pub progress: Option<Progress>,
    /// The last failure; stays until another revision is in service.
    pub last_failure: Option<Failure>,
    /// The last ones, the newest last; they stay.
    pub recent_failures: Vec<Failure>,
    /// The revision that is brought here and tried ahead of its service.
    pub ahead: Option<Preparation>,
    /// Revisions that are here and have been tried ahead of their service.
    pub prepared: Vec<String>,
    /// When what answers now began to.
    pub serving_since: Option<SystemTime>,
    /// The same, by a clock that nobody sets.
    pub serving_from: Option<Instant>,
}

/// A revision that is brought here and tried ahead of its service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preparation {
    /// Hash of its spec.
    pub revision: String,
    /// Fetching, verifying, prepared or failed.
    pub state: ModelState,
    /// Of the manifest of its files, once they are here.
    pub digest: Option<Digest>,
    /// Why it failed, or waits for another attempt.
    pub failure: Option<(Reason, String)>,
}

/// One model, for as long as it is desired.
pub(super) struct Slot {
    pub(super) key: ModelName,
    pub(super) serving: ArcSwapOption<LoadedModel>,
    status: Mutex<Status>,
    /// Woken at every change of pointer or state.
    changed: watch::Sender<()>,
    /// A request wants a model that is not loaded.
    pub(super) demanded: Notify,
    /// Another model needs the memory of this one, if nobody uses it.
    pub(super) asked_to_sleep: Notify,
    /// Whether requests wait for a model that is not loaded, because it will be soon.
    holds_requests: AtomicBool,
    waiting: AtomicUsize,
    most_waiting: AtomicUsize,
    /// Whether it makes room for its next revision, and the process is not to be sent requests meanwhile.
    leaving: AtomicBool,
    /// Whether it was desired when the process began to serve: only then readiness waits for it.
    pub(super) from_the_start: bool,
    /// What served before and may still be held by requests.
    going: Mutex<Vec<Weak<LoadedModel>>>,
}

impl Slot {
    pub(super) fn new(key: ModelName, revision: &str, from_the_start: bool) -> Arc<Self> {
        let status = Status {
            revision: revision.to_owned(),
            state: ModelState::Pending,
            message: String::new(),
            progress: None,
            last_failure: None,
            recent_failures: Vec::new(),
            ahead: None,
            prepared: Vec::new(),
            serving_since: None,
            serving_from: None,
        };
        Arc::new(Self {
            key,
            serving: ArcSwapOption::empty(),
            status: Mutex::new(status),
            changed: watch::channel(()).0,
            demanded: Notify::new(),
            asked_to_sleep: Notify::new(),
            holds_requests: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            most_waiting: AtomicUsize::new(0),
            leaving: AtomicBool::new(false),
            from_the_start,
            going: Mutex::default(),
        })
    }

    /// Waits until the model answers, if it is on its way because of requests.
    pub(super) async fn wait(&self, patience: Duration) -> Result<Pinned, Unavailable> {
        let _place = Waiting::enter(self)?;
        let mut changed = self.changed.subscribe();
        let arrives = async {
            loop {
                if let Some(model) = self.serving.load_full() {
                    return Ok(Pinned::new(model));
                }
                if !self.holds_requests.load(Ordering::Acquire) {
                    return Err(self.not_ready());
                }
                self.demanded.notify_one();
                // The sender lives in this slot.
                drop(changed.changed().await);
            }
        };
        tokio::time::timeout(patience, arrives).await.unwrap_or_else(|_elapsed| Err(self.not_ready()))
    }

    fn not_ready(&self) -> Unavailable {
        let status = self.status();
        Unavailable::NotReady {
            name: self.key.clone(),
            state: status.state.label(),
            message: status.message.clone(),
        }
    }

    /// What answers now.
    pub(super) fn serving(&self) -> Option<Arc<LoadedModel>> {
        self.serving.load_full()
    }

    /// Moves the pointer. What answered before stays known until nobody holds it.
    pub(super) fn swap(&self, model: Option<Arc<LoadedModel>>) -> Option<Arc<LoadedModel>> {
        if let Some(model) = &model {
            self.remember(model);
        }
        let mut status = self.status();
        status.serving_since = model.as_ref().map(|_| SystemTime::now());
        status.serving_from = model.as_ref().map(|_| Instant::now());
        drop(status);
        let before = self.serving.swap(model);
        self.changed.send_replace(());
        before
    }

    /// Whether the process is not to be sent requests while the model makes room for its next revision.
    pub(super) fn set_leaving(&self, leaving: bool) {
        self.leaving.store(leaving, Ordering::Release);
        self.changed.send_replace(());
    }

    /// Whether nobody is to send requests here now. What has failed for good is not on its way any more.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire) && self.status().state != ModelState::Failed
    }

    /// Whether requests wait while there is no model, and how many of them.
    pub(super) fn hold_requests(&self, hold: bool, most: usize) {
        self.most_waiting.store(most, Ordering::Release);
        self.holds_requests.store(hold, Ordering::Release);
        self.changed.send_replace(());
    }

    /// Tells where the wanted revision is.
    pub(super) fn set_state(&self, revision: &str, state: ModelState, message: &str) {
        let mut status = self.status();
        revision.clone_into(&mut status.revision);
        status.state = state;
        message.clone_into(&mut status.message);
        status.progress = None;
        if state == ModelState::Ready && message.is_empty() {
            status.last_failure = None;
        }
        drop(status);
        self.changed.send_replace(());
    }

    /// Lets probes and admin page see a download.
    pub(super) fn set_progress(&self, progress: &Progress) {
        self.status().progress = Some(progress.clone());
    }

    /// Tells how far a revision is that is brought here ahead of its service; where it is the wanted one, that is the state.
    pub(super) fn set_ahead(&self, ahead: Option<Preparation>) {
        let serves = self.serving.load().is_some();
        let mut status = self.status();
        if let Some(Preparation { revision, state, failure, .. }) = &ahead
            && *revision == status.revision
            && !serves
        {
            status.state = *state;
            status.message =
                failure.as_ref().map_or_else(String::new, |(reason, message)| format!("{reason}: {message}"));
        }
        status.ahead = ahead;
        drop(status);
        self.changed.send_replace(());
    }

    /// Tells which revisions are here and have been tried.
    pub(super) fn set_prepared(&self, revisions: Vec<String>) {
        self.status().prepared = revisions;
    }

    /// Notes a failure; the state is told by itself.
    pub(super) fn set_failure(&self, failure: Failure) {
        let mut status = self.status();
        let surplus = (status.recent_failures.len() + 1).saturating_sub(MOST_FAILURES);
        status.recent_failures.drain(..surplus);
        status.recent_failures.push(failure.clone());
        status.last_failure = Some(failure);
    }

    /// Notes why a revision is not tried again, unless that is known.
    pub(super) fn set_failure_of(&self, revision: &str, reason: Reason, message: &str) {
        let mut status = self.status();
        if status
            .last_failure
            .as_ref()
            .is_none_or(|known| known.revision != revision || known.reason != reason)
        {
            let (revision, message) = (revision.to_owned(), message.to_owned());
            status.last_failure = Some(Failure { revision, reason, message, at: SystemTime::now() });
        }
    }

    pub(super) fn status(&self) -> MutexGuard<'_, Status> {
        // Plain values are whole whatever happened to another holder.
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, model: &Arc<LoadedModel>) {
        let mut going = self.going.lock().unwrap_or_else(PoisonError::into_inner);
        going.retain(|known| known.strong_count() > 0 && !known.ptr_eq(&Arc::downgrade(model)));
        going.push(Arc::downgrade(model));
    }

    /// Everything that was loaded for this slot and is still held by somebody, what answers now included.
    pub(super) fn going(&self) -> Vec<Arc<LoadedModel>> {
        let going = self.going.lock().unwrap_or_else(PoisonError::into_inner);
        going.iter().filter_map(Weak::upgrade).collect()
    }
}

/// A request that waits for a model; counted until it is dropped.
struct Waiting<'a>(&'a Slot);

impl<'a> Waiting<'a> {
    fn enter(slot: &'a Slot) -> Result<Self, Unavailable> {
        let waiting = slot.waiting.fetch_add(1, Ordering::AcqRel);
        let entered = Self(slot);
        if slot.holds_requests.load(Ordering::Acquire) && waiting >= slot.most_waiting.load(Ordering::Acquire)
        {
            return Err(Unavailable::Overloaded { name: slot.key.clone(), waiting });
        }
        Ok(entered)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}
