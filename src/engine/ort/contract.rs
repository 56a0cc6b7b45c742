//! What a graph takes and gives, read from the graph itself; refuses what cannot be served, by name.
//!
//! Inputs understood: `input_ids`, `attention_mask`, `position_ids`, `past_key_values.N.key|value` (or what
//! `genai_config.json` calls them), `use_cache_branch` (merged decoders) and `logits_index` (the positions whose logits
//! are wanted). Outputs: `logits`, `present.N.key|value`. A graph that names nothing takes `input1` and gives `output1`.
//!
//! From: the names that Hugging Face Optimum and the ONNX Runtime GenAI model builder write, and the shapes of the ONNX
//! model zoo's GPT-2.

use ort::session::Session;
use ort::value::{Outlet, TensorElementType, ValueType};

use super::graph_file::Operators;
use super::names::Names;
use super::numbers::Number;
use super::{GraphHints, OrtError};

/// Everything the adapters need to know about a graph.
pub(super) struct Contract {
    pub(super) graph: Graph,
    pub(super) cache: Cache,
}

/// The parts every graph has.
pub(super) struct Graph {
    pub(super) names: Names,
    pub(super) input_ids: Ids,
    pub(super) attention_mask: Option<IntegerKind>,
    pub(super) position_ids: Option<IntegerKind>,
    /// Bool `[1]`: whether the branch that reads the cache is taken.
    pub(super) use_cache_branch: bool,
    /// Int64 `[wanted]`: positions, within the tokens of this run, of the logits that are wanted.
    pub(super) logits_index: bool,
    pub(super) logits: Number,
    pub(super) vocabulary_size: usize,
}

/// The input of token ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ids {
    pub(super) kind: IntegerKind,
    /// Whether its shape is `[batch, choices, tokens]`, as in the model zoo, and not `[batch, tokens]`.
    pub(super) has_choices: bool,
    /// Whether it takes one row a run.
    pub(super) one_row: bool,
    pub(super) tokens: TokensARun,
}

/// How many tokens of a row can be fed in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokensARun {
    Any,
    /// The shapes allow any number, but the mask's says that the graph was traced with one: it may be wrong for more.
    Doubtful,
    One,
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
    /// None is taken.
    None {
        /// The layers whose cache is returned all the same, for another graph to go on with.
        returned_layers: usize,
    },
}

/// Shape of the cache: `layers` pairs of `[batch, kv_heads, tokens, head_size]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) layers: usize,
    pub(super) kv_heads: usize,
    pub(super) head_size: usize,
    pub(super) number: Number,
}

impl Layout {
    /// Memory of the cache of one token, keys and values of all layers.
    pub(super) fn bytes_per_token(self) -> usize {
        2 * self.layers * self.row_bytes(1)
    }

    /// Memory of the keys, or the values, of some tokens in one layer.
    pub(super) fn row_bytes(self, tokens: usize) -> usize {
        self.kv_heads * tokens * self.head_size * self.number.bytes()
    }
}

/// Type of an input of token ids, positions or mask bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IntegerKind {
    Int64,
    Int32,
}

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
        let names = names(session, hints);
        refuse_unknown_inputs(session, &names)?;
        let (logits, vocabulary_size) = logits(session, &names, hints)?;
        let graph = Graph {
            input_ids: ids(session, &names)?,
            attention_mask: integer(session, &names.attention_mask)?,
            position_ids: integer(session, &names.position_ids)?,
            use_cache_branch: input(session, "use_cache_branch").is_some(),
            logits_index: input(session, "logits_index").is_some(),
            logits,
            vocabulary_size,
            names,
        };
        let cache = match layout(session, &graph.names, hints)? {
            None => Cache::None { returned_layers: returned_layers(session, &graph.names) },
            Some(layout) if writes_in_place(operators, layout) => Cache::InPlace(layout),
            Some(layout) => Cache::Concat { layout, left_padding: allows_left_padding(operators, &graph) },
        };
        if matches!(cache, Cache::InPlace(_)) {
            if graph.attention_mask.is_none() {
                return Err(unsupported(format!(
                    "it has grouped attention but no input `{}`",
                    graph.names.attention_mask
                )));
            }
            let Ids { kind: _, has_choices, one_row, tokens } = graph.input_ids;
            if one_row || has_choices || tokens == TokensARun::One {
                return Err(unsupported(format!(
                    "it has grouped attention, and its input `{}` is not [batch, tokens] with both open",
                    graph.names.input_ids
                )));
            }
        }
        Ok(Self { graph, cache })
    }
}

