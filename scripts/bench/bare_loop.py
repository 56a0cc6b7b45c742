#!/usr/bin/env python3
"""The bare peer of the benchmarks: ONNX Runtime in a loop, as fast as Python can drive it, with no server
around.

    bare_loop.py MODEL_FOLDER [--threads N] [--capacity TOKENS]

Loads the model once and prints the JSON line {"ready": true, "load_seconds": …}. Then, for each JSON line on
stdin
    {"prompt_token_ids": [504, 3575], "tokens": 128}
runs the prompt (prefill) and decodes greedily, and prints one JSON line
    {"prefill_seconds": …, "decode_seconds": …, "tokens": 128, "token_ids": […]}
Prefill ends when the first token is known; decode makes the others, so tokens a second = (tokens − 1) /
decode_seconds.

With GroupQueryAttention graphs past and present of a layer are one buffer, bound once and written in place,
and a token allocates nothing. Graphs with a copied cache (optimum's) hand their outputs on as the next
inputs.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime import OrtValue


class Buffer:
    """A numpy array and the OrtValue over the same memory: writing the one changes the other.

    OrtValue only borrows the array, so the two must live together.
    """

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.value = OrtValue.ortvalue_from_numpy(array)


class BoundRun:
    """A binding with the buffers behind it, which it must not outlive."""

    def __init__(
        self, session: onnxruntime.InferenceSession, inputs: dict[str, Buffer], outputs: dict[str, Buffer]
    ) -> None:
        self.binding = session.io_binding()
        self._buffers = inputs, outputs
        for name, buffer in inputs.items():
            self.binding.bind_ortvalue_input(name, buffer.value)
        for name, buffer in outputs.items():
            self.binding.bind_ortvalue_output(name, buffer.value)


class SharedCacheLoop:
    """For GroupQueryAttention graphs: everything is bound once, and for a token two small numbers change."""

    def __init__(self, session: onnxruntime.InferenceSession, capacity_tokens: int) -> None:
        self._session = session
        self._names = {wanted.name for wanted in session.get_inputs()}
        self._vocabulary = session.get_outputs()[0].shape[2]
        # Untouched pages cost nothing, so the capacity may be the whole context.
        self._past = {
            wanted.name: Buffer(np.zeros((1, wanted.shape[1], capacity_tokens, wanted.shape[3]), np.float32))
            for wanted in session.get_inputs()
            if wanted.name.startswith("past_key_values.")
        }
        self._present = {
            name.replace("past_key_values.", "present."): past for name, past in self._past.items()
        }
        # The mask is as wide as the buffers and gets one more 1 for each token: its sum is the row's length.
        self._mask = Buffer(np.zeros((1, capacity_tokens), np.int64))
        self._token = Buffer(np.zeros((1, 1), np.int64))
        self._logits = Buffer(np.zeros((1, 1, self._vocabulary), np.float32))
        self._one_token = self._bind(self._token, self._mask, self._logits)

    def prefill(self, prompt: list[int]) -> int:
        """Feed the prompt from position 0; its first continuation."""
        self._mask.array[:] = 0
        self._mask.array[0, : len(prompt)] = 1
        positions = 1 if "logits_index" in self._names else len(prompt)
        logits = Buffer(np.empty((1, positions, self._vocabulary), np.float32))
        # Here the mask is just as wide as the prompt: so the operator knows that there is no past.
        whole_prompt = self._bind(
            Buffer(np.array([prompt], np.int64)), Buffer(np.ones((1, len(prompt)), np.int64)), logits
        )
        self._session.run_with_iobinding(whole_prompt.binding)
        return int(logits.array[0, -1].argmax())

    def decode(self, token: int, position: int, count: int) -> list[int]:
        """`count` greedy tokens after `token`, which stands at `position`."""
        run, binding, logits = (
            self._session.run_with_iobinding,
            self._one_token.binding,
            self._logits.array[0, 0],
        )
        fed, mask, tokens = self._token.array, self._mask.array[0], []
        for place in range(position, position + count):
            fed[0, 0] = token
            mask[place] = 1
            run(binding)
            token = int(logits.argmax())
            tokens.append(token)
        return tokens

    def _bind(self, input_ids: Buffer, mask: Buffer, logits: Buffer) -> BoundRun:
        inputs = {"input_ids": input_ids, "attention_mask": mask, **self._past}
        if "logits_index" in self._names:
            inputs["logits_index"] = Buffer(np.array([input_ids.array.shape[1] - 1], np.int64))
        return BoundRun(self._session, inputs, {"logits": logits, **self._present})


class CopiedCacheLoop:
    """For optimum's graphs: each run makes longer caches, which are handed on without a copy through Python."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._inputs = {wanted.name: wanted for wanted in session.get_inputs()}
        self._outputs = [output.name for output in session.get_outputs()]
        self._past: dict[str, OrtValue] = {}

    def prefill(self, prompt: list[int]) -> int:
        """Feed the prompt from position 0; its first continuation."""
        self._past = {
            name: OrtValue.ortvalue_from_shape_and_type([1, wanted.shape[1], 0, wanted.shape[3]], np.float32)
            for name, wanted in self._inputs.items()
            if name.startswith("past_key_values.")
        }
        return self._run(prompt, 0)

    def decode(self, token: int, position: int, count: int) -> list[int]:
        """`count` greedy tokens after `token`, which stands at `position`."""
        tokens = []
        for place in range(position, position + count):
            token = self._run([token], place)
            tokens.append(token)
        return tokens

    def _run(self, tokens: list[int], position: int) -> int:
        end = position + len(tokens)
        feed = {
            "input_ids": np.array([tokens], np.int64),
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(position, end, dtype=np.int64)[None],
            "logits_index": np.array([len(tokens) - 1], np.int64),
            "use_cache_branch": np.array([position > 0]),
        }
        binding = self._session.io_binding()
        buffers = {name: Buffer(values) for name, values in feed.items() if name in self._inputs}
        for name, buffer in buffers.items():
            binding.bind_ortvalue_input(name, buffer.value)
        for name, value in self._past.items():
            binding.bind_ortvalue_input(name, value)
        for name in self._outputs:
            binding.bind_output(name)
        self._session.run_with_iobinding(binding)
        made = dict(zip(self._outputs, binding.get_outputs()))
        logits = made.pop("logits")
        self._past = {name.replace("present.", "past_key_values."): value for name, value in made.items()}
        return int(logits.numpy()[0, -1].argmax())


