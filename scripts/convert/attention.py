"""Self-attention in its two forms: ONNX Runtime's one operator, or plain ONNX operators.

    GroupQueryAttention   rotary, mask, cache and softmax in one operator; the cache may be written in place.
                          Lengths come from the mask's sum, so rows must be padded on the right.
    PlainAttention        what optimum exports: position_ids, a mask that may have holes, a cache that is
                          copied into a longer one in each step; or no cache at all.

Both take the normalised hidden state [batch, tokens, hidden] and give [batch, tokens, heads × head_size]; the
first also works on [batch × tokens, …] where the linear layers are flat.
"""

import numpy as np
from onnx import TensorProto

from convert.graph import MICROSOFT, GraphBuilder
from convert.linear import LinearLayers
from convert.llama import Shape

MASKED_SCORE = -1e9
"""Added to scores that must not count. Finite: a row without any visible key must not become NaN."""


class GroupQueryAttention:
    """One com.microsoft GroupQueryAttention a layer, with the input names of onnxruntime-genai."""

    def __init__(self, graph: GraphBuilder, shape: Shape, linear: LinearLayers) -> None:
        self._graph, self._shape, self._linear = graph, shape, linear
        angles = rotary_angles(shape)
        self._cosines = graph.weight("rotary_cosines", np.cos(angles).astype(np.float32))
        self._sines = graph.weight("rotary_sines", np.sin(angles).astype(np.float32))
        visible = graph.node("ReduceSum", ["attention_mask", graph.integers(1)], "visible_tokens", keepdims=0)
        last = graph.node("Sub", [visible, graph.integer(1)], "last_position")
        self._last_positions = graph.node("Cast", [last], "last_positions", to=TensorProto.INT32)
        mask_shape = graph.node("Shape", ["attention_mask"], "mask_shape")
        mask_length = graph.node("Gather", [mask_shape, graph.integer(1)], "mask_length", axis=0)
        self._total_length = graph.node("Cast", [mask_length], "total_length", to=TensorProto.INT32)
        if linear.flat:
            fed = graph.node("Shape", ["input_ids"], "fed_shape")
            self._apart = graph.node("Concat", [fed, graph.integers(-1)], "qkv_shape", axis=0)

    def attend(self, layer: int, normed: str) -> tuple[str, list[str]]:
        """Attention of one layer, and the names of its new key and value."""
        block, scope = f"blk.{layer}", f"layers.{layer}/attention"
        projected = self._linear.linear(
            normed, [f"{block}.attn_{part}.weight" for part in "qkv"], f"{scope}/qkv"
        )
        if self._linear.flat:
            projected = self._graph.node("Reshape", [projected, self._apart], f"{scope}/qkv_of_rows")
        output, *present = self._graph.node_with_outputs(
            "GroupQueryAttention",
            [
                projected,
                "",
                "",
                *past_names(layer),
                self._last_positions,
                self._total_length,
                self._cosines,
                self._sines,
            ],
            [scope, *present_names(layer)],
            MICROSOFT,
            num_heads=self._shape.heads,
            kv_num_heads=self._shape.key_value_heads,
            do_rotary=1,
            rotary_interleaved=0,
            scale=self._shape.head_size**-0.5,
            local_window_size=-1,
            softcap=0.0,
        )
        if self._linear.flat:
            width = self._shape.heads * self._shape.head_size
            output = self._graph.node("Reshape", [output, self._graph.integers(-1, width)], f"{scope}/flat")
        return output, present


