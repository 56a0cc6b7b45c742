//! Gives graphs of others the input `logits_index`, so that the output layer runs only where a token is wanted.
//!
//! ```text
//! before   hidden [batch, tokens, size] ─▶ output layer ─▶ logits [batch, tokens, vocabulary]
//! after    hidden ─▶ Gather(axis 1, logits_index) ─▶ output layer ─▶ logits [batch, wanted, vocabulary]
//! ```
//!
//! Done only where it cannot change a number: the operator that makes `logits` must compute each position by itself
//! from its first input, which `MatMul` with a weight and `MatMulNBits` do. The file's own weights must be small, that
//! is, kept in a file beside it, because the changed graph is loaded from memory. Everything else is left as it is.
//!
//! From: `onnx.proto` (field numbers).

use std::path::Path;

use super::OrtError;
use super::graph_file::{Operators, is_ort_format};
use super::protobuf::{Field, fields, texts, write_bytes, write_number};

const MODEL_GRAPH: u64 = 7;
const GRAPH_NODE: u64 = 1;
const GRAPH_INITIALIZER: u64 = 5;
const GRAPH_INPUT: u64 = 11;
const GRAPH_OUTPUT: u64 = 12;
const NODE_INPUT: u64 = 1;
const NODE_OUTPUT: u64 = 2;
const NODE_NAME: u64 = 3;
const NODE_OPERATOR: u64 = 4;
const NODE_ATTRIBUTE: u64 = 5;
const VALUE_NAME: u64 = 1;
const TENSOR_NAME: u64 = 8;

const INPUT: &str = "logits_index";
const SELECTED: &str = "inference_gateway/wanted_hidden";

/// Graphs with their weights inside are larger, and would be held in memory twice.
const LARGEST_FILE_BYTES: u64 = 64 << 20;

/// The changed model, or `None` when it has to stay as it is; `logits` is the name of the output.
///
/// # Errors
/// The file cannot be read.
pub(super) fn rewrite(path: &Path, operators: &Operators, logits: &str) -> Result<Option<Vec<u8>>, OrtError> {
    // Worth it only where chunks are fed and their logits thrown away.
    if operators.count("GroupQueryAttention") == 0 || is_ort_format(path) {
        return Ok(None);
    }
    let invalid =
        |error: std::io::Error| OrtError::InvalidGraph { path: path.to_owned(), message: error.to_string() };
    if std::fs::metadata(path).map_err(invalid)?.len() > LARGEST_FILE_BYTES {
        return Ok(None);
    }
    let model = std::fs::read(path).map_err(invalid)?;
    Ok(select_logits(&model, logits))
}

fn select_logits(model: &[u8], logits: &str) -> Option<Vec<u8>> {
    let model_fields = fields(model)?;
    let mut changed = Vec::with_capacity(model.len() + 256);
    for field in &model_fields {
        match field.bytes {
            Some(graph) if field.number == MODEL_GRAPH => {
                write_bytes(&mut changed, MODEL_GRAPH, &change_graph(graph, logits)?);
            }
            _ => changed.extend_from_slice(field.whole),
        }
    }
    Some(changed)
}

fn change_graph(graph: &[u8], logits: &str) -> Option<Vec<u8>> {
    let graph_fields = fields(graph)?;
    let parts = |number: u64| graph_fields.iter().filter(move |field| field.number == number);
    let named = |number: u64, name_field: u64, name: &str| {
        parts(number).any(|field| {
            field.bytes.and_then(fields).is_some_and(|inner| texts(&inner, name_field).first() == Some(&name))
        })
    };
    if named(GRAPH_INPUT, VALUE_NAME, INPUT) || !named(GRAPH_OUTPUT, VALUE_NAME, logits) {
        return None;
    }
    let makes_logits = |field: &&Field<'_>| {
        field.bytes.and_then(fields).is_some_and(|node| texts(&node, NODE_OUTPUT).contains(&logits))
    };
    let output_layer = parts(GRAPH_NODE).find(makes_logits)?;
    let node = fields(output_layer.bytes?)?;
    let inputs = texts(&node, NODE_INPUT);
    let by_position = match *texts(&node, NODE_OPERATOR).first()? {
        "MatMulNBits" => true,
        "MatMul" => named(GRAPH_INITIALIZER, TENSOR_NAME, inputs.get(1)?),
        _ => false,
    };
    if !by_position {
        return None;
    }

    let mut changed = Vec::with_capacity(graph.len() + 256);
    for field in &graph_fields {
        if field.whole.as_ptr() == output_layer.whole.as_ptr() {
            // Nodes stand in the order in which they can run.
            write_bytes(&mut changed, GRAPH_NODE, &gather(inputs.first()?));
            write_bytes(&mut changed, GRAPH_NODE, &with_first_input(&node, SELECTED));
        } else {
            changed.extend_from_slice(field.whole);
        }
    }
    write_bytes(&mut changed, GRAPH_INPUT, &integer_vector_input());
    Some(changed)
}

