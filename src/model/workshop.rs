//! The steps that bring a model into memory, each by itself: fetch, load, warm. The keeper puts them in order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::history::StateFolder;
use super::load::{self, LoadError, LoadRequest, Opened};
use super::loaded::Parts;
use super::reaper::Reaper;
use super::room::InsufficientMemory;
use super::source::Progress;
use super::spec::Isolation;
use super::store::{PrepareError, Prepared, Store, Wanted};
use super::verify::{self, ChildBounds, VerifyError, VerifyReport, VerifyRequest};
use super::{LoadedModel, ModelName, Reason, Registry, Target};
use crate::engine::ort::Runtime;
use crate::failpoint;
use crate::memory;
use crate::metrics::{LoadPhase, Metrics};
use crate::telemetry::{Phase, Traces};

/// A model that is asked for its memory and does not give it in this time has got a request.
const LONGEST_FALLING_ASLEEP: Duration = Duration::from_secs(5);

/// What the steps work with. Cheap to clone.
#[derive(Clone)]
pub struct Workshop {
    store: Store,
    runtime: Runtime,
    pub(super) registry: Arc<Registry>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) traces: Traces,
    /// Where models note what they went through.
    pub(super) state: Option<Arc<StateFolder>>,
    trial: Arc<Trial>,
    reaper: Reaper,
    /// One model at a time is brought into memory: what is free is known only then.
    loading: Arc<Semaphore>,
    /// Memory that loading takes, of revisions that this process has tried, by revision and digest.
    tried: Arc<Mutex<BTreeMap<(String, String), u64>>>,
}

/// How models are tried before they are loaded.
#[derive(Debug, Clone)]
pub struct Trial {
    /// This program, which tries them in a process of its own.
    pub executable: PathBuf,
    /// Threads that it may use.
    pub threads: usize,
}

/// What came of trying a model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Verified {
    /// Memory that loading it takes.
    pub(super) needed_bytes: u64,
    /// Whether there was too little memory for the process of its own in which it was to be tried.
    pub(super) is_owed: bool,
}

/// The turn to bring a model into memory; also kept by a thread that is still loading one that nobody wants any more.
pub(super) type Turn = Arc<OwnedSemaphorePermit>;

/// Why a model did not come into service.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// Its files could not be had.
    #[error("failed to fetch the model")]
    Fetch(#[from] PrepareError),
    /// It failed where it was tried.
    #[error("failed to verify the model")]
    Verify(#[from] VerifyError),
    /// Its files make no model that answers.
    #[error("failed to load the model")]
    Load(#[from] LoadError),
    /// There is not enough memory for it.
    #[error(transparent)]
    Memory(#[from] InsufficientMemory),
    /// Loading panicked.
    #[error("the loading thread was lost")]
    Lost,
}

impl AttemptError {
    /// The reason in one word.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Fetch(error) => error.reason(),
            Self::Verify(error) => error.reason(),
            Self::Load(error) => error.reason(),
            Self::Memory(_) => Reason::InsufficientMemory,
            Self::Lost => Reason::Internal,
        }
    }

    /// Whether the same attempt fails again until somebody changes something.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Fetch(error) => error.is_permanent(),
            Self::Verify(_) | Self::Load(_) | Self::Memory(_) | Self::Lost => self.reason().is_permanent(),
        }
    }

    /// How long the other side asked to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Fetch(error) => error.retry_after(),
            Self::Verify(_) | Self::Load(_) | Self::Memory(_) | Self::Lost => None,
        }
    }
}

impl Workshop {
    /// A workshop; starts the thread that gives memory back.
    ///
    /// # Errors
    /// The operating system refused a thread.
    pub fn new(
        store: Store,
        runtime: Runtime,
        registry: Arc<Registry>,
        (metrics, traces): (Arc<Metrics>, Traces),
        (state, trial): (Option<StateFolder>, Trial),
    ) -> std::io::Result<Self> {
        let (reaper, loading) = (Reaper::start()?, Arc::new(Semaphore::new(1)));
        Ok(Self {
            store,
            runtime,
            registry,
            metrics,
            traces,
            state: state.map(Arc::new),
            trial: Arc::new(trial),
            reaper,
            loading,
            tried: Arc::default(),
        })
    }

