//! Files to a model that answers: tokenizer, facts, graph, engine, and a first generation to warm it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::budget::{Budget, HugePages, MemoryLimits};
use super::files::{FileError, ModelFacts};
use super::layout::graph_files;
use super::{ModelName, Reason};
use crate::engine::ort::{GraphHints, OrtError, Rows, Runtime};
use crate::engine::{Backend, Engine, EngineLimits, Shared, TokenId};
use crate::memory;
use crate::metrics::{Metrics, ModelMetrics};
use crate::text::chat::{Chat, NoChat};
use crate::text::template::Template;
use crate::text::tokenizer::{TextError, Tokenizer};

/// Limits of a loaded model.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
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
#[derive(Debug, Clone)]
pub(super) struct LoadRequest {
    /// Key of the model, for metrics and logs.
    pub(super) model: ModelName,
    pub(super) graph: PathBuf,
    pub(super) tokenizer: PathBuf,
    /// In place of the model's own.
    pub(super) chat_template: Option<String>,
    pub(super) limits: LoadLimits,
    /// Memory that other models of the process may still come to use, in bytes.
    pub(super) promised_bytes: u64,
}

/// A model whose graph and tokenizer are in memory, before its engine runs.
pub(super) struct Opened {
    request: LoadRequest,
    tokenizer: Arc<Tokenizer>,
    end_tokens: Vec<TokenId>,
    chat: Result<Arc<Chat>, NoChat>,
    backend: Box<dyn Backend>,
}

/// What [`start`] makes of an opened model.
pub(super) struct Started {
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) end_tokens: Vec<TokenId>,
    pub(super) chat: Result<Arc<Chat>, NoChat>,
    pub(super) engine: Engine,
    pub(super) metrics: ModelMetrics,
    /// Memory that the engine may come to use, in bytes.
    pub(super) promised_bytes: u64,
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
}

impl LoadError {
    /// The word for it.
    pub fn reason(&self) -> Reason {
        match self {
            Self::File(_) | Self::NoContextLength | Self::ContextTooLong { .. } | Self::HugePages { .. } => {
                Reason::InvalidSpec
            }
            Self::Tokenizer(_) | Self::TokenizerMismatch { .. } => Reason::TokenizerMismatch,
            Self::Graph(error) => graph_reason(error),
            Self::NoMemory { .. } => Reason::InsufficientMemory,
            Self::Thread(_) => Reason::Internal,
        }
    }
}

fn graph_reason(error: &OrtError) -> Reason {
    match error {
        OrtError::LibraryNotFound(_) | OrtError::Library { .. } => Reason::Internal,
        OrtError::InvalidGraph { .. } => Reason::InvalidOnnx,
        OrtError::Unsupported(_) => Reason::UnsupportedOperator,
        OrtError::TooExpensive { .. } => Reason::InvalidSpec,
        // The codes of ONNX Runtime do not tell these apart, its texts do.
        OrtError::Runtime { message, .. } => {
            let says = |texts: &[&str]| texts.iter().any(|text| message.contains(text));
            if says(&["bad_alloc", "bad allocation", "Failed to allocate memory"]) {
                Reason::InsufficientMemory
            } else if says(&UNSUPPORTED) {
                Reason::UnsupportedOperator
            } else {
                Reason::InvalidOnnx
            }
        }
    }
}

/// What ONNX Runtime says of operators, opsets and versions of the format that it does not have.
const UNSUPPORTED: [&str; 7] = [
    "is not a registered function/op",
    "No Op registered for",
    "Could not find an implementation for",
    "No opset import for domain",
    "is under development and support for this is limited",
    "Unsupported model IR version",
    "Unknown model file format version",
];

/// Brings tokenizer and graph into memory. Blocking, for seconds, and computing all the time: call it on a thread of low
/// priority.
///
/// # Errors
/// See [`LoadError`]; the message says what to change.
pub(super) fn open(runtime: &Runtime, request: LoadRequest) -> Result<Opened, LoadError> {
    let LoadRequest { model, graph, tokenizer: tokenizer_file, chat_template, limits, promised_bytes: _ } =
        &request;
    let tokenizer = Arc::new(Tokenizer::from_file(tokenizer_file)?);
    let folders = folders(graph, tokenizer_file);
    let facts = ModelFacts::read(&folders)?;
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
    let backend = runtime.load(&graph_files(graph), &hints, rows)?;
    let width = backend.geometry().vocabulary_size;
    if tokenizer.vocabulary_size() > width {
        return Err(LoadError::TokenizerMismatch { tokenizer: tokenizer.vocabulary_size(), graph: width });
    }
    let end_tokens = facts.end_tokens(&tokenizer);
    if end_tokens.is_empty() {
        tracing::warn!(%model, "no file names an end-of-text token: every generation runs to its token limit");
    }
    if limits.draft_tokens > 0 && !backend.geometry().verifies_drafts {
        tracing::warn!(%model, "this kind of graph cannot verify drafts: INFERENCE_SPECULATIVE_TOKENS has no effect");
    }
    let chat = chat(chat_template.as_deref(), &facts, &folders)?;
    if let Err(NoChat::Broken(error)) = &chat {
        tracing::warn!(%model, %error, "the model answers no chats");
    }
    Ok(Opened { request, tokenizer, end_tokens, chat, backend })
}

