//! Memory of the cache: per layer one slab for keys and one for values, `[rows, kv_heads, capacity, head_size]`,
//! f32 or f16. Everything here counts in bytes.
//!
//! The address space is reserved at once; a page becomes memory when it is first written, and is given back when its row
//! is released. Rows that hold few tokens cost few pages.

use std::ops::Range;

use super::contract::Layout;
use super::{OrtError, Rows};
use crate::memory::Reserved;

/// All slabs of a model.
pub(super) struct Slabs {
    /// Key and value slab of each layer in turn.
    halves: Vec<Reserved>,
    layout: Layout,
    capacity: usize,
}

impl Slabs {
    pub(super) fn new(layout: Layout, size: Rows) -> Result<Self, OrtError> {
        let Rows { rows, context_tokens: capacity, huge_pages_up_to_bytes } = size;
        let length = rows * layout.row_bytes(capacity);
        let all_bytes = (rows * capacity * layout.bytes_per_token()) as u64;
        let huge_pages = all_bytes <= huge_pages_up_to_bytes;
        let halves =
            (0..2 * layout.layers).map(|_| Reserved::new(length, huge_pages)).collect::<Result<_, _>>();
        let halves = halves.map_err(|error| OrtError::Runtime {
            attempt: format!("reserve the cache of {rows} rows of {capacity} tokens"),
            message: error.to_string(),
        })?;
        Ok(Self { halves, layout, capacity })
    }

    /// Bytes between two rows of a slab.
    pub(super) fn row_stride(&self) -> usize {
        self.layout.row_bytes(self.capacity)
    }

    pub(super) fn halves(&mut self) -> &mut [Reserved] {
        &mut self.halves
    }

    /// Copies the first `tokens` tokens of row `from` over those of row `to`.
    pub(super) fn copy_row(&mut self, from: usize, to: usize, tokens: usize) {
        let to_start = self.heads(to, 0..tokens).map(|range| range.start).collect::<Vec<_>>();
        let sources: Vec<Range<usize>> = self.heads(from, 0..tokens).collect();
        for half in &mut self.halves {
            for (source, target) in sources.iter().zip(&to_start) {
                half.copy_within(source.clone(), *target);
            }
        }
    }

    /// Gives the memory of a row back to the system.
    pub(super) fn release_row(&mut self, row: usize) {
        let stride = self.row_stride();
        for half in &mut self.halves {
            half.give_back(row * stride..(row + 1) * stride);
        }
    }

    /// Appends the cache of `tokens` of a row to `block`: key and value of each layer in turn, `[kv_heads, tokens,
    /// head_size]` each.
    pub(super) fn read(&self, row: usize, tokens: Range<usize>, block: &mut Vec<u8>) {
        for half in &self.halves {
            for range in self.heads(row, tokens.clone()) {
                block.extend_from_slice(&half[range]);
            }
        }
    }

    /// Writes what [`Slabs::read`] has read to the same tokens of a row.
    pub(super) fn write(&mut self, row: usize, tokens: Range<usize>, block: &[u8]) {
        let ranges: Vec<Range<usize>> = self.heads(row, tokens).collect();
        let mut pieces = block.chunks_exact(ranges[0].len());
        for half in &mut self.halves {
            for (range, piece) in ranges.iter().zip(&mut pieces) {
                half[range.clone()].copy_from_slice(piece);
            }
        }
    }

    /// Where the given tokens of a row lie in a slab, for each head.
    fn heads(&self, row: usize, tokens: Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        let Layout { layers: _, kv_heads, head_size, number } = self.layout;
        let token = head_size * number.bytes();
        let (row_start, head) = (row * self.row_stride(), self.capacity * token);
        (0..kv_heads).map(move |kv_head| {
            let start = row_start + kv_head * head;
            start + tokens.start * token..start + tokens.end * token
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::numbers::Number;
    use super::*;

    const SINGLE: Layout = Layout { layers: 2, kv_heads: 2, head_size: 3, number: Number::F32 };
    const HALF: Layout = Layout { number: Number::F16, ..SINGLE };

    /// Every byte of a slab is the last of its own index.
    fn numbered(layout: Layout, rows: usize, capacity: usize) -> Slabs {
        let mut slabs =
            Slabs::new(layout, Rows { rows, context_tokens: capacity, huge_pages_up_to_bytes: 0 }).unwrap();
        for half in slabs.halves() {
            for (index, byte) in half.iter_mut().enumerate() {
                *byte = index as u8;
            }
        }
        slabs
    }

    /// Where the numbers of a token lie in a slab.
    fn at(slabs: &Slabs, row: usize, kv_head: usize, token: usize) -> Range<usize> {
        let bytes = slabs.layout.head_size * slabs.layout.number.bytes();
        let start = row * slabs.row_stride() + (kv_head * slabs.capacity + token) * bytes;
        start..start + bytes
    }

    #[test]
    fn a_copied_row_has_the_tokens_of_its_source_and_nothing_else_changes() {
        for layout in [SINGLE, HALF] {
            let mut slabs = numbered(layout, 3, 5);
            let before = slabs.halves[3].to_vec();
            slabs.copy_row(2, 0, 4);
            for kv_head in 0..2 {
                for token in 0..5 {
                    let source = if token < 4 { 2 } else { 0 };
                    let expected = &before[at(&slabs, source, kv_head, token)];
                    assert_eq!(&slabs.halves[3][at(&slabs, 0, kv_head, token)], expected);
                }
            }
            let stride = slabs.row_stride();
            assert_eq!(slabs.halves[3][stride..], before[stride..]);
        }
    }

    #[test]
    fn a_block_that_is_read_can_be_written_to_another_row() {
        for layout in [SINGLE, HALF] {
            let mut slabs = numbered(layout, 3, 8);
            let before = slabs.halves[0].to_vec();
            let mut block = Vec::new();
            slabs.read(1, 4..8, &mut block);
            assert_eq!(block.len(), 4 * layout.bytes_per_token());
            slabs.write(2, 4..8, &block);
            for kv_head in 0..2 {
                for token in 0..8 {
                    let source = if token < 4 { 2 } else { 1 };
                    let expected = &before[at(&slabs, source, kv_head, token)];
                    assert_eq!(&slabs.halves[0][at(&slabs, 2, kv_head, token)], expected);
                }
            }
        }
    }
}
