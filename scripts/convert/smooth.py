"""Moves range from activations to weights, so that both fit 8 bits: SmoothQuant (Xiao et al., 2022,
arXiv:2211.10438).

A few channels of a decoder's activations are a hundred times larger than the others and leave them no codes.
Dividing a channel by s where it is made, and multiplying the weights that read it by s, changes no result. Each s
is folded into weights that exist already (a norm's scale, the rows of the layer before), so the graph stays as it
is.
"""

import numpy as np

from convert.calibrate import Activations
from convert.llama import Shape, Weights
from convert.quantize import to_float

SHARE = 0.5
"""Of the range that moves: at 0.3 and 0.7 the distance to the unrounded model was half as large again."""
SMALLEST = 1e-5
"""For channels that are never used."""


def smooth(shape: Shape, weights: Weights, activations: Activations) -> Weights:
    """The same decoder with smaller outliers; embedding and output layer are separate tensors afterwards."""
    tensors = dict(weights.tensors)
    output = "output.weight"
    tensors[output] = to_float(tensors[weights.output_name])
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        readers = [f"{block}.attn_{part}.weight" for part in "qkv"]
        factors = _multiply_columns(tensors, readers, activations.attention_inputs[layer])
        tensors[f"{block}.attn_norm.weight"] = tensors[f"{block}.attn_norm.weight"] / factors

        readers = [f"{block}.ffn_gate.weight", f"{block}.ffn_up.weight"]
        factors = _multiply_columns(tensors, readers, activations.feed_forward_inputs[layer])
        tensors[f"{block}.ffn_norm.weight"] = tensors[f"{block}.ffn_norm.weight"] / factors

        # The product is linear in `up`.
        factors = _multiply_columns(
            tensors, [f"{block}.ffn_down.weight"], activations.feed_forward_products[layer]
        )
        _divide_rows(tensors, f"{block}.ffn_up.weight", factors)

        # Attention mixes values over tokens, never over channels.
        factors = _multiply_columns(
            tensors,
            [f"{block}.attn_output.weight"],
            activations.attention_outputs[layer],
            groups=(shape.key_value_heads, shape.heads // shape.key_value_heads, shape.head_size),
        )
        _divide_rows(tensors, f"{block}.attn_v.weight", factors)
    factors = _multiply_columns(tensors, [output], activations.output_input)
    tensors["output_norm.weight"] = tensors["output_norm.weight"] / factors
    return Weights(tensors)


def _multiply_columns(
    tensors: dict,
    readers: list[str],
    largest: np.ndarray,
    groups: tuple[int, int, int] | None = None,
) -> np.ndarray:
    """Multiply the columns of `readers` by the factors of their channels, and return these.

    With `groups` (kv_heads, times, head_size) channels that come from one value head share a factor; the result
    is then [kv_heads × head_size].
    """
    weights = np.max([np.abs(to_float(tensors[name])).max(0) for name in readers], axis=0)
    if groups is not None:
        largest, weights = (part.reshape(groups).max(1).reshape(-1) for part in (largest, weights))
    factors = np.maximum(largest, SMALLEST) ** SHARE / np.maximum(weights, SMALLEST) ** (1 - SHARE)
    # A mean of 1 keeps the magnitudes of both sides as they were.
    factors = (factors / np.exp(np.log(factors).mean())).astype(np.float32)
    columns = factors
    if groups is not None:
        kv_heads, times, head_size = groups
        columns = np.repeat(factors.reshape(kv_heads, 1, head_size), times, axis=1).reshape(-1)
    for name in readers:
        tensors[name] = to_float(tensors[name]) * columns
    return factors


def _divide_rows(tensors: dict, name: str, factors: np.ndarray) -> None:
    tensors[name] = to_float(tensors[name]) / factors[:, None]
