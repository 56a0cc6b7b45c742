//! Caches that several rows share, for graphs that return a longer cache each run.
//!
//! ```text
//! one group: key and value of each layer, [rows of the group, kv_heads, longest, head_size]
//!   row 4   k k k k k k k k
//!   row 0   0 0 0 k k k k k      padded on the left with zeros: a masked NaN would still be a NaN
//!   row 2   0 0 0 0 0 k k k
//! ```
//!
//! What a run returns is the next run's past as it is. Only when rows come or go, or when growing together has made
//! padding rare enough for two groups to become one, are tensors built anew, without padding that no row needs.

use std::ops::Range;

use half::f16;
use ort::memory::Allocator;
use ort::value::{DynValue, Tensor};

use super::contract::Layout;
use super::groups::{Bounds, group};
use super::numbers::{CacheNumber, Number};
use super::run::failed;
use crate::engine::backend::BackendError;

/// Rows whose caches are one set of tensors.
pub(super) struct Group {
    /// The rows in the order of the tensors' first dimension.
    pub(super) members: Vec<Member>,
    /// Tokens of the tensors, padding included.
    pub(super) tokens: usize,
    /// Key and value of each layer in turn.
    pub(super) halves: Vec<DynValue>,
}

/// A place in a group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    /// `None` when the row was released: the place is there until the tensors are built anew.
    pub(super) row: Option<usize>,
    /// Tokens in the cache of the row, the last ones of its place.
    pub(super) tokens: usize,
}

/// The caches of all rows.
pub(super) struct JointCache {
    layout: Layout,
    bounds: Bounds,
    groups: Vec<Group>,
}

impl JointCache {
    pub(super) fn new(layout: Layout, bounds: Bounds) -> Self {
        Self { layout, bounds, groups: Vec::new() }
    }

    /// Gives `row` an empty cache, in a group of its own.
    pub(super) fn begin(&mut self, row: usize) -> Result<(), BackendError> {
        self.release(row);
        let empty = || match self.layout.number {
            Number::F32 => self.zeros::<f32>(1, 0).map(Tensor::into_dyn),
            Number::F16 => self.zeros::<f16>(1, 0).map(Tensor::into_dyn),
        };
        let halves = (0..2 * self.layout.layers).map(|_| empty());
        let members = vec![Member { row: Some(row), tokens: 0 }];
        self.groups.push(Group { members, tokens: 0, halves: halves.collect::<Result<_, _>>()? });
        Ok(())
    }

    /// Takes the groups that hold `rows` and no others out; they come back through [`JointCache::put`].
    ///
    /// Other rows are left in groups without released places, so that no memory of theirs outlives a step.
    pub(super) fn take(&mut self, rows: &Range<usize>) -> Result<Vec<Group>, BackendError> {
        let (taken, others): (Vec<_>, Vec<_>) =
            self.live().into_iter().partition(|(row, _)| rows.contains(row));
        let wanted = [group(&taken, self.bounds), group(&others, self.bounds)].concat();
        self.arrange(wanted)?;
        let (taken, others) = std::mem::take(&mut self.groups).into_iter().partition(|group| {
            group.members.iter().any(|member| member.row.is_some_and(|row| rows.contains(&row)))
        });
        self.groups = others;
        Ok(taken)
    }

    /// Keeps a group after its run.
    pub(super) fn put(&mut self, group: Group) {
        self.groups.push(group);
    }

    /// Tells that the cache of row `from` is now that of row `to`.
    pub(super) fn rename(&mut self, from: usize, to: usize) {
        self.release(to);
        if let Some(member) = self.member(from) {
            member.row = Some(to);
        }
    }

    /// Forgets the cache of a row; a group without rows is freed at once.
    pub(super) fn release(&mut self, row: usize) {
        if let Some(member) = self.member(row) {
            member.row = None;
        }
        self.groups.retain(|group| group.members.iter().any(|member| member.row.is_some()));
    }

    fn member(&mut self, row: usize) -> Option<&mut Member> {
        self.groups.iter_mut().flat_map(|group| &mut group.members).find(|member| member.row == Some(row))
    }

    /// Rows and their lengths.
    fn live(&self) -> Vec<(usize, usize)> {
        let members = self.groups.iter().flat_map(|group| &group.members);
        members.filter_map(|member| Some((member.row?, member.tokens))).collect()
    }

