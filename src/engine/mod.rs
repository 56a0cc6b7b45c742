//! The engine: token ids in, token ids out. It knows no text, no HTTP and no Kubernetes.
//!
//! ```text
//! Engine::submit ──mailbox──▶ worker thread ──▶ plan ─▶ forward ─▶ sample ─▶ emit ──stream──▶ TokenStream
//! (any task)                  owns all state     scheduler  backend   sampler
//! ```
//!
//! One plain thread per engine owns the sequences, the rows and the backend; no lock is on the token path. Dropping a
//! [`TokenStream`] cancels its request: the worker sees the closed stream before the next step and frees the row.

mod backend;
#[cfg(test)]
mod fake;
mod lookup;
mod mask;
pub mod ort;
mod places;
mod prefix;
mod pulse;
mod request;
mod sampler;
mod scheduler;
mod sequence;
#[cfg(test)]
mod tests;
mod turns;
mod waiting;
mod worker;

use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, watch};

pub use backend::{Backend, BackendError, Batch, Feeding, Geometry, Input, Wanted};
pub use mask::{Mask, MaskError};
pub use places::{Lane, Place};
pub use pulse::RunningStep;
pub use request::{EngineError, Event, Finish, Finished, Request, Sampling, TokenId, TokenLogprobs};
pub use sampler::{Pick, SampleError, Sampler, Scratch};
pub use turns::Turns;

use crate::metrics::ModelMetrics;
use places::{NoPlace, Places};
use pulse::Pulse;
use sequence::Sequence;
use worker::{Message, Worker};

/// Limits of one engine.
#[derive(Debug, Clone, Copy)]
pub struct EngineLimits {
    /// Tokens of a prompt that are fed in one run, at least 1.
    pub chunk_tokens: usize,
    /// Requests that may wait for a row.
    pub queue: usize,
    /// Tokens of cache that running sequences may come to need, prompt and output together.
    pub cache_tokens: usize,
    /// Bytes of kept beginnings of prompts; 0 keeps none.
    pub prefix_bytes: usize,
    /// Tokens that are drafted at most for a sequence that decodes alone; 0 drafts none. Without effect when the
    /// backend cannot verify drafts.
    pub draft_tokens: usize,
}

/// What an engine shares with others.
#[derive(Clone)]
pub struct Shared {
    /// Turns on the compute threads.
    pub turns: Arc<Turns>,
    /// The metrics of the model.
    pub metrics: ModelMetrics,
}

/// Handle to a running engine. Cheap to clone; the engine ends when the last handle and the last stream are gone.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    mailbox: std_mpsc::Sender<Message>,
    places: Arc<Places>,
    geometry: Geometry,
    cache_tokens: usize,
    /// Whether tokens are drafted for sequences that decode alone.
    drafts: bool,
    pulse: Arc<Pulse>,
    alive: watch::Receiver<bool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The tokens of one request as they are picked. Dropping it cancels the request.
pub struct TokenStream {
    events: mpsc::Receiver<Result<Event, EngineError>>,
}

impl Engine {
    /// Starts the worker thread, named after the model.
    ///
    /// # Errors
    /// The operating system refused a thread.
    pub fn start(
        name: &str,
        backend: Box<dyn Backend>,
        limits: EngineLimits,
        shared: Shared,
    ) -> std::io::Result<Self> {
        let geometry = backend.geometry();
        let (mailbox, messages) = std_mpsc::channel();
        let (alive_sender, alive) = watch::channel(true);
        let pulse = Arc::new(Pulse::new());
        let worker = Worker::new(backend, limits, messages, Arc::clone(&pulse), shared);
        let thread = std::thread::Builder::new().name(format!("engine-{name}")).spawn(move || {
            // Dropped at the end of the thread, also when the worker panics: the engine is then seen as dead.
            let _alive = AliveGuard(alive_sender);
            worker.run();
        })?;
        Ok(Self {
            inner: Arc::new(Inner {
                mailbox,
                places: Places::new(geometry.rows + limits.queue),
                geometry,
                cache_tokens: limits.cache_tokens,
                drafts: geometry.verifies_drafts && limits.draft_tokens > 0,
                pulse,
                alive,
                thread: Mutex::new(Some(thread)),
            }),
        })
    }

    /// Vocabulary, context and rows of the model.
    pub fn geometry(&self) -> Geometry {
        self.inner.geometry
    }

    /// Tokens that a sequence can have, prompt and output together: the context, or fewer where the memory for caches has
    /// not as many.
    pub fn longest_tokens(&self) -> usize {
        self.inner.geometry.context_tokens.min(self.inner.cache_tokens)
    }

    /// Turns false when the worker thread has ended, for whatever reason.
    pub fn alive(&self) -> watch::Receiver<bool> {
        self.inner.alive.clone()
    }

    /// The step that is running now; one that has run for long is stuck.
    pub fn running_step(&self) -> Option<RunningStep> {
        self.inner.pulse.running()
    }

