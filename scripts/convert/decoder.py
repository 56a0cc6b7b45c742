"""The llama decoder as an ONNX graph: embedding, layers, logits, in one of four forms of attention.

    form     inputs beside input_ids [batch, sequence] and attention_mask              who exports such graphs
    gqa      past_key_values.N.key/value                                               onnxruntime-genai
    mha      past_key_values.N.key/value, position_ids                                 optimum
    none     (no cache)                                                                optimum, without past
    merged   past_key_values.N.key/value, position_ids, use_cache_branch [1] bool      optimum, merged

Outputs: logits, and present.N.key/value where there is a cache. With logits `last` there is also the int64
input logits_index [wanted]: the positions, within the fed tokens of every row, whose logits are wanted; logits
is then [batch, wanted, vocabulary] and a prompt costs no product with the output layer but for those.
"""

from dataclasses import dataclass
from pathlib import Path

from onnx import TensorProto

from convert.attention import GroupQueryAttention, PlainAttention, past_names, present_names
from convert.graph import MICROSOFT, GraphBuilder, write_model
from convert.linear import LinearLayers
from convert.llama import Shape, Weights

ATTENTION_FORMS = ("gqa", "mha", "none", "merged")
LOGITS_FORMS = ("last", "all")


@dataclass(frozen=True)
class Form:
    """What the graph looks like from outside, and how its weights are held."""

    attention: str = "gqa"
    precision: str = "fp32"
    logits: str = "last"

    @property
    def has_cache(self) -> bool:
        """Whether there are past and present tensors."""
        return self.attention != "none"

    @property
    def logits_index(self) -> str | None:
        """Name of the input that chooses the position of the logits."""
        return "logits_index" if self.logits == "last" else None


def write_decoder(path: Path, shape: Shape, weights: Weights, form: Form) -> None:
    """Write the graph to `path` and its weights to `path`.data."""
    data_path = path.with_name(path.name + ".data")
    with data_path.open("wb") as data_file:
        graph = GraphBuilder(data_file, data_path.name)
        _declare_inputs(graph, shape, form)
        if form.attention == "merged":
            # optimum's order: the first branch is the one that uses the cache.
            branches = graph.branch("with_past"), graph.branch("without_past")
            for branch, with_past in zip(branches, (True, False)):
                _build(branch, shape, weights, form, with_past)
            graph.choose("use_cache_branch", branches, _output_names(shape, form))
            _declare_outputs(graph, shape, form, _output_names(shape, form))
        else:
            _build(graph, shape, weights, form, with_past=form.attention == "mha")
        model = graph.model("decoder")
    write_model(path, "decoder", model)


def _build(graph: GraphBuilder, shape: Shape, weights: Weights, form: Form, with_past: bool) -> None:
    """The decoder from input_ids to its outputs."""
    linear = LinearLayers(graph, shape, weights, form.precision)
    if form.attention == "gqa":
        attention, norms = GroupQueryAttention(graph, shape, linear), _FusedNorms(graph, shape, weights)
    else:
        position_ids = "position_ids" if form.has_cache else None
        attention = PlainAttention(graph, shape, linear, with_past, position_ids)
        norms = _PlainNorms(graph, shape, weights)
    fused = form.attention == "gqa"

    hidden, present = linear.embedding("input_ids"), []
    normed = norms.first(hidden, "blk.0.attn_norm.weight")
    for layer in range(shape.layers):
        block, scope = f"blk.{layer}", f"layers.{layer}"
        attended, cache = attention.attend(layer, normed)
        present += cache
        attended = linear.linear(attended, [f"{block}.attn_output.weight"], f"{scope}/attention_output")
        hidden, normed = norms.add(hidden, attended, f"{block}.ffn_norm.weight", f"{scope}/attended")
        fed_forward = _feed_forward(graph, shape, linear, normed, (layer, fused))
        next_norm = f"blk.{layer + 1}.attn_norm.weight" if layer + 1 < shape.layers else "output_norm.weight"
        hidden, normed = norms.add(hidden, fed_forward, next_norm, f"{scope}/fed_forward")
    logits = linear.logits(normed, form.logits_index)
    _declare_outputs(graph, shape, form, [logits, *(present if form.has_cache else [])])


