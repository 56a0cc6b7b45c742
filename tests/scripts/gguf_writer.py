"""Writes small GGUF files for tests: an independent reading of the format, byte by byte, and slow on purpose."""

import struct
from pathlib import Path

import numpy as np

F32, F16, Q4_0, Q4_1, Q8_0 = 0, 1, 2, 3, 8
ALIGNMENT = 32


def string(text: str) -> bytes:
    """Length, then UTF-8."""
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def typed(value) -> bytes:
    """A metadata value with its type number before it."""
    if isinstance(value, bool):
        return struct.pack("<IB", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + string(value)
    if isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(string(text) for text in value)
    return struct.pack("<IIQ", 9, 5, len(value)) + struct.pack(f"<{len(value)}i", *value)


def encode(values: np.ndarray, encoding: int) -> bytes:
    """The bytes of a tensor; quantised ones a block of 32 at a time, with the simplest rounding."""
    if encoding in (F32, F16):
        return values.astype(np.float32 if encoding == F32 else np.float16).tobytes()
    stored = b""
    for block in values.astype(np.float32).reshape(-1, 32):
        if encoding == Q8_0:
            scale = np.float16(np.abs(block).max() / 127)
            codes = [round(float(value / scale)) for value in block]
            stored += scale.tobytes() + struct.pack("<32b", *codes)
            continue
        lowest = np.float16(block.min()) if encoding == Q4_1 else None
        scale = np.float16((block.max() - block.min()) / 15 if encoding == Q4_1 else np.abs(block).max() / 7)
        offset = -float(lowest) / float(scale) if encoding == Q4_1 else 8
        codes = [min(15, max(0, round(float(value / scale) + offset))) for value in block]
        stored += scale.tobytes() + (lowest.tobytes() if encoding == Q4_1 else b"")
        stored += bytes(codes[i] | codes[i + 16] << 4 for i in range(16))
    return stored


def write_gguf(path: Path, metadata: dict, tensors: dict[str, tuple[np.ndarray, int]]) -> Path:
    """Write `tensors` by name, each (values, encoding)."""
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, value in metadata.items():
        header += string(key) + typed(value)
    data = b""
    for name, (values, encoding) in tensors.items():
        header += string(name) + struct.pack("<I", values.ndim)
        header += b"".join(struct.pack("<Q", size) for size in reversed(values.shape))
        header += struct.pack("<IQ", encoding, len(data))
        data += encode(values, encoding)
        data += b"\0" * (-len(data) % ALIGNMENT)
    header += b"\0" * (-len(header) % ALIGNMENT)
    path.write_bytes(header + data)
    return path


def interleave_rows(weight: np.ndarray, heads: int) -> np.ndarray:
    """q or k as llama.cpp stores it: rows i and i + half of a head become neighbours."""
    size = len(weight) // heads
    rows = [
        head * size + half * size // 2 + pair
        for head in range(heads)
        for pair in range(size // 2)
        for half in (0, 1)
    ]
    return weight[rows]


LAYERS, HIDDEN, HEADS, KEY_VALUE_HEADS, FEED_FORWARD, CONTEXT = 2, 64, 4, 2, 96, 64
CHARACTERS = [chr(code) for code in range(ord("!"), ord("~") + 1)] + ["Ġ", "Ċ"]
TOKENS = [*CHARACTERS, "ab", "12", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<note>"]
BOS, EOS, END_OF_DOCUMENT = (TOKENS.index(f"<|{name}|>") for name in ("im_start", "im_end", "endoftext"))


def llama_metadata() -> dict:
    """The metadata of a tiny llama with a tokenizer of single characters and two merges."""
    types = [1] * len(TOKENS)
    types[BOS] = types[EOS] = types[END_OF_DOCUMENT] = 3
    types[TOKENS.index("<note>")] = 4
    return {
        "general.architecture": "llama",
        "llama.block_count": LAYERS,
        "llama.context_length": CONTEXT,
        "llama.embedding_length": HIDDEN,
        "llama.feed_forward_length": FEED_FORWARD,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KEY_VALUE_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10_000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": ["a b", "1 2"],
        "tokenizer.ggml.bos_token_id": BOS,
        "tokenizer.ggml.eos_token_id": EOS,
        "tokenizer.chat_template": "{{ messages }}",
    }


def llama_weights(seed: int = 3, tied: bool = False) -> dict[str, np.ndarray]:
    """Random weights in Hugging Face's row order."""
    random = np.random.default_rng(seed)

    def normal(outputs: int, inputs: int, deviation: float = 1.2) -> np.ndarray:
        return (random.standard_normal((outputs, inputs)) * deviation / inputs**0.5).astype(np.float32)

    head = HIDDEN // HEADS
    weights = {
        "token_embd.weight": normal(len(TOKENS), HIDDEN, 8.0),
        "output_norm.weight": 1 + 0.1 * random.standard_normal(HIDDEN).astype(np.float32),
    }
    if not tied:
        weights["output.weight"] = normal(len(TOKENS), HIDDEN, 4.0)
    for layer in range(LAYERS):
        block = {
            "attn_norm": 1 + 0.1 * random.standard_normal(HIDDEN).astype(np.float32),
            "ffn_norm": 1 + 0.1 * random.standard_normal(HIDDEN).astype(np.float32),
            "attn_q": normal(HIDDEN, HIDDEN),
            "attn_k": normal(KEY_VALUE_HEADS * head, HIDDEN),
            "attn_v": normal(KEY_VALUE_HEADS * head, HIDDEN),
            "attn_output": normal(HIDDEN, HIDDEN),
            "ffn_gate": normal(FEED_FORWARD, HIDDEN),
            "ffn_up": normal(FEED_FORWARD, HIDDEN),
            "ffn_down": normal(HIDDEN, FEED_FORWARD),
        }
        weights |= {f"blk.{layer}.{name}.weight": values for name, values in block.items()}
    return weights


def write_llama(path: Path, encoding: int = F32, tied: bool = False) -> Path:
    """A tiny llama as llama.cpp would write it: matrices in `encoding`, norms in F32, q and k rows
    interleaved.
    """
    tensors = {}
    for name, values in llama_weights(tied=tied).items():
        if name.endswith("attn_q.weight"):
            values = interleave_rows(values, HEADS)
        if name.endswith("attn_k.weight"):
            values = interleave_rows(values, KEY_VALUE_HEADS)
        tensors[name] = values, F32 if values.ndim == 1 else encoding
    return write_gguf(path, llama_metadata(), tensors)
