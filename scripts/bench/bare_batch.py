#!/usr/bin/env python3
"""The bare peer for batches: ONNX Runtime in a loop, all rows in lockstep, as fast as Python can drive it.

    bare_batch.py MODEL_FOLDER [--threads N] [--no-spinning]

Only for graphs with GroupQueryAttention. Loads the model once and prints {"ready": true}. Then, for each JSON
line on stdin
    {"prompts": [[504, 3575], …], "tokens": 128}
whose prompts are all of the same length, feeds all prompts in one run, decodes greedily, and prints
    {"prefill_seconds": …, "decode_seconds": …, "wall_seconds": …, "token_ids": [[…], …]}
Prefill ends when the first tokens are known; decode makes the others, so tokens a second while decoding =
rows × (tokens − 1) / decode_seconds.

Past and present of a layer are one buffer, bound once for a size of batch; a step changes one number a row in
two small inputs, and the tokens of all rows are picked by one vectorised argmax, straight into the next
input. The mask is just as wide as the longest text, because the graph sums it at every step.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
from bare_loop import BoundRun, Buffer


class LockstepBatch:
    """Buffers and bindings for one size of batch and one length of text."""

    def __init__(self, session: onnxruntime.InferenceSession, rows: int, capacity_tokens: int) -> None:
        self._session = session
        self._names = {wanted.name for wanted in session.get_inputs()}
        self._vocabulary = session.get_outputs()[0].shape[2]
        self._past = {
            wanted.name: Buffer(np.zeros((rows, wanted.shape[1], capacity_tokens, wanted.shape[3]), np.float32))
            for wanted in session.get_inputs()
            if wanted.name.startswith("past_key_values.")
        }
        self._present = {
            name.replace("past_key_values.", "present."): past for name, past in self._past.items()
        }
        self._mask = Buffer(np.zeros((rows, capacity_tokens), np.int64))
        self._fed = Buffer(np.zeros((rows, 1), np.int64))
        self._logits = Buffer(np.zeros((rows, 1, self._vocabulary), np.float32))
        self._step = self._bind(self._fed, self._mask, self._logits)

    def prefill(self, prompts: np.ndarray) -> np.ndarray:
        """Feed `[rows, length]` tokens from position 0; the first token of each row."""
        rows, length = prompts.shape
        self._mask.array[:] = 0
        self._mask.array[:, :length] = 1
        positions = 1 if "logits_index" in self._names else length
        logits = Buffer(np.empty((rows, positions, self._vocabulary), np.float32))
        # A mask just as wide as the prompts tells the operator that there is no past.
        run = self._bind(Buffer(prompts), Buffer(np.ones((rows, length), np.int64)), logits)
        self._session.run_with_iobinding(run.binding)
        return logits.array[:, -1].argmax(axis=1)

    def decode(self, first: np.ndarray, position: int, count: int) -> np.ndarray:
        """`count` greedy tokens a row after `first`, which stand at `position`: `[count, rows]`."""
        run, binding = self._session.run_with_iobinding, self._step.binding
        fed, mask, logits = self._fed.array[:, 0], self._mask.array, self._logits.array[:, 0]
        tokens = np.empty((count, len(first)), np.int64)
        fed[:] = first
        for step in range(count):
            mask[:, position + step] = 1
            run(binding)
            logits.argmax(axis=1, out=fed)
            tokens[step] = fed
        return tokens

    def _bind(self, input_ids: Buffer, mask: Buffer, logits: Buffer) -> BoundRun:
        rows, length = input_ids.array.shape
        inputs = {"input_ids": input_ids, "attention_mask": mask, **self._past}
        if "logits_index" in self._names:
            inputs["logits_index"] = Buffer(np.array([length - 1], np.int64))
        return BoundRun(self._session, inputs, {"logits": logits, **self._present})


def measure(batch: LockstepBatch, prompts: np.ndarray, count: int) -> dict:
    """Prefill and decode one batch."""
    started = time.perf_counter()
    first = batch.prefill(prompts)
    prefilled = time.perf_counter()
    tokens = np.vstack([first[None], batch.decode(first, prompts.shape[1], count - 1)])
    ended = time.perf_counter()
    return {
        "prefill_seconds": round(prefilled - started, 6),
        "decode_seconds": round(ended - prefilled, 6),
        "wall_seconds": round(ended - started, 6),
        "token_ids": tokens.T.tolist(),
    }


def main() -> None:
    """Load, then answer line by line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="MODEL_FOLDER")
    parser.add_argument("--threads", type=int, default=0, help="default: 0, as many as ONNX Runtime chooses")
    parser.add_argument("--no-spinning", action="store_true", help="let idle threads sleep at once")
    arguments = parser.parse_args()

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    if arguments.no_spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    graph = next(arguments.folder.glob("*.onnx"))
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    names = {wanted.name for wanted in session.get_inputs()}
    if "position_ids" in names or "attention_mask" not in names:
        sys.exit("bare_batch.py: this graph does not write its cache in place: use bare_loop.py")

    batches: dict[tuple[int, int], LockstepBatch] = {}
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        prompts, count = np.array(request["prompts"], np.int64), request["tokens"]
        shape = len(prompts), prompts.shape[1] + count
        if shape not in batches:
            batches.clear()
            batches[shape] = LockstepBatch(session, *shape)
            measure(batches[shape], prompts, count)  # touches all memory once: nobody measures that
        print(json.dumps(measure(batches[shape], prompts, count)), flush=True)


if __name__ == "__main__":
    main()
