//! Who runs in the next step, and in which row. Pure: no clock, no I/O, no model.
//!
//! ```text
//! waiting, lanes in turn ──▶ prefilling (at most one) ──▶ decoding
//!                            row = decoding.len()         rows 0..decoding.len()
//! ```
//!
//! Rows are contiguous, so one run decodes all of them. Prompts are fed one after the other, in chunks whose borders
//! lie at fixed multiples of the position in the prompt, so that kept beginnings fit any prompt. While nobody decodes,
//! one run takes several chunks, which is faster; ONNX Runtime's kernels give the same bits for any run of two or more
//! tokens, so a sequence is computed the same alone or in company.
//!
//! A sequence gets a row only when the cache memory that it may come to need is free: what has begun never runs out of
//! memory. Whoever is next is not overtaken, so a large request waits for memory but is not passed over for ever.

use std::ops::Range;

use super::sequence::Sequence;
use super::waiting::Waiting;

/// What one step runs: a piece of the prompt in the prefilling row, then one token for each of rows `0..decode`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// Positions in the prompt of the prefilling sequence.
    pub(super) chunk: Option<Range<usize>>,
    /// Rows `0..decode` get one token each.
    pub(super) decode: usize,
}

/// A row whose cache has to move so that rows stay contiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) from: usize,
    pub(super) to: usize,
    /// Tokens in the cache of the moved row.
    pub(super) tokens: usize,
}

/// What the backend has to do when a sequence leaves: the moves in order, then the release of the last row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Vacated {
    pub(super) moves: Vec<Move>,
    pub(super) released: usize,
}

/// Bounds of what runs at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Sequences in rows.
    pub(super) rows: usize,
    /// Tokens of cache that sequences in rows may come to need.
    pub(super) cache_tokens: usize,
    /// Tokens of a chunk.
    pub(super) chunk_tokens: usize,
    /// Chunks that one run may take while nobody decodes, at least 1.
    pub(super) chunks_alone: usize,
}

/// The sequences of one engine.
pub(super) struct Scheduler {
    waiting: Waiting,
    prefilling: Option<Sequence>,
    decoding: Vec<Sequence>,
    bounds: Bounds,
}

impl Scheduler {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            waiting: Waiting::default(),
            prefilling: None,
            decoding: Vec::with_capacity(bounds.rows),
            bounds,
        }
    }

    /// Changes how many sequences are in rows at once; those that are in one stay.
    pub(super) fn set_rows(&mut self, rows: usize) {
        self.bounds.rows = rows;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.running() == 0
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn running(&self) -> usize {
        self.decoding.len() + usize::from(self.prefilling.is_some())
    }

    /// Tokens of cache that the sequences in rows may come to need.
    pub(super) fn reserved_tokens(&self) -> usize {
        self.decoding.iter().chain(&self.prefilling).map(Sequence::reserved_tokens).sum()
    }

    /// The sequences that decode; index = row.
    pub(super) fn decoding(&mut self) -> &mut [Sequence] {
        &mut self.decoding
    }

    /// The sequence whose prompt is being fed, in row `decoding().len()`.
    pub(super) fn prefilling(&mut self) -> Option<&mut Sequence> {
        self.prefilling.as_mut()
    }

    pub(super) fn push(&mut self, sequence: Sequence) {
        self.waiting.push(sequence);
    }

    /// Gives a free row to the sequence that is next, if the memory it may need is free; returns it.
    pub(super) fn admit(&mut self) -> Option<&mut Sequence> {
        let first = self.waiting.first()?;
        let fits = self.reserved_tokens() + first.reserved_tokens() <= self.bounds.cache_tokens;
        if self.prefilling.is_some() || self.decoding.len() >= self.bounds.rows || !fits {
            return None;
        }
        self.prefilling = self.waiting.take_first();
        self.prefilling.as_mut()
    }

    /// What to run now.
    pub(super) fn plan(&self) -> Plan {
        Plan {
            chunk: self.prefilling.as_ref().map(|sequence| self.next_chunk(sequence)),
            decode: self.decoding.len(),
        }
    }

    fn next_chunk(&self, sequence: &Sequence) -> Range<usize> {
        let (start, end) = (sequence.prefilled(), sequence.prompt().len());
        let Bounds { chunk_tokens, chunks_alone, .. } = self.bounds;
        let chunks = if self.decoding.is_empty() { chunks_alone } else { 1 };
        let border = (start / chunk_tokens + chunks) * chunk_tokens;
        let last_border = end / chunk_tokens * chunk_tokens;
        // Kernels compute a run over a single token otherwise than the same token in a longer run, so a rest of one stays
        // alone whoever else runs.
        if end == last_border + 1 && start < last_border {
            return start..border.min(last_border);
        }
        start..border.min(end)
    }

    /// Makes the prefilling sequence, whose prompt is complete, a decoding one; it keeps its row.
    pub(super) fn promote(&mut self) {
        self.decoding.extend(self.prefilling.take());
    }

    /// Takes the sequence out of decoding row `row` and closes the hole.
    pub(super) fn remove_decoding(&mut self, row: usize) -> (Sequence, Vacated) {
        let last = self.decoding.len() - 1;
        let removed = self.decoding.swap_remove(row);
        let mut moves = Vec::new();
        if let Some(moved) = self.decoding.get(row) {
            moves.push(Move { from: last, to: row, tokens: moved.cached() });
        }
        if let Some(prefilling) = &self.prefilling {
            moves.push(Move { from: last + 1, to: last, tokens: prefilling.cached() });
        }
        let released = self.running();
        (removed, Vacated { moves, released })
    }

    /// Takes the prefilling sequence out.
    pub(super) fn remove_prefilling(&mut self) -> Option<(Sequence, Vacated)> {
        let removed = self.prefilling.take()?;
        let released = self.decoding.len();
        Some((removed, Vacated { moves: Vec::new(), released }))
    }

    /// Takes out the waiting sequences that are `unwanted`.
    pub(super) fn remove_waiting(&mut self, unwanted: impl Fn(&Sequence) -> bool) -> Vec<Sequence> {
        self.waiting.remove(unwanted)
    }

    /// Takes everything out, waiting and running.
    pub(super) fn drain(&mut self) -> Vec<Sequence> {
        let mut all: Vec<Sequence> = self.decoding.drain(..).collect();
        all.extend(self.prefilling.take());
        all.extend(self.waiting.drain());
        all
    }
}

#[cfg(test)]
mod tests;