class PlainAttention:
    """Attention of standard operators, with a cache (`with_past`) or over the fed tokens alone."""

    def __init__(
        self,
        graph: GraphBuilder,
        shape: Shape,
        linear: LinearLayers,
        with_past: bool,
        position_ids: str | None,
    ) -> None:
        """`position_ids`: name of that input; None counts from 0."""
        self._graph, self._shape, self._linear, self._with_past = graph, shape, linear, with_past
        past_length, fed_length = lengths(graph, with_past)
        self._bias = causal_bias(graph, past_length, fed_length)
        if position_ids is None:
            counted = graph.node(
                "Range", [graph.integer(0), fed_length, graph.integer(1)], "counted_positions"
            )
            position_ids = graph.node("Unsqueeze", [counted, graph.integers(0)], "positions")
        angles = np.concatenate([rotary_angles(shape)] * 2, axis=1)
        self._cosines, self._sines = (
            self._rotary_rows(name, table.astype(np.float32), position_ids)
            for name, table in (("cosines", np.cos(angles)), ("sines", np.sin(angles)))
        )

    def attend(self, layer: int, normed: str) -> tuple[str, list[str]]:
        """Attention of one layer, and the names of its new key and value."""
        scope, shape = f"layers.{layer}/attention", self._shape
        query = self._rotate(self._heads(layer, normed, "q", shape.heads), f"{scope}/q")
        key = self._rotate(self._heads(layer, normed, "k", shape.key_value_heads), f"{scope}/k")
        value = self._heads(layer, normed, "v", shape.key_value_heads)
        key_name, value_name = present_names(layer)
        past = past_names(layer) if self._with_past else [None, None]
        key, value = (
            extend_cache(self._graph, old, new, name)
            for old, new, name in zip(past, (key, value), (key_name, value_name))
        )
        output = scaled_dot_product(
            self._graph,
            query,
            self._repeat(key, f"{scope}/k"),
            self._repeat(value, f"{scope}/v"),
            self._bias,
            scope,
        )
        return output, [key, value]

    def _rotary_rows(self, name: str, table: np.ndarray, position_ids: str) -> str:
        """[batch, 1, tokens, head_size]: the rows of the fed positions."""
        graph = self._graph
        rows = graph.node(
            "Gather", [graph.weight(f"rotary_{name}_full", table), position_ids], f"{name}_of_tokens"
        )
        return graph.node("Unsqueeze", [rows, graph.integers(1)], name)

    def _heads(self, layer: int, normed: str, part: str, heads: int) -> str:
        scope = f"layers.{layer}/attention/{part}"
        projected = self._linear.linear(normed, [f"blk.{layer}.attn_{part}.weight"], f"{scope}/projected")
        return split_heads(self._graph, projected, heads, self._shape.head_size, scope)

    def _rotate(self, heads: str, scope: str) -> str:
        """Rotary positions: x·cos + (−second half, first half)·sin."""
        graph, half = self._graph, self._shape.head_size // 2
        first, second = graph.node_with_outputs(
            "Split",
            [heads, graph.integers(half, half)],
            [f"{scope}/first_half", f"{scope}/second_half"],
            axis=3,
        )
        negated = graph.node("Neg", [second], f"{scope}/negated")
        turned = graph.node("Concat", [negated, first], f"{scope}/turned", axis=3)
        straight = graph.node("Mul", [heads, self._cosines], f"{scope}/straight_part")
        across = graph.node("Mul", [turned, self._sines], f"{scope}/turned_part")
        return graph.node("Add", [straight, across], f"{scope}/rotated")

    def _repeat(self, heads: str, scope: str) -> str:
        """Each key-value head serves several query heads: [b, kv_heads, t, d] → [b, heads, t, d]."""
        graph, times = self._graph, self._shape.heads // self._shape.key_value_heads
        if times == 1:
            return heads
        column = graph.node("Unsqueeze", [heads, graph.integers(2)], f"{scope}/head_column")
        expanded = graph.node("Expand", [column, graph.integers(1, 1, times, 1, 1)], f"{scope}/expanded")
        return graph.node(
            "Reshape",
            [expanded, graph.integers(0, self._shape.heads, -1, self._shape.head_size)],
            f"{scope}/repeated",
        )


def past_names(layer: int) -> list[str]:
    """Inputs that hold a layer's cached key and value."""
    return [f"past_key_values.{layer}.key", f"past_key_values.{layer}.value"]


def present_names(layer: int) -> list[str]:
    """Outputs that hold them with the fed tokens added."""
    return [f"present.{layer}.key", f"present.{layer}.value"]


