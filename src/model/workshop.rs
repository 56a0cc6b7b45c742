//! The steps that bring a model into memory, each by itself: fetch, load, warm. The keeper puts them in order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::history::StateFolder;
use super::load::{self, LoadError, LoadRequest, Opened};
use super::loaded::Parts;
use super::reaper::Reaper;
use super::room::InsufficientMemory;
use super::source::Progress;
use super::store::{PrepareError, Prepared, Store, Wanted};
use super::{LoadedModel, ModelName, Reason, Registry, Target};
use crate::engine::ort::Runtime;
use crate::memory;
use crate::metrics::{LoadPhase, Metrics};

/// A model that is asked for its memory and does not give it in this time has got a request.
const LONGEST_FALLING_ASLEEP: Duration = Duration::from_secs(5);

/// What the steps work with. Cheap to clone.
#[derive(Clone)]
pub struct Workshop {
    store: Store,
    runtime: Runtime,
    pub(super) registry: Arc<Registry>,
    pub(super) metrics: Arc<Metrics>,
    /// Where models note what they went through.
    pub(super) state: Option<Arc<StateFolder>>,
    reaper: Reaper,
    /// One model at a time is brought into memory: what is free is known only then.
    loading: Arc<Semaphore>,
}

/// The turn to bring a model into memory; also kept by a thread that is still loading one that nobody wants any more.
pub(super) type Turn = Arc<OwnedSemaphorePermit>;

/// Why a model did not come into service.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// Its files could not be had.
    #[error("failed to fetch the model")]
    Fetch(#[from] PrepareError),
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
            Self::Load(error) => error.reason(),
            Self::Memory(_) => Reason::InsufficientMemory,
            Self::Lost => Reason::Internal,
        }
    }

    /// Whether the same attempt fails again until somebody changes something.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Fetch(error) => error.is_permanent(),
            Self::Load(_) | Self::Memory(_) | Self::Lost => self.reason().is_permanent(),
        }
    }

    /// How long the other side asked to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Fetch(error) => error.retry_after(),
            Self::Load(_) | Self::Memory(_) | Self::Lost => None,
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
        metrics: Arc<Metrics>,
        state: Option<StateFolder>,
    ) -> std::io::Result<Self> {
        let (reaper, loading) = (Reaper::start()?, Arc::new(Semaphore::new(1)));
        Ok(Self { store, runtime, registry, metrics, state: state.map(Arc::new), reaper, loading })
    }

    /// Goes through the steps once without publishing: whether the model would come into service.
    ///
    /// # Errors
    /// The first step that failed.
    pub async fn try_once(&self, target: &Target) -> Result<Arc<LoadedModel>, AttemptError> {
        let prepared = self.prepare(target, &Progress::default()).await?;
        let turn = self.turn().await;
        self.load(target, &prepared, &turn).await
    }

    /// Tries a model where it can do no harm.
    pub(super) async fn verify(&self, _target: &Target, _prepared: &Prepared) -> Result<(), AttemptError> {
        Ok(())
    }

    /// About the memory that loading takes.
    pub(super) fn needed_bytes(&self, target: &Target) -> u64 {
        target.memory_bytes.unwrap_or(0)
    }

    /// Asks the model that was used the longest time ago, of those that may give their memory back, to do so; false when
    /// there is none.
    pub(super) async fn put_one_to_sleep(&self, for_whom: &ModelName) -> bool {
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
        let started = Instant::now();
        let wanted = Wanted {
            source: &target.source,
            tokenizer: target.tokenizer.as_ref(),
            digest: target.digest.as_ref(),
            in_place: target.in_place,
        };
        let prepared = self.store.prepare(&wanted, progress).await?;
        self.finish_phase(&target.key, LoadPhase::Fetch, started);
        Ok(prepared)
    }

    /// Brings a model into memory and runs a first generation.
    pub(super) async fn load(
        &self,
        target: &Target,
        prepared: &Prepared,
        turn: &Turn,
    ) -> Result<Arc<LoadedModel>, AttemptError> {
        let before = memory::resident_bytes().unwrap_or_default();
        let started = Instant::now();
        let request = LoadRequest {
            model: target.key.clone(),
            graph: prepared.graph.clone(),
            tokenizer: prepared.tokenizer.clone(),
            limits: target.load,
            promised_bytes: 0,
        };
        let opened = self.open(request, turn).await?;
        // On a thread of ordinary priority, which the engine's thread inherits.
        let (runtime, metrics) = (self.runtime.clone(), Arc::clone(&self.metrics));
        let started_engine = tokio::task::spawn_blocking(move || load::start(&runtime, opened, &metrics))
            .await
            .map_err(|_panicked| AttemptError::Lost)??;
        self.finish_phase(&target.key, LoadPhase::Load, started);

        let slot = self.registry.slot(&target.key);
        if let Some(slot) = slot {
            slot.set_state(&target.revision, super::ModelState::Warming, "");
        }
        let started = Instant::now();
        let loaded = memory::resident_bytes().unwrap_or_default().saturating_sub(before);
        let load::Started { tokenizer, end_tokens, engine, metrics } = started_engine;
        let model = LoadedModel::new(
            Parts {
                name: target.served_name().clone(),
                revision: target.revision.clone(),
                digest: prepared.digest.clone(),
                memory_bytes: loaded,
                tokenizer,
                end_tokens,
                engine,
                metrics,
                live: target.live,
            },
            &self.reaper,
        );
        load::warm(&model.engine).await?;
        self.finish_phase(&target.key, LoadPhase::Warm, started);
        Ok(model)
    }

    /// Loads on a thread of its own that gives way to all others, so that running streams feel little of it.
    async fn open(&self, request: LoadRequest, turn: &Turn) -> Result<Opened, AttemptError> {
        let (runtime, turn) = (self.runtime.clone(), Arc::clone(turn));
        let (sender, opened) = oneshot::channel();
        let thread = std::thread::Builder::new().name("loader".to_owned());
        let spawned = thread.spawn(move || {
            memory::give_way();
            if sender.send(load::open(&runtime, request)).is_err() {
                // Nobody wants it any more.
                memory::trim();
            }
            drop(turn);
        });
        spawned.map_err(LoadError::Thread)?;
        Ok(opened.await.map_err(|_panicked| AttemptError::Lost)??)
    }

    pub(super) fn finish_phase(&self, model: &ModelName, phase: LoadPhase, started: Instant) {
        let duration = started.elapsed();
        self.metrics.model_load(model.as_str(), phase, duration);
        let duration_ms = duration.as_millis() as u64;
        tracing::info!(%model, phase = phase.label(), duration_ms, "model phase done");
    }
}