    /// Tries a model where it can do no harm.
    ///
    /// Where it cannot be tried beside what serves for lack of memory, its files are looked at, and it is tried once it is
    /// loaded: the keeper decides whether it may come that far. `turn` is that of a caller who has it already.
    pub(super) async fn verify(
        &self,
        target: &Target,
        prepared: &Prepared,
        turn: Option<&Turn>,
    ) -> Result<Verified, AttemptError> {
        let phase = self.phase(&target.key, LoadPhase::Verify);
        let probes = format!("{:?}", target.verify);
        let what = prepared
            .digest
            .as_ref()
            .map(|digest| (format!("{}{probes}", target.revision), digest.to_string()));
        if let Some(known) = what.as_ref().and_then(|what| self.tried().get(what).copied()) {
            phase.forget();
            return Ok(Verified { needed_bytes: target.memory_bytes.unwrap_or(known), is_owed: false });
        }
        let request = VerifyRequest {
            name: target.key.clone(),
            graph: absolute(&prepared.graph)?,
            tokenizer: absolute(&prepared.tokenizer)?,
            limits: target.load,
            chat_template: target.templates.chat.clone(),
            verify: target.verify.clone(),
        };
        let checked = request.clone();
        let files = tokio::task::spawn_blocking(move || verify::check_files(&checked))
            .await
            .map_err(|_panicked| AttemptError::Lost)??;
        let (needed_bytes, is_owed) = match target.verify.isolation {
            // The probes are run once it is loaded.
            Isolation::InProcess => (files.memory_estimate_bytes, false),
            Isolation::Subprocess => {
                let _turn = match turn {
                    Some(turn) => Arc::clone(turn),
                    None => self.turn().await,
                };
                match self.free_for(target, files.memory_estimate_bytes).await {
                    Some(free_bytes) if files.memory_estimate_bytes > free_bytes => {
                        (files.memory_estimate_bytes, true)
                    }
                    free_bytes => {
                        let report = self.try_in_child(&request, free_bytes).await?;
                        if let Some(what) = what {
                            self.tried().insert(what, report.peak_bytes);
                        }
                        (report.peak_bytes, false)
                    }
                }
            }
        };
        phase.done();
        Ok(Verified { needed_bytes: target.memory_bytes.unwrap_or(needed_bytes), is_owed })
    }

    fn tried(&self) -> MutexGuard<'_, BTreeMap<(String, String), u64>> {
        // Plain numbers are whole whatever happened to another holder.
        self.tried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn try_in_child(
        &self,
        request: &VerifyRequest,
        free_bytes: Option<u64>,
    ) -> Result<VerifyReport, VerifyError> {
        let bounds = ChildBounds {
            executable: self.trial.executable.clone(),
            memory_bytes: free_bytes.unwrap_or(u64::MAX / 2),
            timeout: Duration::from_secs(request.verify.timeout_seconds.into()),
            library: absolute(self.runtime.library())?,
            threads: self.trial.threads,
        };
        verify::in_child(request, &bounds).await
    }

    /// What is free for a model; puts others to sleep that nobody uses until `needed_bytes` are, if that helps.
    pub(super) async fn free_for(&self, target: &Target, needed_bytes: u64) -> Option<u64> {
        loop {
            let free_bytes = memory::free_bytes(target.load.memory.process_bytes);
            let enough = free_bytes.is_none_or(|free| needed_bytes <= free);
            if enough || !self.put_one_to_sleep(&target.key).await {
                return free_bytes;
            }
        }
    }

