//! Numbers of the two widths that graphs use for caches and logits.

use half::f16;
use half::slice::HalfFloatSliceExt;
use ort::value::{DynValue, PrimitiveTensorElementType};

use super::run::failed;
use crate::engine::backend::BackendError;

/// Type of the numbers of a cache or of logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    F32,
    F16,
}

impl Number {
    /// Size of one.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::F32 => size_of::<f32>(),
            Self::F16 => size_of::<f16>(),
        }
    }
}

/// A number of a cache, which is moved and never computed with.
pub(super) trait CacheNumber:
    PrimitiveTensorElementType + Copy + Default + std::fmt::Debug + 'static
{
}

impl CacheNumber for f32 {}
impl CacheNumber for f16 {}

/// The logits of a run.
pub(super) enum Logits<'a> {
    Single(&'a [f32]),
    Half(&'a [f16]),
}

impl<'a> Logits<'a> {
    pub(super) fn of(output: &'a DynValue, number: Number) -> Result<Self, BackendError> {
        Ok(match number {
            Number::F32 => Self::Single(output.try_extract_tensor().map_err(failed)?.1),
            Number::F16 => Self::Half(output.try_extract_tensor().map_err(failed)?.1),
        })
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Single(logits) => logits.len(),
            Self::Half(logits) => logits.len(),
        }
    }

    /// Copies as many logits as `target` holds, from the number `start` on.
    pub(super) fn copy(&self, start: usize, target: &mut [f32]) {
        let range = start..start + target.len();
        match self {
            Self::Single(logits) => target.copy_from_slice(&logits[range]),
            Self::Half(logits) => logits[range].convert_to_f32_slice(target),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_widened_exactly() {
        let halves = [1.5, -0.25, 65504.0, f32::NEG_INFINITY].map(f16::from_f32);
        let mut found = [0.0; 3];
        Logits::Half(&halves).copy(1, &mut found);
        assert_eq!(found.map(f32::to_bits), [-0.25, 65504.0, f32::NEG_INFINITY].map(f32::to_bits));
    }
}