    /// How many requests of a lane can be here at once, in rows and in the queue.
    pub fn places(&self, lane: Lane) -> usize {
        self.inner.places.total(lane)
    }

    /// Takes a place, in a row or in the queue, where clients are not told apart.
    ///
    /// # Errors
    /// See [`Self::reserve_in`].
    pub fn reserve(&self) -> Result<Place, EngineError> {
        self.reserve_in(Lane::COMMON)
    }

    /// Takes a place, in a row or in the queue.
    ///
    /// # Errors
    /// [`EngineError::Overloaded`] when all places are taken, [`EngineError::LaneFull`] when the lane has what it may have,
    /// [`EngineError::Stopped`] when the engine has ended.
    pub fn reserve_in(&self, lane: Lane) -> Result<Place, EngineError> {
        if !*self.inner.alive.borrow() {
            return Err(EngineError::Stopped);
        }
        self.inner.places.take(lane).map_err(|why| match why {
            NoPlace::Full(running) => EngineError::Overloaded { running },
            NoPlace::LaneFull(running) => EngineError::LaneFull { running },
        })
    }

    /// Changes, while it runs, how many sequences are generated at once and how many requests may wait. What has begun is
    /// not touched. There are never more rows than the engine was started with.
    pub fn set_limits(&self, rows: usize, queue: usize) {
        let rows = rows.clamp(1, self.inner.geometry.rows);
        self.inner.places.set_total(rows + queue);
        // A worker that is gone runs nothing.
        drop(self.inner.mailbox.send(Message::Rows(rows)));
    }

    /// Hands a request to the worker.
    ///
    /// # Errors
    /// The request does not fit the context or names tokens that do not exist; or the engine has ended.
    ///
    /// # Panics
    /// When the prompt is empty or no token is asked for: callers check outside input.
    pub fn submit(&self, place: Place, request: Request) -> Result<TokenStream, EngineError> {
        self.submit_masked(place, request, None)
    }

    /// As [`Engine::submit`], with a mask that rules out tokens.
    ///
    /// # Errors
    /// See [`Engine::submit`].
    ///
    /// # Panics
    /// See [`Engine::submit`].
    pub fn submit_masked(
        &self,
        place: Place,
        request: Request,
        mask: Option<Box<dyn Mask>>,
    ) -> Result<TokenStream, EngineError> {
        assert!(
            !request.prompt.is_empty() && request.max_tokens > 0,
            "a request has a prompt and asks for tokens"
        );
        self.check(&request)?;
        // `Prefilled` and `Finished`, or a failure, beside the tokens.
        let (sender, events) = mpsc::channel(request.max_tokens + 2);
        let sequence = Sequence::new(request, sender, place, self.inner.drafts).masked(mask);
        self.inner.mailbox.send(Message::Run(Box::new(sequence))).map_err(|_gone| EngineError::Stopped)?;
        Ok(TokenStream { events })
    }

    /// Whether a request can be run, as [`Self::submit`] finds out.
    ///
    /// # Errors
    /// The request does not fit the context or the memory, or names tokens that do not exist.
    pub fn check(&self, request: &Request) -> Result<(), EngineError> {
        let (vocabulary_size, context_tokens) =
            (self.inner.geometry.vocabulary_size, self.inner.geometry.context_tokens);
        if request.reserved_tokens() > self.inner.cache_tokens && request.reserved_tokens() <= context_tokens
        {
            return Err(EngineError::CacheExceeded {
                tokens: request.reserved_tokens(),
                available_tokens: self.inner.cache_tokens,
            });
        }
        if request.prompt.len() + request.max_tokens > context_tokens {
            return Err(EngineError::ContextExceeded {
                prompt_tokens: request.prompt.len(),
                max_tokens: request.max_tokens,
                context_tokens,
            });
        }
        match request.prompt.iter().find(|token| **token as usize >= vocabulary_size) {
            Some(&token) => Err(EngineError::UnknownToken { token, vocabulary_size }),
            None => Ok(()),
        }
    }

    /// Ends what the engine is doing: everything in it fails with `error`, and so does what is submitted later. Returns at
    /// once; the thread ends after its current step.
    pub fn end(&self, error: EngineError) {
        // A worker that is gone already needs no message.
        drop(self.inner.mailbox.send(Message::Stop(error)));
    }

    /// Ends the engine: everything in it fails with [`EngineError::ShuttingDown`]; waits for the thread, which gives the
    /// memory of the model back.
    ///
    /// Blocking: call it off the async threads.
    pub fn stop(&self) {
        self.end(EngineError::ShuttingDown);
        let thread = self.inner.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the engine thread had panicked");
        }
    }
}

impl TokenStream {
    /// The next event, or `None` after the end.
    pub async fn next(&mut self) -> Option<Result<Event, EngineError>> {
        self.events.recv().await
    }
}

struct AliveGuard(watch::Sender<bool>);

impl Drop for AliveGuard {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}