/// The node with another first input; everything else stays.
fn with_first_input(node: &[Field<'_>], input: &str) -> Vec<u8> {
    let mut changed = Vec::new();
    let mut first = true;
    for field in node {
        if field.number == NODE_INPUT && std::mem::take(&mut first) {
            write_bytes(&mut changed, NODE_INPUT, input.as_bytes());
        } else {
            changed.extend_from_slice(field.whole);
        }
    }
    changed
}

/// `Gather(hidden, logits_index, axis = 1)`
fn gather(hidden: &str) -> Vec<u8> {
    const ATTRIBUTE_NAME: u64 = 1;
    const ATTRIBUTE_INTEGER: u64 = 3;
    const ATTRIBUTE_TYPE: u64 = 20;
    const TYPE_INTEGER: u64 = 2;
    let mut axis = Vec::new();
    write_bytes(&mut axis, ATTRIBUTE_NAME, b"axis");
    write_number(&mut axis, ATTRIBUTE_INTEGER, 1);
    write_number(&mut axis, ATTRIBUTE_TYPE, TYPE_INTEGER);
    let mut node = Vec::new();
    write_bytes(&mut node, NODE_INPUT, hidden.as_bytes());
    write_bytes(&mut node, NODE_INPUT, INPUT.as_bytes());
    write_bytes(&mut node, NODE_OUTPUT, SELECTED.as_bytes());
    write_bytes(&mut node, NODE_NAME, SELECTED.as_bytes());
    write_bytes(&mut node, NODE_OPERATOR, b"Gather");
    write_bytes(&mut node, NODE_ATTRIBUTE, &axis);
    node
}

/// `logits_index`: int64 `[wanted_positions]`
fn integer_vector_input() -> Vec<u8> {
    const VALUE_TYPE: u64 = 2;
    const TYPE_TENSOR: u64 = 1;
    const TENSOR_ELEMENT: u64 = 1;
    const TENSOR_SHAPE: u64 = 2;
    const SHAPE_DIMENSION: u64 = 1;
    const DIMENSION_NAME: u64 = 2;
    const INT64: u64 = 7;
    let nest = |number: u64, inner: &[u8]| {
        let mut outer = Vec::new();
        write_bytes(&mut outer, number, inner);
        outer
    };
    let mut tensor = Vec::new();
    write_number(&mut tensor, TENSOR_ELEMENT, INT64);
    let dimension = nest(DIMENSION_NAME, b"wanted_positions");
    write_bytes(&mut tensor, TENSOR_SHAPE, &nest(SHAPE_DIMENSION, &dimension));
    let mut input = nest(VALUE_NAME, INPUT.as_bytes());
    write_bytes(&mut input, VALUE_TYPE, &nest(TYPE_TENSOR, &tensor));
    input
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(parts: &[(u64, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, value) in parts {
            write_bytes(&mut bytes, *number, value);
        }
        bytes
    }

    /// A graph of one node that makes `logits`, with a weight `w`.
    fn model(operator: &str, weight: &str) -> Vec<u8> {
        let node = message(&[
            (NODE_INPUT, b"hidden"),
            (NODE_INPUT, weight.as_bytes()),
            (NODE_OUTPUT, b"logits"),
            (NODE_OPERATOR, operator.as_bytes()),
        ]);
        let graph = message(&[
            (GRAPH_NODE, &node),
            (GRAPH_INITIALIZER, &message(&[(TENSOR_NAME, b"w")])),
            (GRAPH_INPUT, &message(&[(VALUE_NAME, b"input_ids")])),
            (GRAPH_OUTPUT, &message(&[(VALUE_NAME, b"logits")])),
        ]);
        message(&[(MODEL_GRAPH, &graph)])
    }

    fn node_inputs(model: &[u8]) -> Vec<Vec<String>> {
        let graph = fields(model).unwrap()[0].bytes.unwrap();
        let graph = fields(graph).unwrap();
        let nodes = graph.iter().filter(|field| field.number == GRAPH_NODE);
        nodes
            .map(|node| texts(&fields(node.bytes.unwrap()).unwrap(), NODE_INPUT))
            .map(|names| names.into_iter().map(str::to_owned).collect())
            .collect()
    }

    #[test]
    fn the_output_layer_reads_only_what_is_wanted() {
        for operator in ["MatMul", "MatMulNBits"] {
            let changed = select_logits(&model(operator, "w"), "logits").unwrap();
            assert_eq!(node_inputs(&changed), [["hidden", "logits_index"], [SELECTED, "w"]]);
        }
    }

    #[test]
    fn what_is_changed_already_or_mixes_positions_stays() {
        let changed = select_logits(&model("MatMul", "w"), "logits").unwrap();
        assert_eq!(select_logits(&changed, "logits"), None, "changed twice");
        assert_eq!(select_logits(&model("Softmax", "w"), "logits"), None);
        assert_eq!(
            select_logits(&model("MatMul", "computed"), "logits"),
            None,
            "the second factor is no weight"
        );
        assert_eq!(select_logits(b"<html>", "logits"), None);
    }
}
