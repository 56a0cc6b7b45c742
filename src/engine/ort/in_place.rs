//! Graphs whose attention writes its cache in place (`GroupQueryAttention`): no copy of the cache per token.
//!
//! Rows lie next to each other in the slabs; `past` and `present` of a run are one view of the rows in the batch. The
//! operator finds each row's length in the attention mask, writes the new token there and reads nothing beyond.
//! ONNX Runtime's CPU kernel takes several tokens a row only for one row at a time: a chunk, or a decode step.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::CString;
use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;
use ort::AsPointer;
use ort::memory::MemoryInfo;
use ort::session::Session;
use ort::value::{DynValueRefMut, Shape, TensorRefMut};

use super::contract::{Graph, IntegerKind, Layout};
use super::names::Names;
use super::numbers::Number;
use super::run::{Call, Integers, c_name, failed, id};
use super::slab::Slabs;
use super::{OrtError, Rows};
use crate::engine::backend::{Backend, BackendError, Batch, Feeding, Geometry, Wanted};

/// Width of a decode step's mask, in multiples. ONNX Runtime plans the memory of a run by the shapes of its inputs, so a mask
/// that is wider by one in each step would have it plan anew each time.
const MASK_STEP: usize = 128;

/// Tensors over the slabs for consecutive rows: key and value of each layer in turn.
type Views = Vec<DynValueRefMut<'static>>;

pub(super) struct InPlace {
    /// Views by first row and number of rows; made once, so that a step allocates nothing for the cache.
    views: HashMap<(usize, usize), Views>,
    session: Session,
    slabs: Slabs,
    layout: Layout,
    geometry: Geometry,
    names: CNames,
    input_ids: Integers,
    attention_mask: Integers,
    position_ids: Option<Integers>,
    logits_index: Option<Integers>,
    /// `[rows, tokens or 1, vocabulary_size]`, grown to the largest run.
    logits: Vec<f32>,
    /// The same where the graph gives halves, which are widened into `logits`.
    half_logits: Option<Vec<f16>>,
}

struct CNames {
    input_ids: CString,
    attention_mask: CString,
    position_ids: CString,
    logits_index: CString,
    logits: CString,
    past: Vec<CString>,
    present: Vec<CString>,
}

impl InPlace {
    pub(super) fn new(session: Session, graph: &Graph, layout: Layout, rows: Rows) -> Result<Self, OrtError> {
        let Graph {
            ref names,
            input_ids,
            attention_mask,
            position_ids,
            use_cache_branch,
            logits_index,
            logits,
            vocabulary_size,
        } = *graph;
        if use_cache_branch {
            return Err(OrtError::Unsupported(
                "it has grouped attention and the input `use_cache_branch`".to_owned(),
            ));
        }
        Ok(Self {
            views: HashMap::new(),
            session,
            slabs: Slabs::new(layout, rows)?,
            layout,
            geometry: Geometry {
                vocabulary_size,
                context_tokens: rows.context_tokens,
                rows: rows.rows,
                feeding: if logits_index { Feeding::LongChunks } else { Feeding::Chunks },
                cache_bytes_per_token: layout.bytes_per_token(),
                keeps_prefixes: true,
                verifies_drafts: true,
            },
            names: CNames::new(names, layout.layers),
            input_ids: Integers::new(input_ids.kind),
            attention_mask: Integers::new(attention_mask.unwrap_or(IntegerKind::Int64)),
            position_ids: position_ids.map(Integers::new),
            logits_index: logits_index.then(|| Integers::new(IntegerKind::Int64)),
            logits: Vec::new(),
            half_logits: (logits == Number::F16).then(Vec::new),
        })
    }
}

