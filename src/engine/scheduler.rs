//! Who runs in the next step, and in which row. Pure: no clock, no I/O, no model.
//!
//! ```text
//! waiting, in order of arrival ──▶ prefilling (at most one) ──▶ decoding
//!                                  row = decoding.len()         rows 0..decoding.len()
//! ```
//!
//! Rows are contiguous, so one run decodes all of them. Prompts are fed one after the other, in chunks whose borders
//! lie at fixed multiples of the position in the prompt, whatever else runs, so that a sequence is computed the same
//! alone or in company.

use std::collections::VecDeque;
use std::ops::Range;

use super::sequence::Sequence;

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

/// The sequences of one engine.
pub(super) struct Scheduler {
    waiting: VecDeque<Sequence>,
    prefilling: Option<Sequence>,
    decoding: Vec<Sequence>,
    max_rows: usize,
    chunk_tokens: usize,
}

impl Scheduler {
    /// At most `max_rows` sequences run at once; prompts are fed in chunks of `chunk_tokens`.
    pub(super) fn new(max_rows: usize, chunk_tokens: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            prefilling: None,
            decoding: Vec::with_capacity(max_rows),
            max_rows,
            chunk_tokens,
        }
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

    /// The sequences that decode; index = row.
    pub(super) fn decoding(&mut self) -> &mut [Sequence] {
        &mut self.decoding
    }

    /// The sequence whose prompt is being fed, in row `decoding().len()`.
    pub(super) fn prefilling(&mut self) -> Option<&mut Sequence> {
        self.prefilling.as_mut()
    }

    pub(super) fn push(&mut self, sequence: Sequence) {
        self.waiting.push_back(sequence);
    }

    /// Gives a free row to the sequence that arrived first, then says what to run.
    pub(super) fn plan(&mut self) -> Plan {
        if self.prefilling.is_none() && self.decoding.len() < self.max_rows {
            self.prefilling = self.waiting.pop_front();
            if let Some(sequence) = &mut self.prefilling {
                sequence.mark_admitted();
            }
        }
        Plan {
            chunk: self.prefilling.as_ref().map(|sequence| self.next_chunk(sequence)),
            decode: self.decoding.len(),
        }
    }

    fn next_chunk(&self, sequence: &Sequence) -> Range<usize> {
        let start = sequence.prefilled();
        let border = (start / self.chunk_tokens + 1) * self.chunk_tokens;
        start..border.min(sequence.prompt().len())
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

    /// Drops waiting sequences that nobody reads any more.
    pub(super) fn drop_cancelled_waiting(&mut self) {
        self.waiting.retain(|sequence| !sequence.is_cancelled());
    }

    /// Takes everything out, waiting and running.
    pub(super) fn drain(&mut self) -> Vec<Sequence> {
        let mut all: Vec<Sequence> = self.decoding.drain(..).collect();
        all.extend(self.prefilling.take());
        all.extend(self.waiting.drain(..));
        all
    }
}
