#!/usr/bin/env python3
"""Structured output with a real model: whether every answer holds to its schema, and what that costs.

    formats.py [--model FOLDER] [--gateway FILE] [--seeds N] [--pairs N] [--threads N]

Serves the model, asks it for an answer to each schema of `tests/fixtures/schemas`, greedy and with so many seeds, several
at once, and checks every answer that ended by itself. Then measures one and sixteen streams with a schema and without, in
turn. Ends with status 1 if an answer does not hold to its schema or a request fails.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from engines import CHECKOUT
from gateway import Gateway
from paired import alternate, at_least, ratios, spread

SCHEMAS = CHECKOUT / "tests/fixtures/schemas"
STREAMS = 16
ANSWER_TOKENS = 256
MEASURED_TOKENS = 128
LEAST_RATIO = 0.85
ENDLESS = {
    "type": "array",
    "minItems": 100,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 30},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "tags": {"type": "array", "items": {"enum": ["a", "b", "c"]}, "minItems": 1, "maxItems": 3},
            "remark": {"type": "string"},
        },
        "required": ["name", "age", "tags", "remark"],
        "additionalProperties": False,
    },
}
"""No answer to it ends within a measurement."""


@dataclass
class Case:
    """A schema and how it is answered."""

    name: str
    schema: dict
    seed: int | None

    def request(self) -> dict:
        """For the native API."""
        sampling = {"temperature": 0} if self.seed is None else {"temperature": 1, "seed": self.seed}
        return {
            "text": prompt(f"Answer in JSON. {self.schema['description']}"),
            "max_tokens": ANSWER_TOKENS,
            "format": {"type": "json_schema", "schema": self.schema},
            **sampling,
        }


def prompt(wish: str) -> str:
    """As the model was trained to be asked."""
    return f"<|im_start|>user\n{wish}<|im_end|>\n<|im_start|>assistant\n"


def cases(seeds: int) -> Iterator[Case]:
    """Every schema, greedy and with each seed."""
    for path in sorted(SCHEMAS.glob("*.json")):
        schema = json.loads(path.read_text(encoding="utf-8"))
        for seed in [None, *range(seeds)]:
            yield Case(path.stem, schema, seed)


def check_answers(gateway: Gateway, seeds: int) -> bool:
    """Whether every answer that ended by itself holds to its schema; prints those that do not."""
    import jsonschema

    checks = jsonschema.Draft202012Validator.FORMAT_CHECKER
    all_cases = list(cases(seeds))
    with ThreadPoolExecutor(STREAMS) as pool:
        answers = list(pool.map(lambda case: gateway.answer(case.request()), all_cases))
    cut, failed = {}, 0
    for case, answer in zip(all_cases, answers, strict=True):
        kind = "greedy" if case.seed is None else f"seed {case.seed}"
        try:
            if answer["metadata"]["finish_reason"] == "length":
                cut.setdefault(case.name, []).append(kind)
                continue
            value = json.loads(answer["generated_text"])
            jsonschema.Draft202012Validator(case.schema, format_checker=checks).validate(value)
        except (KeyError, ValueError, jsonschema.ValidationError) as error:
            failed += 1
            print(f"{case.name}, {kind}: {error}\n{answer}")
    cut_answers = sum(map(len, cut.values()))
    schemas = len({case.name for case in all_cases})
    print(
        f"{len(all_cases)} answers to {schemas} schemas: {len(all_cases) - cut_answers - failed} ended and hold, "
        f"{failed} do not; {cut_answers} ({cut_answers / len(all_cases):.1%}) were cut off after {ANSWER_TOKENS} tokens"
    )
    for name, kinds in cut.items():
        print(f"  cut off: {name} ({', '.join(kinds)})")
    return failed == 0


def measure(gateway: Gateway, streams: int, pairs: int) -> None:
    """Prints tokens a second with a schema and without, and what a token costs more."""
    numbers = iter(range(10**9))

    def run(extra: dict) -> dict[str, float]:
        requests = [
            {
                "text": prompt(f"Make a list of people. ({next(numbers)})"),
                "max_tokens": MEASURED_TOKENS,
                "temperature": 0,
                "ignore_eos": True,
                **extra,
            }
            for _ in range(streams)
        ]
        begin = time.monotonic()
        with ThreadPoolExecutor(streams) as pool:
            answers = list(pool.map(gateway.answer, requests))
        seconds = time.monotonic() - begin
        tokens = sum(answer["metadata"]["tokens_generated"] for answer in answers)
        assert tokens == streams * MEASURED_TOKENS, "every answer has all its tokens"
        return {"rate": tokens / seconds}

    with_schema = {"format": {"type": "json_schema", "schema": ENDLESS}}
    results = alternate(pairs, lambda: None, {"without": lambda: run({}), "with": lambda: run(with_schema)})
    before, after = results["without"]["rate"], results["with"]["rate"]
    quotients = ratios(after, before)
    microseconds = 1e6 * statistics.median(1 / late - 1 / early for early, late in zip(before, after, strict=True))
    print(
        f"{streams} streams: {spread(before)} tokens/s without, {spread(after)} with a schema, ratio "
        f"{spread(quotients, 3)} {at_least(quotients, LEAST_RATIO)}; {microseconds:.0f} us a token"
    )


def parse_arguments() -> argparse.Namespace:
    """The command line; see the text at the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=CHECKOUT / "prepared/models/smollm2-135m-instruct-w8a8")
    parser.add_argument("--gateway", type=Path, default=CHECKOUT / "target/release/inference-gateway")
    parser.add_argument("--seeds", type=int, default=3, help="sampled answers to each schema (default: 3)")
    parser.add_argument("--pairs", type=int, default=7, help="rounds that count (default: 7)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    return parser.parse_args()


def main() -> int:
    """Returns the exit status."""
    arguments = parse_arguments()
    with Gateway(arguments.gateway, arguments.model, arguments.threads, ["--log-filter=warn"]) as gateway:
        held = check_answers(gateway, arguments.seeds)
        for streams in (1, STREAMS):
            if arguments.pairs:
                measure(gateway, streams, arguments.pairs)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