def rotary_angles(shape: Shape) -> np.ndarray:
    """float64 [context_tokens, head_size / 2]."""
    frequencies = shape.rope_theta ** -(np.arange(0, shape.head_size, 2, dtype=np.float64) / shape.head_size)
    return np.outer(np.arange(shape.context_tokens, dtype=np.float64), frequencies)


def lengths(graph: GraphBuilder, with_past: bool) -> tuple[str, str]:
    """Numbers of cached tokens and of fed tokens, read from the inputs' shapes."""
    fed_shape = graph.node("Shape", ["input_ids"], "fed_shape")
    fed_length = graph.node("Gather", [fed_shape, graph.integer(1)], "fed_length", axis=0)
    if not with_past:
        return graph.integer(0), fed_length
    past_shape = graph.node("Shape", [past_names(0)[0]], "past_shape")
    return graph.node("Gather", [past_shape, graph.integer(2)], "past_length", axis=0), fed_length


def causal_bias(graph: GraphBuilder, past_length: str, fed_length: str) -> str:
    """[batch, 1, fed, past + fed]: 0 where a key is not later than the query and attention_mask is 1, else
    −1e9.
    """
    total_length = graph.node("Add", [past_length, fed_length], "total_length")
    keys = graph.node("Range", [graph.integer(0), total_length, graph.integer(1)], "key_positions")
    queries = graph.node("Range", [past_length, total_length, graph.integer(1)], "query_positions")
    column = graph.node("Unsqueeze", [queries, graph.integers(1)], "query_column")
    causal = graph.node("LessOrEqual", [keys, column], "causal")
    unmasked = graph.node("Cast", ["attention_mask"], "unmasked", to=TensorProto.BOOL)
    unmasked = graph.node("Unsqueeze", [unmasked, graph.integers(1, 2)], "unmasked_keys")
    visible = graph.node("And", [causal, unmasked], "visible")
    return graph.node("Where", [visible, graph.number(0.0), graph.number(MASKED_SCORE)], "bias")


def split_heads(graph: GraphBuilder, projected: str, heads: int, head_size: int, scope: str) -> str:
    """[batch, tokens, heads × head_size] → [batch, heads, tokens, head_size]."""
    split = graph.node("Reshape", [projected, graph.integers(0, 0, heads, head_size)], f"{scope}/split")
    return graph.node("Transpose", [split], f"{scope}/heads", perm=[0, 2, 1, 3])


def extend_cache(graph: GraphBuilder, past: str | None, new: str, name: str) -> str:
    """The cache followed by the new tokens, under the output's name."""
    if past is None:
        return graph.node("Identity", [new], name)
    return graph.node("Concat", [past, new], name, axis=2)


def scaled_dot_product(graph: GraphBuilder, query: str, key: str, value: str, bias: str, scope: str) -> str:
    """softmax(q·kᵀ/√d + bias)·v, heads joined again: [batch, tokens, heads × head_size]."""
    turned = graph.node("Transpose", [key], f"{scope}/key_columns", perm=[0, 1, 3, 2])
    scores = graph.node("MatMul", [query, turned], f"{scope}/raw_scores")
    size = graph.node("Shape", [query], f"{scope}/head_size", start=3, end=4)
    root = graph.node(
        "Sqrt",
        [graph.node("Cast", [size], f"{scope}/head_size_float", to=TensorProto.FLOAT)],
        f"{scope}/scale",
    )
    scaled = graph.node("Div", [scores, root], f"{scope}/scaled_scores")
    shares = graph.node(
        "Softmax", [graph.node("Add", [scaled, bias], f"{scope}/scores")], f"{scope}/shares", axis=-1
    )
    mixed = graph.node(
        "Transpose",
        [graph.node("MatMul", [shares, value], f"{scope}/mixed")],
        f"{scope}/mixed_by_token",
        perm=[0, 2, 1, 3],
    )
    joined_shape = graph.integers(0, 0, -1)
    return graph.node("Reshape", [mixed, joined_shape], scope)
