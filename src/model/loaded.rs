//! A model that can answer, and the hold that a request has on it.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, watch};

use super::health::Health;
use super::manifest::Digest;
use super::reaper::Reaper;
use super::{LiveLimits, ModelName};
use crate::engine::{Engine, TokenId};
use crate::metrics::ModelMetrics;
use crate::text::chat::{Chat, NoChat};
use crate::text::constraint::Grammars;
use crate::text::prompts::Prompts;
use crate::text::tokenizer::Tokenizer;

/// A model that can answer. When the last hold on it is gone, its memory is given back by a thread of its own.
pub struct LoadedModel {
    /// The name that answers carry.
    pub name: ModelName,
    /// Hash of the spec as given.
    pub revision: String,
    /// Of the manifest of its files, when it is known.
    pub digest: Option<Digest>,
    /// Memory that loading it took, in bytes.
    pub memory_bytes: u64,
    /// Memory that its caches may come to take, in bytes.
    pub promised_bytes: u64,
    /// Text to tokens and back.
    pub tokenizer: Arc<Tokenizer>,
    /// Tokens that end a text, from the model's own files.
    pub end_tokens: Vec<TokenId>,
    /// Messages to a prompt, or why that cannot be.
    pub chat: Result<Arc<Chat>, NoChat>,
    /// Compiles what outputs have to look like.
    pub grammars: Arc<Grammars>,
    /// The right to compile one.
    pub compiling: Arc<Semaphore>,
    /// Runs the generations.
    pub engine: Engine,
    /// The model's own metrics.
    pub metrics: ModelMetrics,
    /// How its generations end.
    pub health: Health,
    live: ArcSwap<LiveLimits>,
    prompts: ArcSwap<Prompts>,
    in_flight: AtomicUsize,
    /// Milliseconds from `born` to the end of the last request.
    used: AtomicU64,
    born: Instant,
    reaper: Reaper,
    freed: watch::Sender<bool>,
}

/// What [`LoadedModel::new`] takes from loading.
pub(super) struct Parts {
    pub(super) name: ModelName,
    pub(super) revision: String,
    pub(super) digest: Option<Digest>,
    pub(super) memory_bytes: u64,
    pub(super) promised_bytes: u64,
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) end_tokens: Vec<TokenId>,
    pub(super) chat: Result<Arc<Chat>, NoChat>,
    pub(super) engine: Engine,
    pub(super) metrics: ModelMetrics,
    pub(super) live: LiveLimits,
    pub(super) prompts: Arc<Prompts>,
}

impl LoadedModel {
    pub(super) fn new(parts: Parts, reaper: &Reaper) -> Arc<Self> {
        let Parts {
            name,
            revision,
            digest,
            memory_bytes,
            promised_bytes,
            tokenizer,
            end_tokens,
            chat,
            engine,
            metrics,
            live,
            prompts,
        } = parts;
        engine.set_limits(live.concurrent, live.queue);
        metrics.queue_limit(live.queue);
        Arc::new(Self {
            name,
            revision,
            digest,
            memory_bytes,
            promised_bytes,
            grammars: Arc::new(Grammars::new(Arc::clone(&tokenizer), &end_tokens)),
            compiling: Arc::new(Semaphore::new(1)),
            tokenizer,
            end_tokens,
            chat,
            engine,
            metrics,
            health: Health::default(),
            live: ArcSwap::from_pointee(live),
            prompts: ArcSwap::new(prompts),
            in_flight: AtomicUsize::new(0),
            used: AtomicU64::new(0),
            born: Instant::now(),
            reaper: reaper.clone(),
            freed: watch::channel(false).0,
        })
    }

    /// A model whose parts are made and not loaded, for what checks requests against one.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn without_files(
        (tokenizer, chat, prompts): (Arc<Tokenizer>, Chat, Prompts),
        engine: Engine,
        metrics: ModelMetrics,
    ) -> Arc<Self> {
        let live = LiveLimits {
            concurrent: 1,
            queue: 4,
            output_tokens: None,
            request_timeout: Duration::from_mins(1),
            unload_after_idle: None,
        };
        let parts = Parts {
            name: "fuzzed".parse().expect("a name"),
            revision: "0123456789".to_owned(),
            digest: None,
            memory_bytes: 0,
            promised_bytes: 0,
            tokenizer,
            end_tokens: Vec::new(),
            chat: Ok(Arc::new(chat)),
            engine,
            metrics,
            live,
            prompts: Arc::new(prompts),
        };
        Self::new(parts, &Reaper::start().expect("the system has a thread"))
    }

    /// The limits of this moment.
    pub fn live(&self) -> LiveLimits {
        **self.live.load()
    }

    /// Changes the limits; what runs goes on.
    pub(super) fn set_live(&self, live: LiveLimits) {
        self.engine.set_limits(live.concurrent, live.queue);
        self.metrics.queue_limit(live.queue);
        self.live.store(Arc::new(live));
    }

    /// The prompt templates of this moment.
    pub fn prompts(&self) -> Arc<Prompts> {
        self.prompts.load_full()
    }

    /// Changes the prompt templates for the requests that come from now on.
    pub(super) fn set_prompts(&self, prompts: Arc<Prompts>) {
        self.prompts.store(prompts);
    }

    /// Requests that hold it.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Time since the last request ended, or since it was loaded; zero while one runs.
    pub(super) fn idle(&self) -> Duration {
        if self.in_flight() > 0 {
            return Duration::ZERO;
        }
        self.born.elapsed().saturating_sub(Duration::from_millis(self.used.load(Ordering::Acquire)))
    }

    /// Turns true when nobody holds it any more and its memory has been given back.
    pub(super) fn freed(&self) -> watch::Receiver<bool> {
        self.freed.subscribe()
    }
}

impl Drop for LoadedModel {
    fn drop(&mut self) {
        self.reaper.bury(self.engine.clone(), self.freed.clone());
    }
}

/// A request's hold on its model, for the request's whole life: a swap never tears a stream.
pub struct Pinned(Arc<LoadedModel>);

impl Pinned {
    /// A hold on a model.
    pub fn new(model: Arc<LoadedModel>) -> Self {
        model.in_flight.fetch_add(1, Ordering::AcqRel);
        Self(model)
    }
}

impl Deref for Pinned {
    type Target = LoadedModel;

    fn deref(&self) -> &LoadedModel {
        &self.0
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.0.used.store(self.0.born.elapsed().as_millis() as u64, Ordering::Release);
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}
