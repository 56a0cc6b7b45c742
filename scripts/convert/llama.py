"""What a GGUF file of the llama architecture says: the decoder's shape, its weights and its tokenizer.

Everything after this module works with these types and never looks at GGUF again; the tiny test models are
made of the same types without any file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from convert.gguf import GgufError, GgufFile
from convert.quantize import Blocks, read_weights

_TOKEN_TYPE_CONTROL, _TOKEN_TYPE_USER_DEFINED = 3, 4


@dataclass(frozen=True)
class Shape:
    """The sizes of a llama-shaped decoder; names as in Hugging Face's config.json."""

    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    key_value_heads: int
    head_size: int
    context_tokens: int
    vocabulary_size: int
    norm_epsilon: float
    rope_theta: float


@dataclass(frozen=True)
class Weights:
    """The tensors of a decoder by their GGUF name; each [out, in], float32 or quantised blocks."""

    tensors: Mapping[str, np.ndarray | Blocks]

    @property
    def output_name(self) -> str:
        """The output layer; the embedding itself when the two are tied."""
        return "output.weight" if "output.weight" in self.tensors else "token_embd.weight"

    @property
    def tied(self) -> bool:
        """Whether the embedding is the output layer."""
        return self.output_name == "token_embd.weight"


@dataclass(frozen=True)
class Tokenizer:
    """A byte-level BPE tokenizer."""

    tokens: list[str]
    merges: list[str]
    """Pairs, separated by one space."""
    pre_tokenizer: str
    """GGUF's name of the rules that split text before merging."""
    control_tokens: list[int]
    user_tokens: list[int]
    """Matched as a whole in text, like control tokens, but printed as text."""
    bos: int
    eos: int
    pad: int | None
    unknown: int | None
    chat_template: str | None


def read_llama(file: GgufFile) -> tuple[Shape, Weights, Tokenizer]:
    """Everything the conversion needs out of a file; `GgufError` when it is another kind of model."""
    architecture = _required(file, "general.architecture")
    if architecture != "llama":
        raise GgufError(f"the architecture is '{architecture}': only 'llama' is supported")
    if file.metadata.get("llama.rope.scaling.type", "none") != "none" or "rope_freqs.weight" in file.tensors:
        raise GgufError("scaled rotary positions (llama.rope.scaling, rope_freqs) are not supported")
    shape = _read_shape(file)
    names = [
        "token_embd.weight",
        "output_norm.weight",
        *(["output.weight"] if "output.weight" in file.tensors else []),
        *(
            f"blk.{layer}.{part}.weight"
            for layer in range(shape.layers)
            for part in (
                "attn_norm",
                "attn_q",
                "attn_k",
                "attn_v",
                "attn_output",
                "ffn_norm",
                "ffn_gate",
                "ffn_up",
                "ffn_down",
            )
        ),
    ]
    unused = sorted(set(file.tensors) - set(names))
    if unused:  # a bias, for example: leaving it out would give wrong tokens silently
        raise GgufError(f"tensor {unused[0]} has no place in the llama decoder that this converter builds")
    return shape, Weights({name: _read_tensor(file, shape, name) for name in names}), _read_tokenizer(file)


def _required(file: GgufFile, key: str, kind: type | tuple[type, ...] = object) -> Any:
    value = file.metadata.get(key)
    if value is None or not isinstance(value, kind):
        raise GgufError(f"the metadata has no {key}" if value is None else f"{key} is {value!r:.40}")
    return value


def _positive(file: GgufFile, key: str, default: float | None = None) -> Any:
    """A number above 0; a default of 0 or None says that the key must be there."""
    value = file.metadata.get(key, default) if default else _required(file, key)
    if not isinstance(value, (int, float)) or not 0 < value < 2**31:
        raise GgufError(f"{key} is {value!r:.40}, not a positive number")
    return value


