//! Graphs that return a longer cache each run (`Concat`): the plain attention of Optimum exports, merged or not.
//!
//! Such a graph copies the whole cache per token, so it is slower than one that writes in place. Each row keeps the
//! tensors that its last run returned and runs alone.

use std::borrow::Cow;
use std::ops::Range;

use ort::memory::Allocator;
use ort::session::{Session, SessionInputValue, SessionInputs};
use ort::value::{DynValue, Tensor};

use super::Rows;
use super::contract::{Graph, IntegerKind, Layout};
use super::run::failed;
use crate::engine::backend::{Backend, BackendError, Batch, Geometry, Input, Wanted};

pub(super) struct Concat {
    session: Session,
    graph: Graph,
    layout: Layout,
    geometry: Geometry,
    /// Key and value of each layer in turn; `None` before the first run of a row.
    caches: Vec<Option<Vec<DynValue>>>,
    past_names: Vec<String>,
    present_names: Vec<String>,
    logits: Vec<f32>,
}

pub(super) type NamedInputs<'a> = Vec<(Cow<'a, str>, SessionInputValue<'a>)>;

impl Concat {
    pub(super) fn new(session: Session, graph: Graph, layout: Layout, rows: Rows) -> Self {
        let halves = |prefix: &str| -> Vec<String> {
            (0..layout.layers)
                .flat_map(|layer| ["key", "value"].map(|half| format!("{prefix}.{layer}.{half}")))
                .collect()
        };
        Self {
            session,
            geometry: Geometry {
                vocabulary_size: graph.vocabulary_size,
                context_tokens: rows.context_tokens,
                rows: rows.rows,
                // The branch of a merged decoder that reads the cache is made for single tokens.
                chunks: !graph.use_cache_branch,
                // A run holds the old cache and the new one.
                cache_bytes_per_token: 2 * layout.bytes_per_token(),
                keeps_prefixes: false,
                verifies_drafts: false,
            },
            caches: (0..rows.rows).map(|_| None).collect(),
            past_names: halves("past_key_values"),
            present_names: halves("present"),
            graph,
            layout,
            logits: Vec::new(),
        }
    }

    /// Runs one row and leaves the logits of its last token at `self.logits[at..]`.
    fn run_row(&mut self, row: usize, input: &Input<'_>, at: usize) -> Result<(), BackendError> {
        let past = match self.caches[row].take() {
            Some(past) if input.past > 0 => past,
            _ => self.empty_cache()?,
        };
        let mut inputs = small_inputs(&self.graph, input)?;
        for (name, value) in self.past_names.iter().zip(past) {
            inputs.push((Cow::Borrowed(name.as_str()), value.into()));
        }
        let mut outputs = self.session.run(SessionInputs::ValueMap::<0>(inputs)).map_err(failed)?;
        let (shape, logits) = outputs["logits"].try_extract_tensor::<f32>().map_err(failed)?;
        let width = self.geometry.vocabulary_size;
        let last = (shape[1] as usize - 1) * width;
        self.logits[at..at + width].copy_from_slice(&logits[last..last + width]);
        let present: Option<Vec<DynValue>> =
            self.present_names.iter().map(|name| outputs.remove(name)).collect();
        self.caches[row] = present;
        Ok(())
    }

    fn empty_cache(&self) -> Result<Vec<DynValue>, BackendError> {
        let shape = [1, self.layout.kv_heads, 0, self.layout.head_size];
        (0..2 * self.layout.layers)
            .map(|_| Ok(Tensor::<f32>::new(&Allocator::default(), shape).map_err(failed)?.into_dyn()))
            .collect()
    }
}

/// Everything but the cache, for one row.
pub(super) fn small_inputs<'a>(graph: &Graph, input: &Input<'_>) -> Result<NamedInputs<'a>, BackendError> {
    let Graph { input_ids, attention_mask, position_ids, use_cache_branch, logits_index, vocabulary_size: _ } =
        graph;
    let width = input.tokens.len();
    let ids: Vec<i64> = input.tokens.iter().map(|token| i64::from(*token)).collect();
    let mut inputs: NamedInputs<'a> = vec![("input_ids".into(), integers(*input_ids, &[1, width], ids)?)];
    if let Some(kind) = attention_mask {
        let total = input.past + width;
        inputs.push(("attention_mask".into(), integers(*kind, &[1, total], vec![1; total])?));
    }
    if let Some(kind) = position_ids {
        let positions = (input.past..input.past + width).map(|position| position as i64).collect();
        inputs.push(("position_ids".into(), integers(*kind, &[1, width], positions)?));
    }
    if *use_cache_branch {
        let branch = Tensor::<bool>::from_array(([1], vec![input.past > 0])).map_err(failed)?;
        inputs.push(("use_cache_branch".into(), branch.into()));
    }
    if *logits_index {
        inputs.push(("logits_index".into(), integers(IntegerKind::Int64, &[1], vec![width as i64 - 1])?));
    }
    Ok(inputs)
}

fn integers<'a>(
    kind: IntegerKind,
    shape: &[usize],
    numbers: Vec<i64>,
) -> Result<SessionInputValue<'a>, BackendError> {
    Ok(match kind {
        IntegerKind::Int64 => Tensor::<i64>::from_array((shape.to_vec(), numbers)).map_err(failed)?.into(),
        IntegerKind::Int32 => {
            let narrow: Vec<i32> = numbers.into_iter().map(|number| number as i32).collect();
            Tensor::<i32>::from_array((shape.to_vec(), narrow)).map_err(failed)?.into()
        }
    })
}

impl Backend for Concat {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn forward(&mut self, batch: &Batch<'_>) -> Result<&mut [f32], BackendError> {
        let width = self.geometry.vocabulary_size;
        let length = batch.inputs.len() * width;
        self.logits.resize(length, 0.0);
        for (offset, input) in batch.inputs.iter().enumerate() {
            self.run_row(batch.first_row + offset, input, offset * width)?;
        }
        Ok(if batch.wanted == Wanted::Last { &mut self.logits } else { &mut [] })
    }

    fn move_row(&mut self, from: usize, to: usize, _tokens: usize) {
        self.caches[to] = self.caches[from].take();
    }

    fn read_cache(&self, _row: usize, _tokens: Range<usize>, _cache: &mut Vec<f32>) {}

    fn write_cache(&mut self, _row: usize, _tokens: Range<usize>, _cache: &[f32]) {}

    fn release_row(&mut self, row: usize, _give_back: bool) {
        self.caches[row] = None;
    }
}
