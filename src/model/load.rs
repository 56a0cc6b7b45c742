//! Files to a model that answers: tokenizer, facts, graph, engine, and a first generation to warm it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::budget::{Budget, HugePages, MemoryLimits};
use super::files::{FileError, ModelFacts};
use super::layout::graph_files;
use super::{LoadedModel, ModelName};
use crate::engine::ort::{GraphHints, OrtError, Rows, Runtime};
use crate::engine::{Engine, EngineError, EngineLimits, Event, Request, Sampling, Shared};
use crate::memory;
use crate::metrics::Metrics;
use crate::text::tokenizer::{TextError, Tokenizer};

/// Limits of a loaded model.
#[derive(Debug, Clone, Copy)]
pub struct LoadLimits {
    /// Tokens that a sequence may have, when fewer than the model allows.
    pub context_tokens: Option<usize>,
    /// Sequences generated at once.
    pub rows: usize,
    /// Where caches lie.
    pub huge_pages: HugePages,
    /// Tokens of a prompt that are fed in one run, at least 1.
    pub chunk_tokens: usize,
    /// Requests that may wait for a row.
    pub queue: usize,
    /// Tokens that are drafted at most for a sequence that decodes alone; 0 drafts none.
    pub draft_tokens: usize,
    /// Memory.
    pub memory: MemoryLimits,
}

/// What is to be loaded.
pub(super) struct LoadRequest {
    pub(super) name: ModelName,
    pub(super) revision: String,
    pub(super) graph: PathBuf,
    pub(super) tokenizer: PathBuf,
    pub(super) limits: LoadLimits,
}

