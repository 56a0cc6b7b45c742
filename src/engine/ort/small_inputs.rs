//! Everything that a graph takes beside its cache, for rows that padding makes equally long.
//!
//! ```text
//! columns of attention_mask   cached ───────────────────▶│ fed ──────────▶
//! a row                       0 0 0 1 1 1 1 1 1 1 1 1 1 1│1 1 1 1 1 0 0 0
//!                             padding │ past             │ tokens  │ padding
//! ```
//!
//! A cache is padded on the left, so that new tokens stand right behind old ones in every row; fed tokens are padded on
//! the right, where a causal graph never looks from a real token.

use std::borrow::Cow;

use ort::session::SessionInputValue;
use ort::value::Tensor;

use super::contract::{Graph, IntegerKind};
use super::run::{failed, id};
use crate::engine::backend::{BackendError, Input};

pub(super) type NamedInputs<'a> = Vec<(Cow<'a, str>, SessionInputValue<'a>)>;

/// The inputs of one run.
///
/// `cached_tokens` is the length of the padded cache, at least the longest `past`; `wanted` are the positions, within the fed
/// tokens, whose logits are wanted, for graphs that ask for them.
pub(super) fn small_inputs<'a>(
    graph: &'a Graph,
    rows: &[Input<'_>],
    cached_tokens: usize,
    wanted: &[usize],
) -> Result<NamedInputs<'a>, BackendError> {
    let Graph {
        names,
        input_ids,
        attention_mask,
        position_ids,
        use_cache_branch,
        logits_index,
        logits: _,
        vocabulary_size: _,
    } = graph;
    let fed_tokens = rows.iter().map(|row| row.tokens.len()).max().unwrap_or(0);
    // The id of padding does not matter, as long as the graph knows it.
    let ids = table(rows, fed_tokens, |row, column| row.tokens.get(column).copied().map_or(0, id));
    let shape = [rows.len(), fed_tokens];
    let shape_of_ids = if input_ids.has_choices { vec![rows.len(), 1, fed_tokens] } else { shape.to_vec() };
    let ids = integers(input_ids.kind, &shape_of_ids, ids)?;
    let mut inputs: NamedInputs<'a> = vec![(Cow::Borrowed(&names.input_ids), ids)];
    if let Some(kind) = attention_mask {
        let columns = cached_tokens + fed_tokens;
        let mask = table(rows, columns, |row, column| {
            let real = cached_tokens - row.past..cached_tokens + row.tokens.len();
            i64::from(real.contains(&column))
        });
        let mask = integers(*kind, &[rows.len(), columns], mask)?;
        inputs.push((Cow::Borrowed(&names.attention_mask), mask));
    }
    if let Some(kind) = position_ids {
        // Padding repeats the last position: beyond it the graph may have none.
        let positions = table(rows, fed_tokens, |row, column| {
            (row.past + column.min(row.tokens.len().saturating_sub(1))) as i64
        });
        inputs.push((Cow::Borrowed(&names.position_ids), integers(*kind, &shape, positions)?));
    }
    if *use_cache_branch {
        let branch = Tensor::<bool>::from_array(([1], vec![cached_tokens > 0])).map_err(failed)?;
        inputs.push(("use_cache_branch".into(), branch.into()));
    }
    if *logits_index {
        let wanted = wanted.iter().map(|position| *position as i64).collect::<Vec<_>>();
        inputs.push(("logits_index".into(), integers(IntegerKind::Int64, &[wanted.len()], wanted)?));
    }
    Ok(inputs)
}

/// Numbers `[rows, columns]`, row-major.
fn table(rows: &[Input<'_>], columns: usize, number: impl Fn(&Input<'_>, usize) -> i64) -> Vec<i64> {
    let number = &number;
    rows.iter().flat_map(|row| (0..columns).map(move |column| number(row, column))).collect()
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
