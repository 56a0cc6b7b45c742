//! Verify before promote: what is done with a model before the serving process touches it.
//!
//! ```text
//! check_files ─────────────▶ in_child ───────────────────────────▶ (load in the serving process) ─▶ in_process
//! bytes of the files, no     the same load and the probes in a      the same probes, once more,
//! ONNX Runtime               process that may die, hang or starve   as a warm-up
//! ```
//!
//! Nothing here publishes a model or keeps one. A crash, a hang or a hunger of the library ends the child only.

mod child;
mod files;
mod parent;
mod probes;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::files::FileError;
use super::load::{LoadError, LoadLimits};
use super::spec::{InvalidVerify, VerifySpec};
use super::{ModelName, Reason};
use crate::engine::ort::inspect::GraphFault;
use crate::text::template::{Template, TemplateError};
use crate::text::tokenizer::TextError;

pub use child::run_child;
pub use files::check_files;
pub use parent::in_child;
pub(super) use probes::in_process;

/// The subcommand that tries a model.
pub const SUBCOMMAND: &str = "verify-model";

/// A model to verify, with everything that loading it needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VerifyRequest {
    /// The served name.
    pub name: ModelName,
    /// The graph. It may be a symbolic link as in the hub's cache: links are resolved here, and what they lead to must be
    /// a plain file in the same folder or in the `blobs` of the same repository.
    pub graph: PathBuf,
    /// The `tokenizer.json`, with its companions beside it.
    pub tokenizer: PathBuf,
    /// Limits under which it is to be served; the child loads it with smaller ones.
    pub limits: LoadLimits,
    /// A chat template in place of the model's own.
    pub chat_template: Option<String>,
    /// How it is verified.
    pub verify: VerifySpec,
}

/// The process that tries a model, and what it may use.
#[derive(Debug, Clone)]
pub struct ChildBounds {
    /// This program; in tests the executable beside them.
    pub executable: PathBuf,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Time for everything; that of the [`VerifySpec`] counts when it is shorter.
    pub timeout: Duration,
    /// The ONNX Runtime library.
    pub library: PathBuf,
    /// Threads that compute.
    pub threads: usize,
}

/// What the files say, without running anything.
#[derive(Debug, Clone)]
pub struct StaticReport {
    /// Bytes of the graph and of the files with its weights.
    pub weights_bytes: u64,
    /// Bytes of memory that loading it may take, before it was measured: weights × 1.6 and what a process needs besides.
    pub memory_estimate_bytes: u64,
    /// Tokens that a sequence may have when it is served.
    pub context_tokens: usize,
    /// The chat template, compiled, if there is one.
    pub template: Option<Arc<Template>>,
}

/// What a child found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VerifyReport {
    /// The most memory that the child had at once, library and weights included, caches hardly.
    pub peak_bytes: u64,
    /// Time from files to a loaded model.
    pub load: Duration,
    /// Time of all probes.
    pub probe: Duration,
    /// Probes that came true, those that are built in included.
    pub probes: usize,
    /// Width of the logits.
    pub vocabulary_size: usize,
    /// Tokens of the tokenizer.
    pub tokenizer_size: usize,
    /// Tokens that a sequence may have when it is served.
    pub context_tokens: usize,
    /// Memory of the cache of one token, in bytes; 0 when there is no cache.
    pub cache_bytes_per_token: usize,
    /// Whether the cache is written in place.
    pub in_place: bool,
    /// Tokens that end a text.
    pub end_tokens: Vec<u32>,
    /// Whether there is a chat template.
    pub has_template: bool,
}

/// Why a model must not serve.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The wish itself is out of range.
    #[error(transparent)]
    Spec(#[from] InvalidVerify),
    /// The graph is none, or asks for what it must not have.
    #[error("{path} cannot be loaded: {fault}")]
    Graph {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        fault: GraphFault,
    },
    /// A file that must not be opened as a part of a model.
    #[error("{path} {what}")]
    Unsafe {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A JSON file beside the model is broken.
    #[error(transparent)]
    File(#[from] FileError),
    /// The tokenizer is broken.
    #[error("failed to load the tokenizer")]
    Tokenizer(#[from] TextError),
    /// The tokenizer is of another model.
    #[error("the tokenizer does not fit the model: {0}")]
    TokenizerMismatch(String),
    /// The chat template cannot be used.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// Files, context or graph do not make a model.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It does not fit.
    #[error(
        "verifying the model takes about {needed_bytes} bytes of memory, {available_bytes} are free for it"
    )]
    Memory {
        /// The estimate.
        needed_bytes: u64,
        /// What there is.
        available_bytes: u64,
    },
    /// A probe did not come true.
    #[error("{0}")]
    Probe(String),
    /// The child did not end in time.
    #[error("the process that tried the model did not end within {} s{}", limit.as_secs_f32(), last_words(stderr))]
    Timeout {
        /// The time it had.
        limit: Duration,
        /// The end of what it wrote to standard error.
        stderr: String,
    },
    /// The child died, or ended without an answer.
    #[error("the process that tried the model {what}{}", last_words(stderr))]
    Crashed {
        /// How it ended, with the name of the signal.
        what: String,
        /// The end of what it wrote to standard error.
        stderr: String,
        /// Whether the system killed it, which happens when a container has no memory left.
        killed: bool,
    },
    /// The child found what is wrong and said so.
    #[error("{message}")]
    Found {
        /// The word for it.
        reason: Reason,
        /// For a person.
        message: String,
    },
    /// The child could not be started or spoken to.
    #[error("failed to {attempt} the process that tries the model")]
    Process {
        /// What was attempted.
        attempt: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl VerifyError {
    /// The word for it.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Spec(_) | Self::File(_) => Reason::InvalidSpec,
            Self::Graph { fault: GraphFault::Invalid(_), .. } => Reason::InvalidOnnx,
            Self::Graph { fault: GraphFault::Unsupported(_), .. } => Reason::UnsupportedOperator,
            Self::Graph { fault: GraphFault::Unsafe(_), .. } | Self::Unsafe { .. } => {
                Reason::ExternalDataUnsafe
            }
            Self::Tokenizer(_) | Self::TokenizerMismatch(_) => Reason::TokenizerMismatch,
            Self::Template(_) => Reason::TemplateInvalid,
            Self::Load(error) => error.reason(),
            Self::Memory { .. } | Self::Crashed { killed: true, .. } => Reason::InsufficientMemory,
            Self::Probe(_) => Reason::ProbeFailed,
            Self::Timeout { .. } => Reason::VerifyTimeout,
            Self::Crashed { killed: false, .. } => Reason::VerifyCrashed,
            Self::Found { reason, .. } => *reason,
            Self::Process { .. } => Reason::Internal,
        }
    }
}

fn last_words(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!("; its last words: {stderr}") }
}

/// What the child is told, as JSON on standard input.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ChildInput {
    request: VerifyRequest,
    memory_bytes: u64,
    timeout: Duration,
    library: PathBuf,
    threads: usize,
    /// The process that asks.
    parent: i32,
}

/// What the child answers, as the last line on standard output.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum ChildAnswer {
    Verified(VerifyReport),
    Failed { reason: Reason, message: String },
}
