//! Graphs that return a longer cache each run (`Concat`): the plain attention of Optimum exports, merged or not.
//!
//! Such a graph copies the whole cache per token, so it is slower than one that writes in place. Decoding rows share a run
//! and its cache (`joint_cache.rs`). Rows of different lengths may do so where the graph takes both a mask, which hides
//! padding, and positions, which do not count it; all others share a run only with rows as long as they are.

use std::borrow::Cow;
use std::ops::Range;

use ort::session::{Session, SessionInputs};
use ort::value::DynValue;

use super::Rows;
use super::contract::{Graph, Layout};
use super::groups::Bounds;
use super::joint_cache::{Group, JointCache};
use super::numbers::Logits;
use super::run::failed;
use super::small_inputs::small_inputs;
use crate::engine::backend::{Backend, BackendError, Batch, Feeding, Geometry, Input, Wanted};

/// Padding may take as much memory as what it pads. More would cost rows elsewhere; less would split runs, each of which
/// reads all weights.
const PADDED_PERCENT: usize = 200;

/// A graph for prompts.
struct Prompts {
    session: Session,
    graph: Graph,
}

pub(super) struct Concat {
    session: Session,
    graph: Graph,
    geometry: Geometry,
    cache: JointCache,
    past_names: Vec<String>,
    present_names: Vec<String>,
    /// The graph that prompts are fed to, where it is another one.
    prompts: Option<Prompts>,
    /// `[rows of the batch, vocabulary_size]`.
    logits: Vec<f32>,
    /// Runs of the session so far.
    runs: usize,
}

impl Concat {
    /// `left_padding`: whether attention finds tokens by mask and positions alone, see `Cache::Concat`.
    pub(super) fn new(
        session: Session,
        graph: Graph,
        (layout, left_padding): (Layout, bool),
        rows: Rows,
    ) -> Self {
        let bounds = Bounds {
            equal_lengths: !left_padding,
            padded_percent: if left_padding { PADDED_PERCENT } else { 100 },
            // A row that is longer than the bound runs alone.
            tokens: if graph.input_ids.one_row { 0 } else { usize::MAX },
        };
        Self {
            session,
            geometry: Geometry {
                vocabulary_size: graph.vocabulary_size,
                context_tokens: rows.context_tokens,
                rows: rows.rows,
                // The branch of a merged decoder that reads the cache is made for single tokens.
                feeding: if graph.use_cache_branch { Feeding::Whole } else { Feeding::Chunks },
                // A run holds the old cache and the new one, both with padding.
                cache_bytes_per_token: 2 * layout.bytes_per_token() * bounds.padded_percent / 100,
                keeps_prefixes: false,
                verifies_drafts: false,
            },
            cache: JointCache::new(layout, bounds),
            past_names: (0..layout.layers).flat_map(|layer| graph.names.past(layer)).collect(),
            present_names: (0..layout.layers).flat_map(|layer| graph.names.present(layer)).collect(),
            prompts: None,
            graph,
            logits: Vec::new(),
            runs: 0,
        }
    }

    /// Feeds prompts to a graph of their own, which takes no cache and returns one.
    pub(super) fn with_prompts(mut self, session: Session, graph: Graph) -> Self {
        self.geometry.feeding = Feeding::Whole;
        self.prompts = Some(Prompts { session, graph });
        self
    }

    /// Runs the rows of a group and leaves the logits of their last tokens in `self.logits`, in the batch's order.
    fn run_group(&mut self, group: Group, batch: &Batch<'_>) -> Result<(), BackendError> {
        let Group { mut members, tokens, halves } = group;
        let places = members
            .iter()
            .map(|member| member.row.and_then(|row| row.checked_sub(batch.first_row)))
            .collect::<Option<Vec<usize>>>()
            .ok_or_else(|| BackendError("a group of rows holds one that does not run".to_owned()))?;
        let rows: Vec<Input<'_>> = places.iter().map(|place| batch.inputs[*place]).collect();
        let fed_tokens = rows[0].tokens.len();
        let (session, graph, takes_cache) = match &mut self.prompts {
            Some(Prompts { session, graph }) if tokens == 0 => (session, &*graph, false),
            _ => (&mut self.session, &self.graph, true),
        };
        let mut inputs = small_inputs(graph, &rows, tokens, &[fed_tokens - 1])?;
        if takes_cache {
            for (name, value) in self.past_names.iter().zip(halves) {
                inputs.push((Cow::Borrowed(name.as_str()), value.into()));
            }
        }
        self.runs += 1;
        let mut outputs = session.run(SessionInputs::ValueMap::<0>(inputs)).map_err(failed)?;
        let logits = Logits::of(&outputs[graph.names.logits.as_str()], graph.logits)?;
        let width = self.geometry.vocabulary_size;
        let positions = logits.len() / rows.len() / width;
        for (number, place) in places.into_iter().enumerate() {
            logits.copy(((number + 1) * positions - 1) * width, &mut self.logits[place * width..][..width]);
        }
        let present: Option<Vec<DynValue>> =
            self.present_names.iter().map(|name| outputs.remove(name)).collect();
        let halves = present.ok_or_else(|| BackendError("the run returned no cache".to_owned()))?;
        for member in &mut members {
            member.tokens += fed_tokens;
        }
        self.cache.put(Group { members, tokens: tokens + fed_tokens, halves });
        Ok(())
    }

    /// Groups of the batch's rows, each with the cache that its input comes after.
    fn take_groups(&mut self, batch: &Batch<'_>) -> Result<Vec<Group>, BackendError> {
        let rows = batch.first_row..batch.first_row + batch.inputs.len();
        for (row, input) in rows.clone().zip(batch.inputs) {
            if input.past == 0 {
                self.cache.begin(row)?;
            }
        }
        let groups = self.cache.take(&rows)?;
        let held = groups.iter().flat_map(|group| &group.members);
        let ready = held.filter(|member| {
            member.row.is_some_and(|row| batch.inputs[row - batch.first_row].past == member.tokens)
        });
        if ready.count() == batch.inputs.len() {
            Ok(groups)
        } else {
            Err(BackendError("a row was fed that misses its cache".to_owned()))
        }
    }

    #[cfg(test)]
    pub(super) fn runs(&self) -> usize {
        self.runs
    }
}

impl Backend for Concat {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn forward(&mut self, batch: &Batch<'_>) -> Result<&mut [f32], BackendError> {
        self.logits.resize(batch.inputs.len() * self.geometry.vocabulary_size, 0.0);
        for group in self.take_groups(batch)? {
            self.run_group(group, batch)?;
        }
        Ok(if batch.wanted == Wanted::Last { &mut self.logits } else { &mut [] })
    }

    fn move_row(&mut self, from: usize, to: usize, _tokens: usize) {
        self.cache.rename(from, to);
    }

    fn read_cache(&self, _row: usize, _tokens: Range<usize>, _cache: &mut Vec<u8>) {}

    fn write_cache(&mut self, _row: usize, _tokens: Range<usize>, _cache: &[u8]) {}

    fn release_row(&mut self, row: usize, _give_back: bool) {
        self.cache.release(row);
    }
}