/// Why files do not make a model that answers. None of these gets better by trying again.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A JSON file is broken.
    #[error(transparent)]
    File(#[from] FileError),
    /// The tokenizer is broken.
    #[error("failed to load the tokenizer")]
    Tokenizer(#[from] TextError),
    /// The graph cannot be served.
    #[error(transparent)]
    Graph(#[from] OrtError),
    /// The tokenizer knows tokens that the graph does not.
    #[error(
        "the tokenizer does not fit the graph: it has {tokenizer} tokens, the graph's logits are {graph} wide; \
         set INFERENCE_DEFAULT_TOKENIZER to the tokenizer of this model"
    )]
    TokenizerMismatch {
        /// Tokens of the tokenizer.
        tokenizer: usize,
        /// Width of the logits.
        graph: usize,
    },
    /// Nobody says how long a text may be.
    #[error("no file says how many tokens the model takes: set INFERENCE_CONTEXT_LENGTH")]
    NoContextLength,
    /// More than the model was made for.
    #[error("INFERENCE_CONTEXT_LENGTH asks for {asked} tokens, the model takes {model}: set at most {model}")]
    ContextTooLong {
        /// As set.
        asked: usize,
        /// As the model's files say.
        model: usize,
    },
    /// The graph leaves no room for caches.
    #[error(
        "no memory is left for caches: {free_bytes} bytes are free and a token needs {token_bytes}; give the process \
         more, or raise INFERENCE_MEMORY_LIMIT or INFERENCE_CACHE_MEMORY if they are set"
    )]
    NoMemory {
        /// Bytes that are free.
        free_bytes: u64,
        /// Bytes of the cache of a token.
        token_bytes: u64,
    },
    /// Huge pages are memory at once, and there is not enough of it.
    #[error(
        "INFERENCE_HUGE_PAGES=always needs memory for {needed_tokens} tokens of cache (every row at its longest) and there is \
         memory for {available_tokens}: lower INFERENCE_MAX_BATCH_SIZE or INFERENCE_CONTEXT_LENGTH, or leave the choice to `auto`"
    )]
    HugePages {
        /// Rows times context.
        needed_tokens: usize,
        /// What fits.
        available_tokens: usize,
    },
    /// The engine's thread could not be started.
    #[error("failed to start the engine thread")]
    Thread(#[from] std::io::Error),
    /// The first generation failed.
    #[error("the first generation failed")]
    Warm(#[source] EngineError),
}

/// Loads a model. Blocking, for seconds: call it off the async threads.
///
/// # Errors
/// See [`LoadError`]; the message says what to change.
pub(super) fn load(
    runtime: &Runtime,
    request: LoadRequest,
    metrics: &Metrics,
) -> Result<LoadedModel, LoadError> {
    let LoadRequest { name, revision, graph, tokenizer: tokenizer_file, limits } = request;
    let tokenizer = Arc::new(Tokenizer::from_file(&tokenizer_file)?);
    let facts = ModelFacts::read(&folders(&graph, &tokenizer_file))?;
    let rows = Rows {
        rows: limits.rows,
        context_tokens: context_tokens(facts.context_tokens(), limits.context_tokens)?,
        huge_pages_up_to_bytes: limits.huge_pages.up_to_bytes(limits.memory),
    };
    let hints = GraphHints {
        head_size: facts.head_size(),
        kv_heads: facts.kv_heads(),
        tokens: Some(tokenizer.vocabulary_size()),
        names: facts.names()?,
    };
    let backend = runtime.load(&graph_files(&graph), &hints, rows)?;
    let width = backend.geometry().vocabulary_size;
    if tokenizer.vocabulary_size() > width {
        return Err(LoadError::TokenizerMismatch { tokenizer: tokenizer.vocabulary_size(), graph: width });
    }
    let end_tokens = facts.end_tokens(&tokenizer);
    if end_tokens.is_empty() {
        tracing::warn!(model = %name, "no file names an end-of-text token: every generation runs to its token limit");
    }
    if limits.draft_tokens > 0 && !backend.geometry().verifies_drafts {
        tracing::warn!(model = %name, "this kind of graph cannot verify drafts: INFERENCE_SPECULATIVE_TOKENS has no effect");
    }
    let model_metrics = metrics.model(name.as_str());
    let budget =
        Budget::new(limits.memory, backend.geometry(), memory::resident_bytes().unwrap_or_default())?;
    let needed_tokens = rows.rows * rows.context_tokens;
    if limits.huge_pages == HugePages::Always && budget.cache_tokens < needed_tokens {
        return Err(LoadError::HugePages { needed_tokens, available_tokens: budget.cache_tokens });
    }
    tracing::info!(
        model = %name,
        cache_tokens = budget.cache_tokens,
        cache_bytes_per_token = backend.geometry().cache_bytes_per_token,
        prefix_bytes = budget.prefix_bytes,
        "memory budget"
    );
    let engine_limits = EngineLimits {
        chunk_tokens: limits.chunk_tokens,
        queue: limits.queue,
        cache_tokens: budget.cache_tokens,
        prefix_bytes: budget.prefix_bytes,
        draft_tokens: limits.draft_tokens,
    };
    let shared = Shared { turns: runtime.turns(), metrics: model_metrics.clone() };
    let engine = Engine::start(name.as_str(), backend, engine_limits, shared)?;
    Ok(LoadedModel { name, revision, tokenizer, end_tokens, engine, metrics: model_metrics })
}

/// Runs a first short generation, so that the first client does not wait for ONNX Runtime to reserve memory.
///
/// # Errors
/// The generation failed: the model cannot answer.
pub(super) async fn warm(model: &LoadedModel) -> Result<(), LoadError> {
    let request = Request {
        prompt: vec![0],
        sampling: Sampling::greedy(),
        max_tokens: 2.min(model.engine.geometry().context_tokens - 1),
        stop_tokens: Vec::new(),
        logprobs: None,
        deadline: None,
    };
    let place = model.engine.reserve().map_err(LoadError::Warm)?;
    let mut stream = model.engine.submit(place, request).map_err(LoadError::Warm)?;
    while let Some(event) = stream.next().await {
        if let Event::Finished(_) = event.map_err(LoadError::Warm)? {
            return Ok(());
        }
    }
    Err(LoadError::Warm(EngineError::Stopped))
}

/// Where the JSON files may be: beside the graph, above its `onnx` folder, beside the tokenizer.
fn folders<'a>(graph: &'a Path, tokenizer: &'a Path) -> Vec<&'a Path> {
    let beside = graph.parent();
    let above = beside.filter(|folder| folder.ends_with("onnx")).and_then(Path::parent);
    [beside, above, tokenizer.parent()].into_iter().flatten().collect()
}

fn context_tokens(model: Option<usize>, asked: Option<usize>) -> Result<usize, LoadError> {
    match (model, asked) {
        (Some(model), Some(asked)) if asked > model => Err(LoadError::ContextTooLong { asked, model }),
        (_, Some(asked)) => Ok(asked),
        (Some(model), None) => Ok(model),
        (None, None) => Err(LoadError::NoContextLength),
    }
}
