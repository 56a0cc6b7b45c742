#!/usr/bin/env python3
"""onnxruntime-genai as a long-lived process that answers line by line, like bare_batch.py.

    genai_loop.py MODEL_FOLDER [--threads N]

For each JSON line `{"prompts": [[504, 3575], …], "tokens": 128}`, whose prompts are all of the same length, it
generates greedily and prints
    {"prefill_seconds": …, "decode_seconds": …, "wall_seconds": …, "token_ids": [[…], …]}
"""

import argparse
import json
import sys
import time

import numpy as np
import onnxruntime_genai


def measure(model: onnxruntime_genai.Model, prompts: np.ndarray, count: int) -> dict:
    """Prefill and decode one batch; making the generator, which reserves its memory, is not counted."""
    rows, length = prompts.shape
    options = onnxruntime_genai.GeneratorParams(model)
    # The minimal length keeps it from ending at an end-of-text token.
    options.set_search_options(
        max_length=length + count, min_length=length + count, batch_size=rows, do_sample=False
    )
    generator = onnxruntime_genai.Generator(model, options)
    started = time.perf_counter()
    generator.append_tokens(prompts)
    generator.generate_next_token()
    prefilled = time.perf_counter()
    for _ in range(count - 1):
        generator.generate_next_token()
    ended = time.perf_counter()
    return {
        "prefill_seconds": round(prefilled - started, 6),
        "decode_seconds": round(ended - prefilled, 6),
        "wall_seconds": round(ended - started, 6),
        "token_ids": [generator.get_sequence(row)[length:].tolist() for row in range(rows)],
    }


def main() -> None:
    """Load, then answer line by line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="MODEL_FOLDER")
    parser.add_argument("--threads", type=int, default=0, help="default: 0, as many as ONNX Runtime chooses")
    arguments = parser.parse_args()

    config = onnxruntime_genai.Config(arguments.folder)
    session = {"intra_op_num_threads": arguments.threads, "inter_op_num_threads": 1}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
    model = onnxruntime_genai.Model(config)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        prompts = np.array(request["prompts"], np.int32)
        print(json.dumps(measure(model, prompts, request["tokens"])), flush=True)


if __name__ == "__main__":
    main()