def _feed_forward(
    graph: GraphBuilder, shape: Shape, linear: LinearLayers, normed: str, place: tuple[int, bool]
) -> str:
    """down(silu(gate(x)) × up(x))."""
    layer, fused = place
    block, scope = f"blk.{layer}", f"layers.{layer}/feed_forward"
    names = [f"{block}.ffn_gate.weight", f"{block}.ffn_up.weight"]
    if fused:
        # One product instead of two, and SiLU in one operator: at one row 6.5 to 6.9 ms a token instead of
        # 7.2 to 7.4.
        both = linear.linear(normed, names, f"{scope}/gate_and_up")
        halves = graph.integers(shape.intermediate_size, shape.intermediate_size)
        gate, up = graph.node_with_outputs("Split", [both, halves], [f"{scope}/gate", f"{scope}/up"], axis=-1)
        activated = graph.node("QuickGelu", [gate], f"{scope}/activated", MICROSOFT, alpha=1.0)
    else:
        gate, up = (
            linear.linear(normed, [name], f"{scope}/{part}") for name, part in zip(names, ("gate", "up"))
        )
        sigmoid = graph.node("Sigmoid", [gate], f"{scope}/sigmoid")
        activated = graph.node("Mul", [gate, sigmoid], f"{scope}/activated")
    product = graph.node("Mul", [activated, up], f"{scope}/product")
    return linear.linear(product, [f"{block}.ffn_down.weight"], f"{scope}/down")


class _FusedNorms:
    """RMS norm, and residual addition with RMS norm, as single operators of ONNX Runtime."""

    def __init__(self, graph: GraphBuilder, shape: Shape, weights: Weights) -> None:
        self._graph, self._epsilon, self._weights = graph, shape.norm_epsilon, weights.tensors

    def first(self, hidden: str, weight: str) -> str:
        scale = self._graph.weight(weight, self._weights[weight])
        return self._graph.node(
            "SimplifiedLayerNormalization",
            [hidden, scale],
            "first_norm",
            axis=-1,
            epsilon=self._epsilon,
            stash_type=1,
        )

    def add(self, hidden: str, change: str, weight: str, scope: str) -> tuple[str, str]:
        scale = self._graph.weight(weight, self._weights[weight])
        normed, _, _, total = self._graph.node_with_outputs(
            "SkipSimplifiedLayerNormalization",
            [change, hidden, scale],
            [f"{scope}/normed", "", "", f"{scope}/sum"],
            MICROSOFT,
            epsilon=self._epsilon,
        )
        return total, normed


class _PlainNorms:
    """The same of standard operators."""

    def __init__(self, graph: GraphBuilder, shape: Shape, weights: Weights) -> None:
        self._graph, self._epsilon, self._weights = graph, shape.norm_epsilon, weights.tensors

    def first(self, hidden: str, weight: str) -> str:
        return self._norm(hidden, weight, "first_norm")

    def add(self, hidden: str, change: str, weight: str, scope: str) -> tuple[str, str]:
        total = self._graph.node("Add", [hidden, change], f"{scope}/sum")
        return total, self._norm(total, weight, f"{scope}/normed")

    def _norm(self, hidden: str, weight: str, scope: str) -> str:
        graph = self._graph
        squares = graph.node("Mul", [hidden, hidden], f"{scope}/squares")
        mean = graph.node("ReduceMean", [squares], f"{scope}/mean", axes=[-1], keepdims=1)
        root = graph.node(
            "Sqrt",
            [graph.node("Add", [mean, graph.number(self._epsilon)], f"{scope}/mean_and_epsilon")],
            f"{scope}/root",
        )
        divided = graph.node("Div", [hidden, root], f"{scope}/divided")
        return graph.node("Mul", [divided, graph.weight(weight, self._weights[weight])], scope)


def _declare_inputs(graph: GraphBuilder, shape: Shape, form: Form) -> None:
    int64 = TensorProto.INT64
    graph.input("input_ids", int64, ["batch_size", "sequence_length"])
    graph.input("attention_mask", int64, ["batch_size", _total_length(form)])
    if form.attention in ("mha", "merged"):
        graph.input("position_ids", int64, ["batch_size", "sequence_length"])
    if form.has_cache:
        for name in (name for layer in range(shape.layers) for name in past_names(layer)):
            graph.input(
                name,
                TensorProto.FLOAT,
                ["batch_size", shape.key_value_heads, "past_sequence_length", shape.head_size],
            )
    if form.logits_index:
        graph.input(form.logits_index, int64, ["wanted_positions"])
    if form.attention == "merged":
        graph.input("use_cache_branch", TensorProto.BOOL, [1])


def _output_names(shape: Shape, form: Form) -> list[str]:
    present = [name for layer in range(shape.layers) for name in present_names(layer)]
    return ["logits", *(present if form.has_cache else [])]


def _declare_outputs(graph: GraphBuilder, shape: Shape, form: Form, names: list[str]) -> None:
    logits, *present = names
    positions = "wanted_positions" if form.logits_index else "sequence_length"
    graph.output(logits, TensorProto.FLOAT, ["batch_size", positions, shape.vocabulary_size])
    for name in present:
        graph.output(
            name,
            TensorProto.FLOAT,
            ["batch_size", shape.key_value_heads, _total_length(form), shape.head_size],
        )


def _total_length(form: Form) -> str:
    """The symbol that each exporter gives to the number of cached and fed tokens together."""
    return {"gqa": "total_sequence_length", "none": "sequence_length"}.get(
        form.attention, "past_sequence_length + sequence_length"
    )