/// What the model's files say; else the usual names, or those of a graph to which nobody gave any.
fn names(session: &Session, hints: &GraphHints) -> Names {
    let unnamed = Names::unnamed();
    let has_input = |name: &str| input(session, name).is_some();
    if !has_input(&hints.names.input_ids) && has_input(&unnamed.input_ids) {
        return unnamed;
    }
    hints.names.clone()
}

/// GroupQueryAttention writes `present` into `past` when both are one buffer; all layers have to be of that kind.
fn writes_in_place(operators: &Operators, layout: Layout) -> bool {
    operators.count("GroupQueryAttention") == layout.layers
}

/// Without positions a graph takes the padded length for them. Grouped attention, where only some layers have it, finds
/// tokens by the sum of the mask, from the first column on.
fn allows_left_padding(operators: &Operators, graph: &Graph) -> bool {
    let by_length = !operators.are_known() || operators.count("GroupQueryAttention") > 0;
    graph.attention_mask.is_some() && graph.position_ids.is_some() && !by_length
}

fn unsupported(message: String) -> OrtError {
    OrtError::Unsupported(message)
}

fn input<'a>(session: &'a Session, name: &str) -> Option<&'a Outlet> {
    session.inputs().iter().find(|outlet| outlet.name() == name)
}

fn output<'a>(session: &'a Session, name: &str) -> Option<&'a Outlet> {
    session.outputs().iter().find(|outlet| outlet.name() == name)
}

