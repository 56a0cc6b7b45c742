"""Loads a gateway and tells what it kept: `make load`, or `PYTHONPATH=scripts python3 -m load [PART]...`.

Parts: drain, disconnects, overload. The exit code is 1 if a mark is missed. Logs and answers are in target/load.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

from bench.machine import load_average
from load import disconnects, drain, overload
from load.attack import Vegeta
from load.gateway import ROOT
from load.marks import Marks
from load.run import Run

PARTS = {"drain": drain.measure, "disconnects": disconnects.measure, "overload": overload.measure}
BUSY_LOAD = 0.5


def parse_arguments() -> argparse.Namespace:
    """The command line; see the text at the top of this file."""
    parser = argparse.ArgumentParser(
        prog="load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of: {', '.join(PARTS)} (default: all)")
    parser.add_argument("--program", type=Path, default=ROOT / "target/release/inference-gateway")
    parser.add_argument("--model", type=Path, default=ROOT / "prepared/models/smollm2-135m-instruct-w8a8")
    parser.add_argument("--vegeta", type=Path, default=ROOT / "prepared/tools/vegeta")
    parser.add_argument("--folder", type=Path, default=ROOT / "target/load", help="for logs and results")
    parser.add_argument(
        "--seconds", type=float, default=120.0, help="how long too many requests come (default: 120)"
    )
    arguments = parser.parse_args()
    if unknown := [part for part in arguments.parts if part not in PARTS]:
        parser.error(f"unknown part '{unknown[0]}' (parts: {', '.join(PARTS)})")
    if arguments.seconds < 10:
        parser.error("--seconds is too short for the queue to fill: give it at least 10")
    arguments.parts = arguments.parts or list(PARTS)
    return arguments


def main() -> int:
    """Returns the exit status."""
    arguments = parse_arguments()
    # Ending by `exit` runs the blocks that end the gateway.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    run = Run(
        arguments.program, arguments.model, Vegeta(arguments.vegeta, arguments.folder), arguments.seconds
    )
    marks = Marks()
    marks.note(f"cores: {len(os.sched_getaffinity(0))}, load average before the run: {load_average():.2f}")
    if load_average() > BUSY_LOAD:
        marks.note("the machine is busy: times are those of a busy machine")
    for part in arguments.parts:
        print(f"==> {part}", flush=True)
        PARTS[part](run, marks)
    return marks.conclude()


if __name__ == "__main__":
    sys.exit(main())