/// The chat template: the one that is given, else the model's own. One that does not compile leaves a model that takes no
/// chats; whatever is verified before it serves is refused for that, the model of the environment answers other requests.
fn chat(
    given: Option<&str>,
    facts: &ModelFacts,
    folders: &[&Path],
) -> Result<Result<Arc<Chat>, NoChat>, FileError> {
    let compiled = match (given, facts.chat_template(folders)?) {
        (Some(given), _) => Template::compile_override(given),
        (None, Some(own)) => Template::compile(&own),
        (None, None) => return Ok(Err(NoChat::Missing)),
    };
    let special = |part| facts.special_token(part).map(str::to_owned);
    let chat = |template| Arc::new(Chat::new(template, special("bos_token"), special("eos_token")));
    Ok(compiled.map(chat).map_err(NoChat::Broken))
}

/// Starts the engine of an opened model. Its thread inherits the priority of the calling one.
///
/// # Errors
/// There is not enough memory for caches, or the operating system refused a thread.
pub(super) fn start(runtime: &Runtime, opened: Opened, metrics: &Metrics) -> Result<Started, LoadError> {
    let Opened { request, tokenizer, end_tokens, chat, backend } = opened;
    let LoadRequest { model, graph: _, tokenizer: _, chat_template: _, limits, promised_bytes } = request;
    let geometry = backend.geometry();
    let in_use = memory::resident_bytes().unwrap_or_default() + promised_bytes;
    let budget = Budget::new(limits.memory, geometry, in_use)?;
    let needed_tokens = geometry.rows * geometry.context_tokens;
    if limits.huge_pages == HugePages::Always && budget.cache_tokens < needed_tokens {
        return Err(LoadError::HugePages { needed_tokens, available_tokens: budget.cache_tokens });
    }
    tracing::info!(
        %model,
        cache_tokens = budget.cache_tokens,
        cache_bytes_per_token = geometry.cache_bytes_per_token,
        prefix_bytes = budget.prefix_bytes,
        "memory budget"
    );
    if limits.huge_pages != HugePages::Never {
        // Not on the loading thread: what waits for memory meanwhile would wait for a thread that gives way.
        let began = Instant::now();
        let bytes = memory::use_huge_pages();
        tracing::info!(%model, bytes, duration_ms = began.elapsed().as_millis() as u64, "memory in huge pages");
    }
    let engine_limits = EngineLimits {
        chunk_tokens: limits.chunk_tokens,
        queue: limits.queue,
        cache_tokens: budget.cache_tokens,
        prefix_bytes: budget.prefix_bytes,
        draft_tokens: limits.draft_tokens,
    };
    let metrics = metrics.model(model.as_str());
    let shared = Shared { turns: runtime.turns(), metrics: metrics.clone() };
    let engine = Engine::start(model.as_str(), backend, engine_limits, shared)?;
    Ok(Started {
        tokenizer,
        end_tokens,
        chat,
        engine,
        metrics,
        promised_bytes: budget.promised_bytes(geometry),
    })
}

/// Where the JSON files may be: beside the graph, above its `onnx` folder, beside the tokenizer.
pub(super) fn folders<'a>(graph: &'a Path, tokenizer: &'a Path) -> Vec<&'a Path> {
    let beside = graph.parent();
    let above = beside.filter(|folder| folder.ends_with("onnx")).and_then(Path::parent);
    [beside, above, tokenizer.parent()].into_iter().flatten().collect()
}

/// Tokens that a sequence may have: as the model says, or fewer, as asked.
pub(super) fn context_tokens(model: Option<usize>, asked: Option<usize>) -> Result<usize, LoadError> {
    match (model, asked) {
        (Some(model), Some(asked)) if asked > model => Err(LoadError::ContextTooLong { asked, model }),
        (_, Some(asked)) => Ok(asked),
        (Some(model), None) => Ok(model),
        (None, None) => Err(LoadError::NoContextLength),
    }
}
