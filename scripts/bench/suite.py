#!/usr/bin/env python3
"""All benchmarks in one go: the gateway and its peers on the same weights, alternating, into BENCHMARKS.md.

    suite.py [--only PART,…] [--skip PART,…] [--pairs N]

Parts: throughput, first-token, gaps, prefix, drafts, workload, spinning, resources, fidelity. A whole run with at least 7
pairs writes BENCHMARKS.md; any other only prints. Nobody else should use the machine meanwhile.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import peers

CHECKOUT = Path(__file__).resolve().parents[2]
MODEL = CHECKOUT / "prepared/models/smollm2-135m-instruct-w8a8"
PARTS = ("throughput", "first-token", "gaps", "prefix", "drafts", "workload", "spinning", "resources", "fidelity")
LEAST_PAIRS = 7
BUSY_LOAD = 0.5


def build() -> dict[str, Path]:
    """The gateway, the engine and the load client, as release builds."""
    cargo = os.environ.get("CARGO", "cargo")
    programs = {}
    gateway = ["build", "--release", "--bin", "inference-gateway"]
    others = ["bench", "--no-run", "--bench", "engine", "--bench", "load_client"]
    for command in (gateway, others):
        done = subprocess.run(
            [cargo, *command, "--locked", "--quiet", "--message-format=json"],
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        for line in done.stdout.splitlines():
            message = json.loads(line)
            if message.get("executable"):
                programs[message["target"]["name"]] = Path(message["executable"])
    programs["gateway"] = programs.pop("inference-gateway")
    return programs


def run_parts(arguments: argparse.Namespace, ready: peers.Peers) -> None:
    """Measure with the packages of the peers' environment."""
    import drafts
    import fidelity
    import latency
    import machine
    import resources
    import spinning
    import throughput
    import workload
    from engines import Bench

    measures = {
        "throughput": throughput.measure,
        "first-token": latency.measure_first_token,
        "gaps": latency.measure_gaps,
        "prefix": latency.measure_prefix,
        "drafts": drafts.measure,
        "workload": workload.measure,
        "spinning": spinning.measure,
        "resources": resources.measure,
        "fidelity": fidelity.measure,
    }
    programs = {name: Path(path) for name, path in (pair.split("=", 1) for pair in arguments.program)} or build()
    load = machine.load_average()
    if load > BUSY_LOAD:
        print(f"suite.py: the machine is busy (load {load:.2f}): take no number seriously", file=sys.stderr)
    tables, started = [], time.monotonic()
    for part in arguments.parts:
        print(f"==> {part}", flush=True)
        with Bench(programs, ready, MODEL, arguments.threads) as bench:
            tables += measures[part](bench, arguments.pairs)
    minutes = (time.monotonic() - started) / 60
    facts = [
        *machine.describe(),
        ("llama.cpp", f"from the sdist of llama-cpp-python {peers.LLAMA_VERSION}, native build, OpenMP"),
        ("Threads of every engine", str(arguments.threads)),
        ("Pairs", f"{arguments.pairs}, after one that is thrown away"),
        ("Load before the run", f"{load:.2f}"),
        ("The run took", f"{minutes:.0f} min"),
    ]
    text = _document(tables, facts)
    if tuple(arguments.parts) == PARTS and arguments.pairs >= LEAST_PAIRS:
        (CHECKOUT / "BENCHMARKS.md").write_text(text)
        print("==> BENCHMARKS.md is written")
    else:
        print("\n" + text)


def _document(tables: list, facts: list[tuple[str, str]]) -> str:
    introduction = (
        "# Benchmarks\n\n"
        "Made by `make bench` (`scripts/bench/suite.py`), which sets up the peers from the package index, on the same\n"
        "weights: SmolLM2-135M-Instruct, 8 bits for ONNX Runtime, the best of 4 and 8 bits for llama.cpp. Engines run "
        "in turn,\nwhile the others are stopped. Ranges are the smallest and the largest of all rounds. Compare "
        "numbers only within\none run.\n\n"
        "```sh\nmake bench                                                       # everything, writes this file\n"
        "make bench-quick                                                 # one stream against the bare loop\n"
        "scripts/bench/suite.py --only throughput --pairs 2               # a part, a quick look\n```\n\n"
    )
    lines = ["| machine | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in facts)]
    return introduction + "\n".join(lines) + "\n\n" + "\n".join(table.markdown() for table in tables)


def parse_arguments() -> argparse.Namespace:
    """The command line; see the text at the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between them")
    parser.add_argument("--skip", default="", help="parts to leave out")
    parser.add_argument("--pairs", type=int, default=9, help="rounds that count (default: 9)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--program",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="use these gateway, engine, load_client instead of building them",
    )
    arguments = parser.parse_args()
    wanted, skipped = arguments.only.split(","), [part for part in arguments.skip.split(",") if part]
    if unknown := [part for part in wanted + skipped if part not in PARTS]:
        parser.error(f"unknown part '{unknown[0]}' (parts: {', '.join(PARTS)})")
    arguments.parts = [part for part in PARTS if part in wanted and part not in skipped]
    return arguments


def main() -> None:
    """Set up, then go on in the peers' Python, which has the packages."""
    arguments = parse_arguments()
    # Ending by `exit` runs the blocks that end the engines: stopped ones would stay for ever.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        ready = peers.prepare_peers(jobs=len(os.sched_getaffinity(0)))
    except peers.PrepareError as error:
        sys.exit(f"suite.py: error: {error}")
    if Path(sys.prefix).resolve() != (ready.folder / "venv").resolve():
        os.execv(ready.python, [str(ready.python), *sys.argv])
    run_parts(arguments, ready)


if __name__ == "__main__":
    main()
