"""How large the activations of a decoder become, channel by channel: what rounding them to 8 bits must know.

A forward pass of the llama decoder in numpy over a short text. Its exact tokens do not matter (which channels
are large hardly depends on the text), so the text is cut by the longest match, not by the tokenizer's rules.
"""

from dataclasses import dataclass

import numpy as np

from convert.attention import rotary_angles
from convert.llama import Shape, Tokenizer, Weights
from convert.quantize import to_float

TEXT = """The harbour woke before the town did. Nets were hauled, engines coughed, and the first gulls followed the
boats past the breakwater. "We leave at six," said the captain, "or we do not leave at all." Prices that
year were: cod 3.75, herring 1.20, mackerel 2.05 (per kilo). Question: What is the capital of France?
Answer: Paris, a city of 2,102,650 people. def mean(values):\n    if not values:\n        raise
ValueError("no values")\n    return sum(values) / len(values) \n{"name": "gateway", "replicas": 3,
"ready": true}\n# Heading\n- first point\n- second point\nEin kurzer Satz auf Deutsch, une phrase en
français, y una frase en español. In 1905 Einstein published four papers; E = mc^2 is the best known of
their results. Dear customer, thank you for your order. Unfortunately the item that you have chosen is
out of stock; we expect it again in two weeks. Step 1: open the lid. Step 2: pour in 250 ml of water.
Step 3: wait until the light turns green."""


@dataclass(frozen=True)
class Activations:
    """Largest absolute value of each channel of what is multiplied by weights; lists have one entry a layer."""

    attention_inputs: list[np.ndarray]
    """[hidden], behind the norm."""
    attention_outputs: list[np.ndarray]
    """[heads × head_size]."""
    feed_forward_inputs: list[np.ndarray]
    """[hidden], behind the norm."""
    feed_forward_products: list[np.ndarray]
    """[intermediate]."""
    output_input: np.ndarray
    """[hidden], behind the last norm."""


def calibration_tokens(tokenizer: Tokenizer) -> list[int]:
    """The text above as tokens, by the longest match."""
    ids = {token: index for index, token in enumerate(tokenizer.tokens)}
    longest = max(map(len, ids))
    # Byte-level vocabularies write a space and a line end as these letters.
    text = TEXT.replace("\n", "Ċ").replace(" ", "Ġ")
    tokens, at = [tokenizer.bos], 0
    while at < len(text):
        length = next((n for n in range(longest, 0, -1) if text[at : at + n] in ids), None)
        if length is not None:
            tokens.append(ids[text[at : at + length]])
        at += length or 1
    return tokens


def observe(shape: Shape, weights: Weights, tokens: list[int]) -> Activations:
    """Run the decoder over `tokens`, as many as its context holds."""
    tokens = tokens[: shape.context_tokens]
    tensors, seen = weights.tensors, Activations([], [], [], [], np.empty(0))
    hidden = to_float(tensors["token_embd.weight"])[tokens]
    angles = rotary_angles(shape)[: len(tokens)]
    rotation = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        normed = _norm(hidden, tensors[f"{block}.attn_norm.weight"], shape)
        seen.attention_inputs.append(_largest(normed))
        q, k, v = (normed @ to_float(tensors[f"{block}.attn_{part}.weight"]).T for part in "qkv")
        attended = _attend(shape, q, k, v, rotation)
        seen.attention_outputs.append(_largest(attended))
        hidden = hidden + attended @ to_float(tensors[f"{block}.attn_output.weight"]).T
        normed = _norm(hidden, tensors[f"{block}.ffn_norm.weight"], shape)
        seen.feed_forward_inputs.append(_largest(normed))
        gate, up = (normed @ to_float(tensors[f"{block}.ffn_{part}.weight"]).T for part in ("gate", "up"))
        product = gate / (1 + np.exp(-np.clip(gate, -80, 80))) * up
        seen.feed_forward_products.append(_largest(product))
        hidden = hidden + product @ to_float(tensors[f"{block}.ffn_down.weight"]).T
    output_input = _largest(_norm(hidden, tensors["output_norm.weight"], shape))
    return Activations(
        seen.attention_inputs,
        seen.attention_outputs,
        seen.feed_forward_inputs,
        seen.feed_forward_products,
        output_input,
    )


def _attend(
    shape: Shape, q: np.ndarray, k: np.ndarray, v: np.ndarray, rotation: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Causal attention of q [tokens, heads × head_size] over k, v [tokens, kv_heads × head_size]."""
    tokens, times = len(q), shape.heads // shape.key_value_heads
    q, k, v = (part.reshape(tokens, -1, shape.head_size).transpose(1, 0, 2) for part in (q, k, v))
    q, k = _rotate(q, rotation), np.repeat(_rotate(k, rotation), times, axis=0)
    scores = q @ k.transpose(0, 2, 1) * shape.head_size**-0.5
    scores[:, np.triu(np.ones((tokens, tokens), bool), 1)] = -np.inf
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = shares / shares.sum(-1, keepdims=True) @ np.repeat(v, times, axis=0)
    return mixed.transpose(1, 0, 2).reshape(tokens, -1)


def _rotate(heads: np.ndarray, rotation: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    (cosines, sines), (first, second) = rotation, np.split(heads, 2, axis=-1)
    return np.concatenate([first * cosines - second * sines, second * cosines + first * sines], axis=-1)


def _norm(hidden: np.ndarray, scale: np.ndarray, shape: Shape) -> np.ndarray:
    mean = (hidden * hidden).mean(-1, keepdims=True)
    return hidden / np.sqrt(mean + np.float32(shape.norm_epsilon)) * scale


def _largest(values: np.ndarray) -> np.ndarray:
    return np.abs(values).max(0)