Loop = SharedCacheLoop | CopiedCacheLoop


def open_loop(folder: Path, threads: int, capacity_tokens: int) -> Loop:
    """The loop that fits the folder's graph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        str(next(folder.glob("*.onnx"))), options, providers=["CPUExecutionProvider"]
    )
    names = {wanted.name for wanted in session.get_inputs()}
    if not any(name.startswith("past_key_values.") for name in names):
        sys.exit("bare_loop.py: this graph has no cache: use greedy_reference.py")
    return CopiedCacheLoop(session) if "position_ids" in names else SharedCacheLoop(session, capacity_tokens)


def measure(loop: Loop, prompt: list[int], count: int) -> dict:
    """Prefill and decode one request."""
    started = time.perf_counter()
    first = loop.prefill(prompt)
    prefilled = time.perf_counter()
    tokens = [first, *loop.decode(first, len(prompt), count - 1)]
    ended = time.perf_counter()
    return {
        "prefill_seconds": round(prefilled - started, 6),
        "decode_seconds": round(ended - prefilled, 6),
        "tokens": len(tokens),
        "token_ids": tokens,
    }


def main() -> None:
    """Load, then answer line by line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="MODEL_FOLDER")
    parser.add_argument("--threads", type=int, default=0, help="default: 0, as many as ONNX Runtime chooses")
    parser.add_argument(
        "--capacity", type=int, help="cached tokens, prompt included (default: the model's context)"
    )
    arguments = parser.parse_args()
    settings = json.loads((arguments.folder / "config.json").read_text())
    context_tokens = settings.get("max_position_embeddings") or settings["n_positions"]
    capacity_tokens = arguments.capacity or context_tokens

    started = time.perf_counter()
    loop = open_loop(arguments.folder, arguments.threads, capacity_tokens)
    load_seconds = time.perf_counter() - started
    measure(loop, [0] * min(16, capacity_tokens // 2), 4)  # the first runs allocate: nobody measures them
    print(json.dumps({"ready": True, "load_seconds": round(load_seconds, 6)}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        prompt, count = request["prompt_token_ids"], request["tokens"]
        if not prompt or count < 1 or len(prompt) + count > capacity_tokens:
            print(
                json.dumps({"error": f"prompt and tokens must be positive and fit {capacity_tokens} tokens"}),
                flush=True,
            )
            continue
        print(json.dumps(measure(loop, prompt, count)), flush=True)


if __name__ == "__main__":
    main()
