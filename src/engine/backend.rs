//! The seam between the engine and what computes logits: ONNX Runtime, or a deterministic fake in tests.
//!
//! A backend has a fixed number of *rows*, each with room for the cache of one sequence. The worker addresses rows by
//! index and keeps live rows contiguous, so that one run covers all of them; the backend never decides who runs.

use std::ops::Range;

use super::request::TokenId;

/// What a backend can do; fixed for its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Width of a logits row.
    pub vocabulary_size: usize,
    /// Tokens a row can hold, prompt and output together.
    pub context_tokens: usize,
    /// Sequences that can be live at once.
    pub rows: usize,
    /// How prompts may be fed.
    pub feeding: Feeding,
    /// Memory of the cache of one token, in bytes; 0 when there is no cache.
    pub cache_bytes_per_token: usize,
    /// Whether caches can be read and written, so that beginnings of prompts can be kept.
    pub keeps_prefixes: bool,
    /// Whether [`Wanted::All`] is understood, so that drafted tokens can be verified in one run.
    pub verifies_drafts: bool,
}

/// Of which tokens of a batch the logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Of none: a chunk that does not end its prompt.
    Nothing,
    /// Of the last token of each row.
    Last,
    /// Of every token; for a batch of one row, and only when [`Geometry::verifies_drafts`] is set.
    All,
}

/// How prompts may be fed to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feeding {
    /// In one run, whatever their length.
    Whole,
    /// In several runs, best short ones: the logits of every fed token take memory.
    Chunks,
    /// In several runs of any length: logits are computed for wanted tokens alone.
    LongChunks,
}

/// One run: consecutive rows, beginning at `first_row`.
///
/// Either one row with a chunk of any length, or any number of rows with one token each.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// Row of `inputs[0]`.
    pub first_row: usize,
    /// What each row is fed, in row order.
    pub inputs: &'a [Input<'a>],
    /// Whose logits are wanted.
    pub wanted: Wanted,
}

/// What one row is fed in a run.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Tokens of this row that are in its cache already; position of `tokens[0]`.
    pub past: usize,
    /// New tokens, at least one.
    pub tokens: &'a [TokenId],
}

/// Computes logits and keeps the cache of its rows.
pub trait Backend: Send {
    /// The fixed sizes.
    fn geometry(&self) -> Geometry;

    /// Feeds a batch; afterwards each row's cache holds `past + tokens.len()` tokens. A later batch with a smaller `past`
    /// overwrites what lies behind it.
    ///
    /// Returns logits, f32, unnormalised, row-major; the caller may overwrite them. For [`Wanted::Last`]
    /// `[batch.inputs.len(), vocabulary_size]`, for [`Wanted::All`] `[tokens of the row, vocabulary_size]`, for
    /// [`Wanted::Nothing`] empty.
    ///
    /// # Errors
    /// The run failed; the caches of the rows in the batch are then undefined, those of other rows are not touched.
    fn forward(&mut self, batch: &Batch<'_>) -> Result<&mut [f32], BackendError>;

    /// Moves the first `tokens` tokens of the cache of row `from` to row `to`; `from` is free afterwards.
    fn move_row(&mut self, from: usize, to: usize, tokens: usize);

    /// Appends the cache of some tokens of a row to `cache`, as bytes in an order of the backend's own.
    ///
    /// Only called when [`Geometry::keeps_prefixes`] is set.
    fn read_cache(&self, row: usize, tokens: Range<usize>, cache: &mut Vec<u8>);

    /// Writes what [`Backend::read_cache`] has read from the same positions of some row.
    ///
    /// Only called when [`Geometry::keeps_prefixes`] is set.
    fn write_cache(&mut self, row: usize, tokens: Range<usize>, cache: &[u8]);

    /// Tells that a row is no longer used; with `give_back` its memory goes back to the system.
    fn release_row(&mut self, row: usize, give_back: bool);
}

/// A failed run or a model that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BackendError(pub String);