    /// Removes models from the store that nobody uses, down to its limit. What is loaded, or kept to go back to, is held.
    pub(super) async fn prune(&self) {
        if !self.store.has_limit() {
            return;
        }
        match self.store.prune(&[]).await {
            Ok(0) => {}
            Ok(freed_bytes) => {
                tracing::info!(freed_bytes, "models that nobody uses were removed from the cache");
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "failed to prune the cache");
            }
        }
    }

    /// Asks the model that was used the longest time ago, of those that may give their memory back, to do so; false when
    /// there is none.
    async fn put_one_to_sleep(&self, for_whom: &ModelName) -> bool {
        let mut sleepy = None;
        for slot in self.registry.slots().into_iter().filter(|slot| slot.key != *for_whom) {
            let Some(model) = slot.serving() else {
                continue;
            };
            let idle = model.idle();
            if model.live().unload_after_idle.is_some()
                && model.in_flight() == 0
                && sleepy.as_ref().is_none_or(|(longest, _, _)| idle > *longest)
            {
                sleepy = Some((idle, slot, model.freed()));
            }
        }
        let Some((_, slot, mut freed)) = sleepy else {
            return false;
        };
        tracing::info!(model = %slot.key, needed_for = %for_whom, "asking for the memory of a model that nobody uses");
        slot.asked_to_sleep.notify_one();
        matches!(
            tokio::time::timeout(LONGEST_FALLING_ASLEEP, freed.wait_for(|freed| *freed)).await,
            Ok(Ok(_))
        )
    }

    /// Memory that the engines of other models may come to use, in bytes. An earlier revision of the same model goes soon.
    fn promised_to_others(&self, key: &ModelName) -> u64 {
        let others = self.registry.slots().into_iter().filter(|slot| slot.key != *key);
        others.filter_map(|slot| slot.serving()).map(|model| model.promised_bytes).sum()
    }

    /// Waits for the turn to bring a model into memory.
    pub(super) async fn turn(&self) -> Turn {
        let permit = Arc::clone(&self.loading).acquire_owned().await;
        Arc::new(permit.expect("the semaphore is never closed"))
    }

    /// Brings the files here.
    pub(super) async fn prepare(
        &self,
        target: &Target,
        progress: &Progress,
    ) -> Result<Prepared, AttemptError> {
        let phase = self.phase(&target.key, LoadPhase::Fetch);
        let wanted = Wanted {
            source: &target.source,
            tokenizer: target.tokenizer.as_ref(),
            digest: target.digest.as_ref(),
            in_place: target.in_place,
        };
        let prepared = self.store.prepare(&wanted, progress).await;
        self.metrics.fetched(progress.fetched_bytes());
        let prepared = prepared?;
        phase.done();
        Ok(prepared)
    }

    /// Brings a model to where it answers, for a process that serves nobody: tried as if it were to be served, but only once.
    /// Its files are held as long as what is returned beside it.
    ///
    /// # Errors
    /// The first step that failed.
    pub async fn bring(
        &self,
        target: &Target,
        progress: &Progress,
    ) -> Result<(Arc<LoadedModel>, Prepared), AttemptError> {
        let prepared = self.prepare(target, progress).await?;
        self.verify(target, &prepared, None).await?;
        let turn = self.turn().await;
        let model = self.load(target, &prepared, &turn).await?;
        Ok((model, prepared))
    }

    /// Brings a model into memory and runs a first generation.
    pub(super) async fn load(
        &self,
        target: &Target,
        prepared: &Prepared,
        turn: &Turn,
    ) -> Result<Arc<LoadedModel>, AttemptError> {
        let before = memory::resident_bytes().unwrap_or_default();
        let phase = self.phase(&target.key, LoadPhase::Load);
        let request = LoadRequest {
            model: target.key.clone(),
            graph: prepared.graph.clone(),
            tokenizer: prepared.tokenizer.clone(),
            chat_template: target.templates.chat.clone(),
            limits: target.load,
            promised_bytes: self.promised_to_others(&target.key),
        };
        let opened = self.open(request, turn).await?;
        // On a thread of ordinary priority, which the engine's thread inherits.
        let (runtime, metrics) = (self.runtime.clone(), Arc::clone(&self.metrics));
        let started_engine = tokio::task::spawn_blocking(move || load::start(&runtime, opened, &metrics))
            .await
            .map_err(|_panicked| AttemptError::Lost)??;
        phase.done();

        let slot = self.registry.slot(&target.key);
        if let Some(slot) = slot {
            slot.set_state(&target.revision, super::ModelState::Warming, "");
        }
        let phase = self.phase(&target.key, LoadPhase::Warm);
        let loaded = memory::resident_bytes().unwrap_or_default().saturating_sub(before);
        if failpoint::is("in-warm-up", "fail") {
            return Err(VerifyError::Probe("a fault that was asked for".to_owned()).into());
        }
        verify::in_process(&started_engine, &target.verify).await?;
        let load::Started { tokenizer, end_tokens, chat, engine, metrics, promised_bytes } = started_engine;
        let model = LoadedModel::new(
            Parts {
                name: target.served_name().clone(),
                revision: target.revision.clone(),
                digest: prepared.digest.clone(),
                memory_bytes: loaded,
                promised_bytes,
                tokenizer,
                end_tokens,
                chat,
                engine,
                metrics,
                live: target.live,
                prompts: Arc::clone(&target.templates.prompts),
            },
            &self.reaper,
        );
        phase.done();
        Ok(model)
    }

    /// Loads on a thread of its own that gives way to all others, so that running streams feel little of it.
    async fn open(&self, request: LoadRequest, turn: &Turn) -> Result<Opened, AttemptError> {
        let (runtime, turn) = (self.runtime.clone(), Arc::clone(turn));
        let (sender, opened) = oneshot::channel();
        let thread = std::thread::Builder::new().name("loader".to_owned());
        let spawned = thread.spawn(move || {
            memory::give_way();
            failpoint::at("before-load");
            if sender.send(load::open(&runtime, request)).is_err() {
                // Nobody wants it any more.
                memory::trim();
            }
            drop(turn);
        });
        spawned.map_err(LoadError::Thread)?;
        Ok(opened.await.map_err(|_panicked| AttemptError::Lost)??)
    }

    fn phase<'a>(&'a self, model: &'a ModelName, phase: LoadPhase) -> TimedPhase<'a> {
        let span = self.traces.phase(phase.label(), model.as_str());
        TimedPhase { workshop: self, model, phase, span }
    }
}

/// A phase of bringing a model into service; one that fails is in the trace alone.
struct TimedPhase<'a> {
    workshop: &'a Workshop,
    model: &'a ModelName,
    phase: LoadPhase,
    span: Phase,
}

impl TimedPhase<'_> {
    fn done(self) {
        let Self { workshop, model, phase, span } = self;
        let duration = span.done();
        workshop.metrics.model_load(model.as_str(), phase, duration);
        let duration_ms = duration.as_millis() as u64;
        tracing::info!(%model, phase = phase.label(), duration_ms, "model phase done");
    }

    /// There was nothing to do.
    fn forget(self) {
        self.span.forget();
    }
}

/// The child works in another folder.
fn absolute(path: &Path) -> Result<PathBuf, VerifyError> {
    std::path::absolute(path).map_err(|source| VerifyError::Process { attempt: "find the files for", source })
}
