//! Models: which, from where, in which state.
//!
//! ```text
//! spec ─▶ reconcile: fetch (source) ─▶ load ─▶ warm ─▶ registry ◀── requests pin a LoadedModel
//!                                                          └──────▶ readiness
//! ```

mod budget;
mod files;
mod layout;
mod load;
pub mod manifest;
mod name;
pub mod reconcile;
mod registry;
pub mod source;
pub mod spec;

use std::sync::Arc;

pub use budget::{HugePages, MemoryLimits};
pub use load::{LoadError, LoadLimits};
pub use name::{InvalidModelName, ModelName};
pub use registry::{ModelState, Registry, Status, Unavailable};

use crate::engine::{Engine, TokenId};
use crate::metrics::ModelMetrics;
use crate::text::tokenizer::Tokenizer;

pub use crate::engine::RunningStep;

/// A model that can answer. A request holds one for its whole life, so that a swap never tears a stream.
pub struct LoadedModel {
    /// The served name.
    pub name: ModelName,
    /// Hash of the spec as given.
    pub revision: String,
    /// Text to tokens and back.
    pub tokenizer: Arc<Tokenizer>,
    /// Tokens that end a text, from the model's own files.
    pub end_tokens: Vec<TokenId>,
    /// Runs the generations.
    pub engine: Engine,
    /// The model's own metrics.
    pub metrics: ModelMetrics,
}