impl Backend for InPlace {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn forward(&mut self, batch: &Batch<'_>) -> Result<&mut [f32], BackendError> {
        let rows = batch.inputs.len();
        let width = batch.inputs[0].tokens.len();
        let longest = batch.inputs.iter().map(|input| input.past + width).max().unwrap_or(width);
        debug_assert!(rows == 1 || batch.wanted != Wanted::All && width == 1);
        debug_assert!(batch.inputs.iter().all(|input| input.tokens.len() == width));
        debug_assert!(
            batch.first_row + rows <= self.geometry.rows && longest <= self.geometry.context_tokens
        );

        let inputs = batch.inputs;
        self.input_ids.fill(rows, width, |row, column| id(inputs[row].tokens[column]));
        let mask_width = if width == 1 {
            longest.next_multiple_of(MASK_STEP).min(self.geometry.context_tokens)
        } else {
            longest
        };
        self.attention_mask
            .fill(rows, mask_width, |row, column| i64::from(column < inputs[row].past + width));
        let input_ids = self.input_ids.tensor([rows, width])?;
        let attention_mask = self.attention_mask.tensor([rows, mask_width])?;
        let mut call = Call::default();
        call.input(&self.names.input_ids, input_ids.as_ptr());
        call.input(&self.names.attention_mask, attention_mask.as_ptr());

        let position_ids = match &mut self.position_ids {
            Some(positions) => {
                positions.fill(rows, width, |row, column| (inputs[row].past + column) as i64);
                Some(positions.tensor([rows, width])?)
            }
            None => None,
        };
        if let Some(positions) = &position_ids {
            call.input(&self.names.position_ids, positions.as_ptr());
        }
        // Tokens of each row whose logits are computed, and among them the first that is wanted. An output that is
        // not wanted has to be of some size all the same.
        let (computed, first_wanted) = match (&self.logits_index, batch.wanted) {
            (_, Wanted::All) => (width, 0),
            (Some(_), Wanted::Last | Wanted::Nothing) => (1, 0),
            (None, Wanted::Last | Wanted::Nothing) => (width, width - 1),
        };
        let logits_index = match &mut self.logits_index {
            Some(index) => {
                index.fill(1, computed, |_row, column| (width - computed + column) as i64);
                Some(index.tensor([computed])?)
            }
            None => None,
        };
        if let Some(index) = &logits_index {
            call.input(&self.names.logits_index, index.as_ptr());
        }

        let vocabulary_size = self.geometry.vocabulary_size;
        let length = rows * computed * vocabulary_size;
        if self.logits.len() < length {
            self.logits.resize(length, 0.0);
        }
        let shape = [rows, computed, vocabulary_size];
        let logits = match &mut self.half_logits {
            Some(halves) => {
                halves.resize(halves.len().max(length), f16::ZERO);
                TensorRefMut::from_array_view_mut((shape, &mut halves[..length])).map_err(failed)?.into_dyn()
            }
            None => TensorRefMut::from_array_view_mut((shape, &mut self.logits[..length]))
                .map_err(failed)?
                .into_dyn(),
        };
        call.output(&self.names.logits, logits.ptr());

        let views = match self.views.entry((batch.first_row, rows)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(view_rows(
                &mut self.slabs,
                self.layout,
                self.geometry.context_tokens,
                (batch.first_row, rows),
            )?),
        };
        for ((view, past), present) in views.iter().zip(&self.names.past).zip(&self.names.present) {
            call.input(past, view.ptr());
            call.output(present, view.ptr());
        }
        // SAFETY: all names and tensors above are alive until here; `past` and `present` share memory, as
        // GroupQueryAttention allows; `&mut self` keeps everybody else out.
        #[expect(unsafe_code, reason = "see `Call::run`")]
        unsafe {
            call.run(&self.session)?;
        }
        drop(logits);

        // A batch of several rows has one token in each, so what is wanted lies together in every case.
        if batch.wanted == Wanted::Nothing {
            return Ok(&mut []);
        }
        let wanted = first_wanted * vocabulary_size..length;
        if let Some(halves) = &self.half_logits {
            halves[wanted.clone()].convert_to_f32_slice(&mut self.logits[wanted.clone()]);
        }
        Ok(&mut self.logits[wanted])
    }

    fn move_row(&mut self, from: usize, to: usize, tokens: usize) {
        self.slabs.copy_row(from, to, tokens);
    }

    fn read_cache(&self, row: usize, tokens: Range<usize>, cache: &mut Vec<u8>) {
        self.slabs.read(row, tokens, cache);
    }

    fn write_cache(&mut self, row: usize, tokens: Range<usize>, cache: &[u8]) {
        self.slabs.write(row, tokens, cache);
    }

    fn release_row(&mut self, row: usize, give_back: bool) {
        if give_back {
            self.slabs.release_row(row);
        }
    }
}

impl CNames {
    fn new(names: &Names, layers: usize) -> Self {
        let halves = |of_layer: &dyn Fn(usize) -> [String; 2]| {
            (0..layers).flat_map(of_layer).map(|name| c_name(&name)).collect()
        };
        Self {
            input_ids: c_name(&names.input_ids),
            attention_mask: c_name(&names.attention_mask),
            position_ids: c_name(&names.position_ids),
            logits_index: c_name("logits_index"),
            logits: c_name(&names.logits),
            past: halves(&|layer| names.past(layer)),
            present: halves(&|layer| names.present(layer)),
        }
    }
}

/// Tensors over `rows.1` rows from `rows.0` of every slab.
fn view_rows(
    slabs: &mut Slabs,
    layout: Layout,
    capacity: usize,
    (first, rows): (usize, usize),
) -> Result<Views, BackendError> {
    let stride = slabs.row_stride();
    let shape = [rows, layout.kv_heads, capacity, layout.head_size].map(|size| size as i64);
    slabs
        .halves()
        .iter_mut()
        .map(|half| {
            let start = half[first * stride..(first + rows) * stride].as_mut_ptr().cast();
            let (memory, shape) = (MemoryInfo::default(), Shape::new(shape));
            // SAFETY: the slab is never resized and lives as long as the views, which are dropped before it (field
            // order of `InPlace`); the slice above checks the bounds; slabs and rows begin at multiples of a number.
            #[expect(unsafe_code, reason = "a tensor over memory of ours that outlives any borrow")]
            unsafe {
                match layout.number {
                    Number::F32 => {
                        TensorRefMut::<f32>::from_raw(memory, start, shape).map(TensorRefMut::into_dyn)
                    }
                    Number::F16 => {
                        TensorRefMut::<f16>::from_raw(memory, start, shape).map(TensorRefMut::into_dyn)
                    }
                }
            }
            .map_err(failed)
        })
        .collect()
}
