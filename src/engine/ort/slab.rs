//! Memory of the cache: per layer one slab for keys and one for values, `[rows, kv_heads, capacity, head_size]`, f32.
//!
//! The address space is reserved at once; the kernel backs a page when it is first written, so rows that hold few
//! tokens cost few pages.

use super::contract::Layout;

/// All slabs of a model.
pub(super) struct Slabs {
    /// Key and value slab of each layer in turn.
    halves: Vec<Box<[f32]>>,
    layout: Layout,
    capacity: usize,
}

impl Slabs {
    pub(super) fn new(layout: Layout, rows: usize, capacity: usize) -> Self {
        let length = rows * layout.kv_heads * capacity * layout.head_size;
        // Zeroed memory of this size comes from the kernel as untouched pages.
        let halves = (0..2 * layout.layers).map(|_| vec![0.0; length].into_boxed_slice()).collect();
        Self { halves, layout, capacity }
    }

    /// Numbers between two rows of a slab.
    pub(super) fn row_stride(&self) -> usize {
        self.layout.kv_heads * self.capacity * self.layout.head_size
    }

    pub(super) fn halves(&mut self) -> &mut [Box<[f32]>] {
        &mut self.halves
    }

    /// Copies the first `tokens` tokens of row `from` over those of row `to`.
    pub(super) fn copy_row(&mut self, from: usize, to: usize, tokens: usize) {
        let stride = self.row_stride();
        let head = self.capacity * self.layout.head_size;
        let used = tokens * self.layout.head_size;
        for half in &mut self.halves {
            for kv_head in 0..self.layout.kv_heads {
                let source = from * stride + kv_head * head;
                half.copy_within(source..source + used, to * stride + kv_head * head);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copied_row_has_the_tokens_of_its_source_and_nothing_else_changes() {
        let layout = Layout { layers: 2, kv_heads: 2, head_size: 3 };
        let mut slabs = Slabs::new(layout, 3, 5);
        for half in slabs.halves() {
            for (index, number) in half.iter_mut().enumerate() {
                *number = index as f32;
            }
        }
        let before = slabs.halves[3].clone();
        slabs.copy_row(2, 0, 4);
        let stride = slabs.row_stride();
        for kv_head in 0..2 {
            for token in 0..5 {
                for dimension in 0..3 {
                    let at = (kv_head * 5 + token) * 3 + dimension;
                    let expected = if token < 4 { before[2 * stride + at] } else { before[at] };
                    assert!((slabs.halves[3][at] - expected).abs() < f32::EPSILON);
                }
            }
        }
        assert_eq!(slabs.halves[3][stride..], before[stride..]);
    }
}
