//! Graphs without a cache: each step computes the whole sequence anew.
//!
//! The cost of a token grows with the square of the length, so this is for small models and short texts.

use std::ops::Range;

use ort::session::{Session, SessionInputs};

use super::Rows;
use super::concat::small_inputs;
use super::contract::Graph;
use super::run::failed;
use crate::engine::backend::{Backend, BackendError, Batch, Geometry, Input, Wanted};
use crate::engine::request::TokenId;

pub(super) struct Recompute {
    session: Session,
    graph: Graph,
    geometry: Geometry,
    /// What each row has been fed so far.
    tokens: Vec<Vec<TokenId>>,
    logits: Vec<f32>,
}

impl Recompute {
    pub(super) fn new(session: Session, graph: Graph, rows: Rows) -> Self {
        Self {
            session,
            geometry: Geometry {
                vocabulary_size: graph.vocabulary_size,
                context_tokens: rows.context_tokens,
                rows: rows.rows,
                chunks: false,
                cache_bytes_per_token: 0,
                keeps_prefixes: false,
                verifies_drafts: false,
            },
            tokens: vec![Vec::new(); rows.rows],
            graph,
            logits: Vec::new(),
        }
    }

    /// Runs one row and leaves the logits of its last token at `self.logits[at..]`.
    fn run_row(&mut self, row: usize, at: usize) -> Result<(), BackendError> {
        let whole = Input { past: 0, tokens: &self.tokens[row] };
        let inputs = small_inputs(&self.graph, &whole)?;
        let outputs = self.session.run(SessionInputs::ValueMap::<0>(inputs)).map_err(failed)?;
        let (shape, logits) = outputs["logits"].try_extract_tensor::<f32>().map_err(failed)?;
        let width = self.geometry.vocabulary_size;
        let last = (shape[1] as usize - 1) * width;
        self.logits[at..at + width].copy_from_slice(&logits[last..last + width]);
        Ok(())
    }
}

impl Backend for Recompute {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn forward(&mut self, batch: &Batch<'_>) -> Result<&mut [f32], BackendError> {
        let width = self.geometry.vocabulary_size;
        self.logits.resize(batch.inputs.len() * width, 0.0);
        for (offset, input) in batch.inputs.iter().enumerate() {
            let row = batch.first_row + offset;
            self.tokens[row].truncate(input.past);
            self.tokens[row].extend_from_slice(input.tokens);
            if batch.wanted == Wanted::Last {
                self.run_row(row, offset * width)?;
            }
        }
        Ok(if batch.wanted == Wanted::Last { &mut self.logits } else { &mut [] })
    }

    fn move_row(&mut self, from: usize, to: usize, _tokens: usize) {
        self.tokens[to] = std::mem::take(&mut self.tokens[from]);
    }

    fn read_cache(&self, _row: usize, _tokens: Range<usize>, _cache: &mut Vec<f32>) {}

    fn write_cache(&mut self, _row: usize, _tokens: Range<usize>, _cache: &[f32]) {}

    fn release_row(&mut self, row: usize, _give_back: bool) {
        self.tokens[row].clear();
    }
}
