"""What rounding costs: each precision of the weights against the exact model, over texts of this project.

Perplexity says how well a model predicts the texts. The other two compare with the exact model, position by
position: how often the most likely token is the same, and the Kullback–Leibler divergence of the distributions
(nats a token), the finer measure.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from engines import Bench
from paired import Table
from tokenizers import Tokenizer

SCRIPTS = Path(__file__).resolve().parents[1]
TEXTS = ("LICENSE", "README.md", "src/engine/scheduler.rs", "scripts/convert/decoder.py")
TOKENS = 700


def measure(bench: Bench, _pairs: int) -> list[Table]:
    """The precisions of the converter, and the weights of the peer's fastest file."""
    original, smallest = bench.peers.gguf("Q4_1"), bench.peers.gguf("Q4_0")
    table = Table(
        "Fidelity of the weights",
        f"The first {TOKENS} tokens of {', '.join(TEXTS)}. The exact model is fp32 of the original file (Q4_1). Of "
        "llama.cpp's Q4_0 only the weights are judged, in fp32: its activations are rounded too.",
        ["weights", "perplexity", "same most likely token", "divergence"],
    )
    exact: list[np.ndarray] = []
    for name, gguf, precision in (
        ("fp32", original, "fp32"),
        ("w8a8 (default)", original, "w8a8"),
        ("int8", original, "int8"),
        ("int4", original, "int4"),
        ("Q4_0 of llama.cpp", smallest, "fp32"),
    ):
        with tempfile.TemporaryDirectory() as folder:
            _convert(gguf, Path(folder), precision)
            found, perplexity = _log_probabilities(Path(folder))
        exact = exact or found
        same = np.mean([np.mean(a.argmax(-1) == b.argmax(-1)) for a, b in zip(exact, found, strict=True)])
        divergence = np.mean(
            [np.mean((np.exp(a) * (a - b)).sum(-1)) for a, b in zip(exact, found, strict=True)]
        )
        table.add(name, f"{perplexity:.2f}", f"{same:.1%}", f"{divergence:.4f}")
    return [table]


def _convert(gguf: Path, folder: Path, precision: str) -> None:
    command = [sys.executable, "-m", "convert", gguf, folder, "--weights", precision]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(SCRIPTS)})


def _log_probabilities(folder: Path) -> tuple[list[np.ndarray], float]:
    """Of each text `[tokens, vocabulary]`; and the perplexity over all."""
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    all_rows, of_texts = [], []
    for text in TEXTS:
        content = (SCRIPTS.parent / text).read_text()
        tokens = tokenizer.encode(content, add_special_tokens=False).ids[:TOKENS]
        feed = {
            "input_ids": np.array([tokens]),
            "attention_mask": np.ones((1, len(tokens)), np.int64),
            "logits_index": np.arange(len(tokens)),
        }
        for wanted in session.get_inputs():
            if wanted.name.startswith("past_key_values."):
                feed[wanted.name] = np.zeros((1, wanted.shape[1], 0, wanted.shape[3]), np.float32)
        logits = session.run(["logits"], feed)[0][0].astype(np.float64)
        rows = logits - logits.max(-1, keepdims=True)
        rows -= np.log(np.exp(rows).sum(-1, keepdims=True))
        of_texts.append(rows[np.arange(len(tokens) - 1), tokens[1:]])
        all_rows.append(rows.astype(np.float32))
    return all_rows, float(np.exp(-np.concatenate(of_texts).mean()))