def _read_shape(file: GgufFile) -> Shape:
    heads, hidden_size = (
        _positive(file, "llama.attention.head_count"),
        _positive(file, "llama.embedding_length"),
    )
    shape = Shape(
        layers=_positive(file, "llama.block_count"),
        hidden_size=hidden_size,
        intermediate_size=_positive(file, "llama.feed_forward_length"),
        heads=heads,
        key_value_heads=_positive(file, "llama.attention.head_count_kv", heads),
        head_size=_positive(file, "llama.attention.key_length", hidden_size // heads),
        context_tokens=_positive(file, "llama.context_length"),
        vocabulary_size=len(_required(file, "tokenizer.ggml.tokens", list)),
        # Stored as float32: the shortest decimal of that number is what config.json had.
        norm_epsilon=float(str(np.float32(_positive(file, "llama.attention.layer_norm_rms_epsilon")))),
        rope_theta=float(_positive(file, "llama.rope.freq_base", 10_000.0)),
    )
    if shape.heads % shape.key_value_heads or shape.head_size % 2:
        raise GgufError(
            f"{shape.heads} heads cannot share {shape.key_value_heads} key-value heads of "
            f"{shape.head_size} numbers"
        )
    return shape


def _read_tensor(file: GgufFile, shape: Shape, name: str) -> np.ndarray | Blocks:
    tensor = file.tensors.get(name)
    if tensor is None:
        raise GgufError(f"tensor {name} is missing")
    query, key = shape.heads * shape.head_size, shape.key_value_heads * shape.head_size
    expected = {
        "token_embd": (shape.vocabulary_size, shape.hidden_size),
        "output": (shape.vocabulary_size, shape.hidden_size),
        "attn_q": (query, shape.hidden_size),
        "attn_k": (key, shape.hidden_size),
        "attn_v": (key, shape.hidden_size),
        "attn_output": (shape.hidden_size, query),
        "ffn_gate": (shape.intermediate_size, shape.hidden_size),
        "ffn_up": (shape.intermediate_size, shape.hidden_size),
        "ffn_down": (shape.hidden_size, shape.intermediate_size),
    }.get(name.split(".")[-2], (shape.hidden_size,))
    if tensor.shape != expected:
        raise GgufError(f"tensor {name} has shape {tensor.shape}, but the metadata asks for {expected}")
    with np.errstate(invalid="ignore"):
        weights = read_weights(tensor)
    finite = [weights] if isinstance(weights, np.ndarray) else [weights.scales, weights.minimums]
    if not all(np.isfinite(values).all() for values in finite):
        raise GgufError(f"tensor {name} holds values that are no numbers: the file is damaged")
    if name.endswith("attn_q.weight"):
        return _take_rows(weights, half_split_rows(shape.heads, shape.head_size))
    if name.endswith("attn_k.weight"):
        return _take_rows(weights, half_split_rows(shape.key_value_heads, shape.head_size))
    return weights


def half_split_rows(heads: int, head_size: int) -> np.ndarray:
    """Row order that undoes GGUF's: it stores q and k for rotary pairs (0,1), (2,3), …

    Hugging Face and ONNX Runtime pair row i with row i + head_size/2 of the same head.
    """
    return np.arange(heads * head_size).reshape(heads, head_size // 2, 2).swapaxes(1, 2).reshape(-1)


def _take_rows(weights: np.ndarray | Blocks, rows: np.ndarray) -> np.ndarray | Blocks:
    if isinstance(weights, np.ndarray):
        return weights[rows]
    return replace(
        weights, codes=weights.codes[rows], scales=weights.scales[rows], minimums=weights.minimums[rows]
    )


def _read_tokenizer(file: GgufFile) -> Tokenizer:
    model = _required(file, "tokenizer.ggml.model")
    if model != "gpt2":
        raise GgufError(f"the tokenizer is '{model}': only byte-level BPE ('gpt2') is supported")
    tokens, types = (
        _required(file, "tokenizer.ggml.tokens", list),
        _required(file, "tokenizer.ggml.token_type", list),
    )
    if len(types) != len(tokens) or not all(isinstance(token, str) for token in tokens):
        raise GgufError(f"tokenizer.ggml.token_type has {len(types)} entries for {len(tokens)} tokens")

    def special(name: str) -> int | None:
        token = file.metadata.get(f"tokenizer.ggml.{name}_token_id")
        if token is not None and not (isinstance(token, int) and 0 <= token < len(tokens)):
            raise GgufError(
                f"tokenizer.ggml.{name}_token_id is {token!r:.40}, but there are {len(tokens)} tokens"
            )
        return token

    if special("bos") is None or special("eos") is None:
        raise GgufError("the metadata has no tokenizer.ggml.bos_token_id or no tokenizer.ggml.eos_token_id")
    return Tokenizer(
        tokens=tokens,
        merges=_required(file, "tokenizer.ggml.merges", list),
        pre_tokenizer=file.metadata.get("tokenizer.ggml.pre", "default"),
        control_tokens=[token for token, kind in enumerate(types) if kind == _TOKEN_TYPE_CONTROL],
        user_tokens=[token for token, kind in enumerate(types) if kind == _TOKEN_TYPE_USER_DEFINED],
        bos=special("bos"),
        eos=special("eos"),
        pad=special("padding"),
        unknown=special("unknown"),
        chat_template=file.metadata.get("tokenizer.chat_template"),
    )
