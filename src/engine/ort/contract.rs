//! What a graph takes and gives, read from the graph itself; refuses what cannot be served, by name.
//!
//! Inputs understood: `input_ids`, `attention_mask`, `position_ids`, `past_key_values.N.key|value`,
//! `use_cache_branch` (merged decoders) and `logits_index` (the positions whose logits are wanted). Outputs: `logits`,
//! `present.N.key|value`.
//!
//! From: the names that Hugging Face Optimum and the ONNX Runtime GenAI model builder write.

use ort::session::Session;
use ort::value::{Outlet, TensorElementType, ValueType};

use super::graph_file::Operators;
use super::{GraphHints, OrtError};

/// Everything the adapters need to know about a graph.
pub(super) struct Contract {
    pub(super) graph: Graph,
    pub(super) cache: Cache,
}

/// The parts every graph has.
pub(super) struct Graph {
    pub(super) input_ids: IntegerKind,
    pub(super) attention_mask: Option<IntegerKind>,
    pub(super) position_ids: Option<IntegerKind>,
    /// Bool `[1]`: whether the branch that reads the cache is taken.
    pub(super) use_cache_branch: bool,
    /// Int64 `[wanted]`: positions, within the tokens of this run, of the logits that are wanted.
    pub(super) logits_index: bool,
    pub(super) vocabulary_size: usize,
}

/// How the graph keeps keys and values.
pub(super) enum Cache {
    /// `present` may be the same memory as `past`, written in place.
    InPlace(Layout),
    /// `present` is `past` with the new tokens appended, in new memory.
    Concat {
        layout: Layout,
        /// Whether a cache may be padded on the left: the mask hides padding and positions do not count it.
        left_padding: bool,
    },
    /// None.
    None,
}

/// Shape of the cache: `layers` pairs of `[batch, kv_heads, tokens, head_size]`, f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) layers: usize,
    pub(super) kv_heads: usize,
    pub(super) head_size: usize,
}

impl Layout {
    /// Memory of the cache of one token, keys and values of all layers.
    pub(super) fn bytes_per_token(self) -> usize {
        2 * self.layers * self.kv_heads * self.head_size * size_of::<f32>()
    }
}

/// Type of an input of token ids, positions or mask bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IntegerKind {
    Int64,
    Int32,
}

const KNOWN_INPUTS: &str = "input_ids, attention_mask, position_ids, use_cache_branch, logits_index, \
                            past_key_values.N.key and past_key_values.N.value";

impl Contract {
    /// Reads the contract from a loaded graph.
    ///
    /// # Errors
    /// [`OrtError::Unsupported`], which names the input or output that is missing, unknown or of the wrong type.
    pub(super) fn read(
        session: &Session,
        operators: &Operators,
        hints: &GraphHints,
    ) -> Result<Self, OrtError> {
        refuse_unknown_inputs(session)?;
        let graph = Graph {
            input_ids: integer(session, "input_ids")?
                .ok_or_else(|| unsupported("it has no input `input_ids`".to_owned()))?,
            attention_mask: integer(session, "attention_mask")?,
            position_ids: integer(session, "position_ids")?,
            use_cache_branch: input(session, "use_cache_branch").is_some(),
            logits_index: input(session, "logits_index").is_some(),
            vocabulary_size: vocabulary_size(session)?,
        };
        let cache = match layout(session, hints)? {
            None => Cache::None,
            Some(layout) if writes_in_place(operators, layout) => Cache::InPlace(layout),
            Some(layout) => Cache::Concat { layout, left_padding: allows_left_padding(operators, &graph) },
        };
        if matches!(cache, Cache::InPlace(_)) && graph.attention_mask.is_none() {
            return Err(unsupported("it has grouped attention but no input `attention_mask`".to_owned()));
        }
        Ok(Self { graph, cache })
    }
}

/// GroupQueryAttention writes `present` into `past` when both are one buffer; all layers have to be of that kind.
fn writes_in_place(operators: &Operators, layout: Layout) -> bool {
    operators.count("GroupQueryAttention") == layout.layers
}

/// Without positions a graph takes the padded length for them. Grouped attention, where only some layers have it, finds
/// tokens by the sum of the mask, from the first column on.
fn allows_left_padding(operators: &Operators, graph: &Graph) -> bool {
    let by_length = operators.count("GroupQueryAttention") > 0;
    graph.attention_mask.is_some() && graph.position_ids.is_some() && !by_length
}

fn unsupported(message: String) -> OrtError {
    OrtError::Unsupported(message)
}

