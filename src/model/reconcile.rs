//! The model flow: fetch → load → warm → publish, with the registry telling the truth at every moment.
//!
//! A fetch that may succeed later is tried again with growing pauses; anything else fails for good, with its reason.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::load::{self, LoadError, LoadLimits, LoadRequest};
use super::source::{FetchError, Fetcher, Progress};
use super::spec::Source;
use super::{LoadedModel, ModelName, ModelState, Registry};
use crate::engine::ort::Runtime;
use crate::metrics::{LoadPhase, Metrics};

/// Pause after the first failed fetch; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// A hub that is down for an hour is asked about once a minute.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// A model to bring into service.
#[derive(Debug, Clone)]
pub struct ModelSpec {
    /// The served name.
    pub name: ModelName,
    /// The graph, with its folder.
    pub source: Source,
    /// The tokenizer, when it is not in the model's folder.
    pub tokenizer: Option<Source>,
    /// Limits of the loaded model.
    pub limits: LoadLimits,
}

/// What the flow works with.
#[derive(Clone)]
pub struct Workshop {
    /// Brings files here.
    pub fetcher: Fetcher,
    /// Loads graphs.
    pub runtime: Runtime,
    /// Where models are published.
    pub registry: Arc<Registry>,
    /// Where times are recorded.
    pub metrics: Arc<Metrics>,
}

/// Why a model did not come into service.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// Its files could not be had.
    #[error("failed to fetch the model")]
    Fetch(#[from] FetchError),
    /// Its files make no model that answers.
    #[error("failed to load the model")]
    Load(#[from] LoadError),
    /// Loading panicked.
    #[error("the loading thread was lost")]
    Lost,
}

impl ModelSpec {
    /// Hash of the spec as given: 12 hexadecimal digits.
    pub fn revision(&self) -> String {
        let tokenizer = self.tokenizer.as_ref().map(ToString::to_string).unwrap_or_default();
        let given = format!("{}\n{}\n{tokenizer}", self.name, self.source);
        let digest = Sha256::digest(given.as_bytes());
        let head = digest.first_chunk().copied().map(u64::from_be_bytes).unwrap_or_default();
        format!("{:012x}", head >> 16)
    }
}

impl Workshop {
    /// Brings a model into service, however long that takes. Returns it, or `None` when it failed for good.
    pub async fn bring_up(&self, spec: &ModelSpec) -> Option<Arc<LoadedModel>> {
        let revision = spec.revision();
        self.registry.add(&spec.name, &revision);
        self.metrics.model_ready(spec.name.as_str(), false);
        let mut pause = FIRST_PAUSE;
        loop {
            match self.attempt(spec, &revision).await {
                Ok(model) => {
                    self.registry.publish(&model);
                    self.metrics.model_ready(spec.name.as_str(), true);
                    tracing::info!(model = %model.name, revision, "model ready");
                    return Some(model);
                }
                Err(AttemptError::Fetch(error)) if !error.is_permanent() => {
                    let wait = error.retry_after().unwrap_or(pause).max(pause);
                    let reason = chain(&error);
                    tracing::warn!(model = %spec.name, reason, retry_in_seconds = wait.as_secs(), "fetch failed");
                    let told = format!("{reason}; tried again within {} s", wait.as_secs());
                    self.registry.set_state(&spec.name, ModelState::Fetching, &told, None);
                    tokio::time::sleep(jittered(wait)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(error) => {
                    let reason = chain(&error);
                    tracing::error!(model = %spec.name, reason, "model failed");
                    self.registry.set_state(&spec.name, ModelState::Failed, &reason, None);
                    return None;
                }
            }
        }
    }

    /// Goes through the phases once without publishing: whether the model would come into service.
    ///
    /// # Errors
    /// The first phase that failed.
    pub async fn try_once(&self, spec: &ModelSpec) -> Result<Arc<LoadedModel>, AttemptError> {
        self.attempt(spec, &spec.revision()).await
    }

    /// One pass through the phases.
    async fn attempt(&self, spec: &ModelSpec, revision: &str) -> Result<Arc<LoadedModel>, AttemptError> {
        let progress = Progress::default();
        self.registry.set_state(&spec.name, ModelState::Fetching, "", Some(&progress));
        let started = Instant::now();
        let files = self.fetcher.model_files(&spec.source, &progress).await?;
        let tokenizer_source = spec.tokenizer.as_ref().unwrap_or(&spec.source);
        let tokenizer = self.fetcher.tokenizer_files(tokenizer_source, &progress).await?;
        self.finish_phase(spec, LoadPhase::Fetch, started);

        self.registry.set_state(&spec.name, ModelState::Loading, "", None);
        let started = Instant::now();
        let request = LoadRequest {
            name: spec.name.clone(),
            revision: revision.to_owned(),
            graph: files.graph,
            tokenizer: tokenizer.tokenizer,
            limits: spec.limits,
        };
        let (runtime, metrics) = (self.runtime.clone(), Arc::clone(&self.metrics));
        let model = tokio::task::spawn_blocking(move || load::load(&runtime, request, &metrics))
            .await
            .map_err(|_panicked| AttemptError::Lost)??;
        self.finish_phase(spec, LoadPhase::Load, started);

        self.registry.set_state(&spec.name, ModelState::Warming, "", None);
        let started = Instant::now();
        load::warm(&model).await?;
        self.finish_phase(spec, LoadPhase::Warm, started);
        Ok(Arc::new(model))
    }

    fn finish_phase(&self, spec: &ModelSpec, phase: LoadPhase, started: Instant) {
        let duration = started.elapsed();
        self.metrics.model_load(spec.name.as_str(), phase, duration);
        let duration_ms = duration.as_millis() as u64;
        tracing::info!(model = %spec.name, phase = phase.label(), duration_ms, "model phase done");
    }
}

/// The error with its causes, as one line for a person.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let message = inner.to_string();
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = inner.source();
    }
    text
}

/// Between 75 and 100 % of the pause, so that many gateways do not ask at once.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.75..=1.0))
}
