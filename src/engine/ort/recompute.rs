//! Graphs without a cache: each step computes the whole sequence anew.
//!
//! The cost of a text grows with the square of its length, so this is for small models and short texts; what would take
//! senselessly long is refused when it is loaded. Rows share a run, padded on the right, where the graph takes a mask.

use std::ops::Range;

use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions, Session, SessionInputs};

use super::contract::Graph;
use super::groups::{Bounds, group};
use super::numbers::Logits;
use super::run::failed;
use super::small_inputs::small_inputs;
use super::{OrtError, Rows};
use crate::engine::backend::{Backend, BackendError, Batch, Feeding, Geometry, Input, Wanted};
use crate::engine::request::TokenId;

/// Most multiplications for one token at the full context: parameters × tokens. Two cores with AVX-512 take about three
/// seconds for so many.
const MOST_TOKEN_MULTIPLICATIONS: u64 = 1 << 38;

/// The same for a step of all rows at their longest: some 23 seconds there, less than the default of
/// `INFERENCE_STEP_TIMEOUT`, 30 s.
const MOST_STEP_MULTIPLICATIONS: u64 = 1 << 41;

/// Padding costs computing time here, which is what such graphs lack.
const PADDED_PERCENT: usize = 125;

/// Beyond this a run is bound by computing, and more rows in it gain nothing and take memory.
const MOST_RUN_TOKENS: usize = 1024;

/// A graph that gives the logits of every position gives a lot of them.
const MOST_LOGITS_BYTES: usize = 128 << 20;

pub(super) struct Recompute {
    session: Session,
    graph: Graph,
    geometry: Geometry,
    bounds: Bounds,
    /// Nothing but the logits is computed.
    options: RunOptions<HasSelectedOutputs>,
    /// What each row has been fed so far.
    tokens: Vec<Vec<TokenId>>,
    /// `[rows of the batch, vocabulary_size]`.
    logits: Vec<f32>,
    /// Runs of the session so far.
    runs: usize,
}

impl Recompute {
    /// `parameters`: numbers in the graph's weights.
    ///
    /// # Errors
    /// [`OrtError::TooExpensive`] when a token at the full context would take senselessly long.
    pub(super) fn new(session: Session, graph: Graph, parameters: u64, rows: Rows) -> Result<Self, OrtError> {
        refuse_senseless(parameters, rows)?;
        let options = RunOptions::new().map_err(|error| OrtError::Runtime {
            attempt: "choose the outputs of a run".to_owned(),
            message: error.to_string(),
        })?;
        let logits_tokens = MOST_LOGITS_BYTES / (size_of::<f32>() * graph.vocabulary_size);
        Ok(Self {
            session,
            geometry: Geometry {
                vocabulary_size: graph.vocabulary_size,
                context_tokens: rows.context_tokens,
                rows: rows.rows,
                feeding: Feeding::Whole,
                cache_bytes_per_token: 0,
                keeps_prefixes: false,
                verifies_drafts: false,
            },
            options: options.with_outputs(OutputSelector::no_default().with(&graph.names.logits)),
            bounds: Bounds {
                equal_lengths: graph.attention_mask.is_none(),
                padded_percent: PADDED_PERCENT,
                // A row that is longer than the bound runs alone.
                tokens: if graph.input_ids.one_row { 0 } else { MOST_RUN_TOKENS.min(logits_tokens) },
            },
            tokens: vec![Vec::new(); rows.rows],
            graph,
            logits: Vec::new(),
            runs: 0,
        })
    }