    /// Makes the groups hold the rows of `wanted`, each row of which has a cache; groups that do already stay.
    fn arrange(&mut self, mut wanted: Vec<Vec<usize>>) -> Result<(), BackendError> {
        let mut old = Vec::new();
        for group in std::mem::take(&mut self.groups) {
            match wanted.iter().position(|rows| group.holds_exactly(rows)) {
                Some(found) => {
                    wanted.swap_remove(found);
                    self.groups.push(group);
                }
                None => old.push(group),
            }
        }
        if !wanted.is_empty() {
            self.build(old, &wanted)?;
        }
        Ok(())
    }

    /// Copies the caches of `old` into new groups. A half of a layer at a time, so that little is there twice.
    fn build(&mut self, mut old: Vec<Group>, wanted: &[Vec<usize>]) -> Result<(), BackendError> {
        let plans: Vec<Vec<Source>> =
            wanted.iter().map(|rows| rows.iter().filter_map(|row| find(&old, *row)).collect()).collect();
        let mut built: Vec<Group> = plans
            .iter()
            .zip(wanted)
            .map(|(sources, rows)| Group {
                members: rows
                    .iter()
                    .zip(sources)
                    .map(|(row, source)| Member { row: Some(*row), tokens: source.tokens })
                    .collect(),
                tokens: sources.iter().map(|source| source.tokens).max().unwrap_or(0),
                halves: Vec::with_capacity(2 * self.layout.layers),
            })
            .collect();
        // From the last to the first: what was copied is dropped.
        for _ in 0..2 * self.layout.layers {
            let halves: Vec<DynValue> = old.iter_mut().filter_map(|group| group.halves.pop()).collect();
            for (group, sources) in built.iter_mut().zip(&plans) {
                group.halves.push(match self.layout.number {
                    Number::F32 => self.join::<f32>(sources, group.tokens, &halves)?,
                    Number::F16 => self.join::<f16>(sources, group.tokens, &halves)?,
                });
            }
        }
        for group in &mut built {
            group.halves.reverse();
        }
        self.groups.append(&mut built);
        Ok(())
    }

    /// One half of a layer of a new group, of `tokens` tokens.
    fn join<N: CacheNumber>(
        &self,
        sources: &[Source],
        tokens: usize,
        past: &[DynValue],
    ) -> Result<DynValue, BackendError> {
        let Layout { kv_heads, head_size, layers: _, number: _ } = self.layout;
        let mut joined = self.zeros::<N>(sources.len(), tokens)?;
        let (_shape, numbers) = joined.extract_tensor_mut();
        for (place, source) in sources.iter().enumerate() {
            let (_shape, past) = past[source.group].try_extract_tensor::<N>().map_err(failed)?;
            let length = source.tokens * head_size;
            for head in 0..kv_heads {
                // The last tokens of each place are real.
                let to = ((place * kv_heads + head + 1) * tokens) * head_size;
                let from = ((source.place * kv_heads + head + 1) * source.padded_tokens) * head_size;
                numbers[to - length..to].copy_from_slice(&past[from - length..from]);
            }
        }
        Ok(joined.into_dyn())
    }

    fn zeros<N: CacheNumber>(&self, rows: usize, tokens: usize) -> Result<Tensor<N>, BackendError> {
        let shape = [rows, self.layout.kv_heads, tokens, self.layout.head_size];
        match shape.iter().product() {
            // Memory of ours cannot be empty, a tensor can.
            0 => Tensor::new(&Allocator::default(), shape).map_err(failed),
            size => Tensor::from_array((shape, vec![N::default(); size])).map_err(failed),
        }
    }
}

impl Group {
    /// Whether the rows are these, in any order, without released places.
    fn holds_exactly(&self, rows: &[usize]) -> bool {
        let holds = |member: &Member| member.row.is_some_and(|row| rows.contains(&row));
        self.members.len() == rows.len() && self.members.iter().all(holds)
    }
}

/// Where the cache of a row is copied from.
struct Source {
    group: usize,
    place: usize,
    tokens: usize,
    padded_tokens: usize,
}

fn find(groups: &[Group], row: usize) -> Option<Source> {
    groups.iter().enumerate().find_map(|(index, group)| {
        let place = group.members.iter().position(|member| member.row == Some(row))?;
        let Member { tokens, row: _ } = group.members[place];
        Some(Source { group: index, place, tokens, padded_tokens: group.tokens })
    })
}