fn input<'a>(session: &'a Session, name: &str) -> Option<&'a Outlet> {
    session.inputs().iter().find(|outlet| outlet.name() == name)
}

fn refuse_unknown_inputs(session: &Session) -> Result<(), OrtError> {
    let known = |name: &str| {
        matches!(name, "input_ids" | "attention_mask" | "position_ids" | "use_cache_branch" | "logits_index")
            || cache_index(name, "past_key_values.").is_some()
    };
    match session.inputs().iter().find(|outlet| !known(outlet.name())) {
        Some(outlet) => Err(unsupported(format!(
            "it asks for the input `{}`; known inputs are {KNOWN_INPUTS}",
            outlet.name()
        ))),
        None => Ok(()),
    }
}

/// Layer and half of a cache tensor's name, as in `past_key_values.3.key`.
fn cache_index<'a>(name: &'a str, prefix: &str) -> Option<(usize, &'a str)> {
    let (layer, half) = name.strip_prefix(prefix)?.split_once('.')?;
    matches!(half, "key" | "value").then_some((layer.parse().ok()?, half))
}

fn integer(session: &Session, name: &str) -> Result<Option<IntegerKind>, OrtError> {
    let Some(outlet) = input(session, name) else {
        return Ok(None);
    };
    match outlet.dtype() {
        ValueType::Tensor { ty: TensorElementType::Int64, .. } => Ok(Some(IntegerKind::Int64)),
        ValueType::Tensor { ty: TensorElementType::Int32, .. } => Ok(Some(IntegerKind::Int32)),
        other => Err(unsupported(format!("its input `{name}` is {other}, not int64 or int32"))),
    }
}

fn vocabulary_size(session: &Session) -> Result<usize, OrtError> {
    let logits = session.outputs().iter().find(|outlet| outlet.name() == "logits");
    let Some(logits) = logits else {
        let names: Vec<&str> = session.outputs().iter().map(Outlet::name).collect();
        return Err(unsupported(format!("it has no output `logits`; its outputs are {}", names.join(", "))));
    };
    match logits.dtype() {
        ValueType::Tensor { ty: TensorElementType::Float32, shape, .. }
            if shape.len() == 3 && shape[2] > 0 =>
        {
            Ok(shape[2] as usize)
        }
        other => Err(unsupported(format!(
            "its output `logits` is {other}, not f32 [batch, tokens, vocabulary] with a fixed vocabulary"
        ))),
    }
}

/// The cache's shape from the graph's inputs, completed by the model's configuration; both must agree if both speak.
fn layout(session: &Session, hints: &GraphHints) -> Result<Option<Layout>, OrtError> {
    let caches: Vec<&Outlet> = session
        .inputs()
        .iter()
        .filter(|outlet| cache_index(outlet.name(), "past_key_values.").is_some())
        .collect();
    let Some(first) = caches.first() else {
        return Ok(None);
    };
    let layers = caches.len() / 2;
    for layer in 0..layers {
        for half in ["key", "value"] {
            let past = format!("past_key_values.{layer}.{half}");
            let present = format!("present.{layer}.{half}");
            if input(session, &past).is_none() {
                return Err(unsupported(format!("it has no input `{past}`")));
            }
            if !session.outputs().iter().any(|outlet| outlet.name() == present) {
                return Err(unsupported(format!("it has no output `{present}`")));
            }
        }
    }
    let shape = match first.dtype() {
        ValueType::Tensor { ty: TensorElementType::Float32, shape, .. } if shape.len() == 4 => shape,
        other => {
            return Err(unsupported(format!(
                "its input `{}` is {other}, not f32 [batch, heads, tokens, head size]",
                first.name()
            )));
        }
    };
    Ok(Some(Layout {
        layers,
        kv_heads: agree("key and value heads", shape[1], hints.kv_heads)?,
        head_size: agree("head size", shape[3], hints.head_size)?,
    }))
}

fn agree(what: &str, graph: i64, hint: Option<usize>) -> Result<usize, OrtError> {
    match (usize::try_from(graph).ok().filter(|size| *size > 0), hint) {
        (Some(graph), Some(hint)) if graph != hint => {
            Err(unsupported(format!("the graph says {what} {graph}, the model's configuration says {hint}")))
        }
        (Some(size), _) | (None, Some(size)) => Ok(size),
        (None, None) => Err(unsupported(format!(
            "neither the graph nor config.json or genai_config.json says the {what}"
        ))),
    }
}