fn refuse_unknown_inputs(session: &Session, names: &Names) -> Result<(), OrtError> {
    let alone =
        [&names.input_ids, &names.attention_mask, &names.position_ids, "use_cache_branch", "logits_index"];
    let unknown = |outlet: &&Outlet| !alone.contains(&outlet.name()) && !names.is_past(outlet.name());
    match session.inputs().iter().find(unknown) {
        Some(outlet) => Err(unsupported(format!(
            "it asks for the input `{}`; known inputs are {}, {} and {}",
            outlet.name(),
            alone.join(", "),
            names.past_key.replace("%d", "N"),
            names.past_value.replace("%d", "N"),
        ))),
        None => Ok(()),
    }
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

fn ids(session: &Session, names: &Names) -> Result<Ids, OrtError> {
    let name = &names.input_ids;
    let kind = integer(session, name)?.ok_or_else(|| unsupported(format!("it has no input `{name}`")))?;
    let shape = dimensions(session, name).unwrap_or_default();
    let (batch, choices, tokens) = match shape[..] {
        [batch, tokens] => (batch, None, tokens),
        [batch, choices, tokens] => (batch, Some(choices), tokens),
        _ => return Err(unsupported(format!("its input `{name}` is {shape:?}, not [batch, tokens]"))),
    };
    if batch > 1 || tokens > 1 || choices.is_some_and(|choices| choices > 1) {
        return Err(unsupported(format!(
            "its input `{name}` is {shape:?}: it takes so many rows and tokens and no others"
        )));
    }
    let mask = input(session, &names.attention_mask).map(Outlet::dtype);
    let one_more = match mask {
        Some(ValueType::Tensor { dimension_symbols, .. }) => {
            dimension_symbols.last().is_some_and(|symbol| symbol.replace(' ', "").ends_with("+1"))
        }
        _ => false,
    };
    let tokens = match tokens {
        1 => TokensARun::One,
        // One branch of a merged decoder was traced so, and the other is for prompts.
        _ if one_more && input(session, "use_cache_branch").is_none() => TokensARun::Doubtful,
        _ => TokensARun::Any,
    };
    Ok(Ids { kind, has_choices: choices.is_some(), one_row: batch == 1, tokens })
}

/// Dimensions of an input; what is open is −1.
fn dimensions(session: &Session, name: &str) -> Option<Vec<i64>> {
    match input(session, name)?.dtype() {
        ValueType::Tensor { shape, .. } => Some(shape.to_vec()),
        _ => None,
    }
}

fn number(ty: TensorElementType) -> Option<Number> {
    match ty {
        TensorElementType::Float32 => Some(Number::F32),
        TensorElementType::Float16 => Some(Number::F16),
        _ => None,
    }
}

/// Type and width of the logits.
fn logits(session: &Session, names: &Names, hints: &GraphHints) -> Result<(Number, usize), OrtError> {
    let name = &names.logits;
    let Some(logits) = output(session, name) else {
        let found: Vec<&str> = session.outputs().iter().map(Outlet::name).collect();
        return Err(unsupported(format!("it has no output `{name}`; its outputs are {}", found.join(", "))));
    };
    let refuse = || {
        unsupported(format!(
            "its output `{name}` is {}, not f32 or f16 [batch, tokens, vocabulary] with a fixed vocabulary",
            logits.dtype()
        ))
    };
    let ValueType::Tensor { ty, shape, .. } = logits.dtype() else {
        return Err(refuse());
    };
    let width = shape.last().copied().and_then(|width| usize::try_from(width).ok());
    match (number(*ty), width) {
        (Some(number), Some(width)) if width > 0 && matches!(shape.len(), 3 | 4) => {
            // A name that nobody gave may stand for anything.
            if *name == Names::unnamed().logits && hints.tokens.is_some_and(|tokens| width < tokens) {
                return Err(unsupported(format!(
                    "its output `{name}` is {width} wide, which is not a vocabulary (the tokenizer has {} tokens): it gives \
                     hidden states; export the model with its language model head",
                    hints.tokens.unwrap_or_default()
                )));
            }
            Ok((number, width))
        }
        _ => Err(refuse()),
    }
}

/// The cache's shape from the graph's inputs, completed by the model's configuration; both must agree if both speak.
fn layout(session: &Session, names: &Names, hints: &GraphHints) -> Result<Option<Layout>, OrtError> {
    let caches: Vec<&Outlet> =
        session.inputs().iter().filter(|outlet| names.is_past(outlet.name())).collect();
    let Some(first) = caches.first() else {
        return Ok(None);
    };
    let layers = caches.len() / 2;
    for layer in 0..layers {
        for (past, present) in names.past(layer).into_iter().zip(names.present(layer)) {
            let Some(past_outlet) = input(session, &past) else {
                return Err(unsupported(format!("it has no input `{past}`")));
            };
            let Some(present_outlet) = output(session, &present) else {
                return Err(unsupported(format!("it has no output `{present}`")));
            };
            for (kind, outlet) in [("input", past_outlet), ("output", present_outlet)] {
                let ty = outlet.dtype().tensor_type();
                if ty != first.dtype().tensor_type() {
                    let (name, other) = (outlet.name(), first.name());
                    return Err(unsupported(format!(
                        "its {kind} `{name}` is {}, of another type than `{other}`",
                        outlet.dtype()
                    )));
                }
            }
        }
    }
    let refuse = || {
        unsupported(format!(
            "its input `{}` is {}, not f32 or f16 [batch, heads, tokens, head size]",
            first.name(),
            first.dtype()
        ))
    };
    let ValueType::Tensor { ty, shape, .. } = first.dtype() else {
        return Err(refuse());
    };
    let number = number(*ty).filter(|_| shape.len() == 4).ok_or_else(refuse)?;
    if shape[2] > 0 {
        return Err(unsupported(format!(
            "its input `{}` is {}: it takes a cache of one length only",
            first.name(),
            first.dtype()
        )));
    }
    Ok(Some(Layout {
        layers,
        kv_heads: agree("key and value heads", shape[1], hints.kv_heads)?,
        head_size: agree("head size", shape[3], hints.head_size)?,
        number,
    }))
}

/// Layers whose key and value are returned.
fn returned_layers(session: &Session, names: &Names) -> usize {
    session.outputs().iter().filter(|outlet| names.is_present(outlet.name())).count() / 2
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