    /// Runs `rows` and leaves the logits of their last tokens in `self.logits`, which begins with row `first_row`.
    fn run_rows(&mut self, rows: &[usize], first_row: usize) -> Result<(), BackendError> {
        let whole: Vec<Input<'_>> =
            rows.iter().map(|row| Input { past: 0, tokens: &self.tokens[*row] }).collect();
        let mut wanted: Vec<usize> = whole.iter().map(|input| input.tokens.len() - 1).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let inputs = small_inputs(&self.graph, &whole, 0, &wanted)?;
        self.runs += 1;
        let inputs = SessionInputs::ValueMap::<0>(inputs);
        let outputs = self.session.run_with_options(inputs, &self.options).map_err(failed)?;
        let logits = Logits::of(&outputs[self.graph.names.logits.as_str()], self.graph.logits)?;
        let width = self.geometry.vocabulary_size;
        let positions = logits.len() / rows.len() / width;
        for (place, (row, input)) in rows.iter().zip(&whole).enumerate() {
            let last = input.tokens.len() - 1;
            let position =
                if self.graph.logits_index { wanted.binary_search(&last).unwrap_or(0) } else { last };
            logits.copy(
                (place * positions + position) * width,
                &mut self.logits[(row - first_row) * width..][..width],
            );
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn runs(&self) -> usize {
        self.runs
    }
}

fn refuse_senseless(parameters: u64, rows: Rows) -> Result<(), OrtError> {
    let Rows { rows, context_tokens, huge_pages_up_to_bytes: _ } = rows;
    let most = MOST_TOKEN_MULTIPLICATIONS.min(MOST_STEP_MULTIPLICATIONS / rows as u64);
    let most_context_tokens = most / parameters.max(1);
    if context_tokens as u64 <= most_context_tokens {
        return Ok(());
    }
    Err(OrtError::TooExpensive { parameters, context_tokens, rows, most_context_tokens })
}

impl Backend for Recompute {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn forward(&mut self, batch: &Batch<'_>) -> Result<&mut [f32], BackendError> {
        let rows = batch.first_row..batch.first_row + batch.inputs.len();
        for (row, input) in rows.clone().zip(batch.inputs) {
            self.tokens[row].truncate(input.past);
            self.tokens[row].extend_from_slice(input.tokens);
        }
        if batch.wanted == Wanted::Nothing {
            return Ok(&mut []);
        }
        self.logits.resize(batch.inputs.len() * self.geometry.vocabulary_size, 0.0);
        let lengths: Vec<(usize, usize)> = rows.map(|row| (row, self.tokens[row].len())).collect();
        for group in group(&lengths, self.bounds) {
            self.run_rows(&group, batch.first_row)?;
        }
        Ok(&mut self.logits)
    }

    fn move_row(&mut self, from: usize, to: usize, _tokens: usize) {
        self.tokens[to] = std::mem::take(&mut self.tokens[from]);
    }

    fn read_cache(&self, _row: usize, _tokens: Range<usize>, _cache: &mut Vec<u8>) {}

    fn write_cache(&mut self, _row: usize, _tokens: Range<usize>, _cache: &[u8]) {}

    fn release_row(&mut self, row: usize, _give_back: bool) {
        self.tokens[row].clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(parameters: u64, rows: usize, context_tokens: usize) -> Option<String> {
        let rows = Rows { rows, context_tokens, huge_pages_up_to_bytes: 0 };
        refuse_senseless(parameters, rows).err().map(|error| error.to_string())
    }

    #[test]
    fn small_models_and_short_texts_are_served() {
        assert_eq!(refused(200_000, 16, 256), None);
        assert_eq!(refused(124_000_000, 16, 1024), None);
        assert_eq!(refused(1_000_000_000, 8, 256), None);
        assert_eq!(refused(0, 16, 1 << 20), None);
    }

    #[test]
    fn what_would_take_senselessly_long_is_refused_with_what_to_do() {
        let message = refused(135_000_000, 16, 8192).unwrap();
        for part in [
            "135000000 parameters",
            "8192 tokens",
            "16 rows",
            "INFERENCE_CONTEXT_LENGTH",
            "at most 1018",
            "cache",
        ] {
            assert!(message.contains(part), "{part}: {message}");
        }
        assert!(refused(1_000_000_000, 1, 2048).is_some());
        assert!(refused(124_000_000, 32, 1024).is_some());
    }
}
