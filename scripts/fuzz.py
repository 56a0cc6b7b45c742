#!/usr/bin/env python3
"""Feed the parsers and writers with bytes that nobody chose, for some time each.

    python3 scripts/fuzz.py [--seconds 60] [TARGET]...

Builds fuzz/ with the project's own compiler: a target runs inside libFuzzer, which changes inputs and keeps those that
come to new places of the code. It begins with the corpus in git, fuzz/corpus/TARGET/, and with what earlier runs found in
target/fuzz/corpus/TARGET/. An input that fails ends the run and lies in target/fuzz/failures/: once the fault is mended,
move it into the corpus in git under a name that says what it was, and `cargo test --lib fuzzing` tries it for ever.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
CORPUS = CHECKOUT / "fuzz/corpus"
DICTIONARIES = CHECKOUT / "fuzz/dictionaries"
BUILT = CHECKOUT / "target/fuzz"
# What libFuzzer has to see: counters of the places that a run comes to, and what is compared with what. Plain options of
# code generation, so that the stable compiler takes them; sanitizers would need a nightly one, and find what Rust rules out.
COVERAGE = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
]
# An input that takes longer, or more memory, has failed.
MOST_SECONDS = 20
MOST_MEBIBYTES = 2048
LONGEST_INPUT_BYTES = 8192


def build() -> Path:
    """The program with all targets."""
    about = subprocess.run(["rustc", "-vV"], cwd=CHECKOUT, check=True, capture_output=True, text=True).stdout
    host = re.search(r"^host: (.+)$", about, re.MULTILINE).group(1)
    # A target is named, so that build scripts and macros are compiled as always.
    command = [os.environ.get("CARGO", "cargo"), "build", "--release", "--locked", "--manifest-path", "fuzz/Cargo.toml"]
    environment = {**os.environ, "RUSTFLAGS": " ".join(COVERAGE), "CARGO_TARGET_DIR": str(BUILT)}
    subprocess.run([*command, "--target", host], cwd=CHECKOUT, check=True, env=environment)
    return BUILT / host / "release/inference-gateway-fuzz"


def run(program: Path, target: str, seconds: int) -> tuple[bool, str]:
    """Whether nothing failed, and a line about it."""
    found, failures = BUILT / "corpus" / target, BUILT / "failures"
    for folder in (found, failures):
        folder.mkdir(parents=True, exist_ok=True)
    dictionary = DICTIONARIES / f"{target}.dict"
    options = [
        f"-max_total_time={seconds}", f"-timeout={MOST_SECONDS}", f"-rss_limit_mb={MOST_MEBIBYTES}",
        f"-max_len={LONGEST_INPUT_BYTES}", f"-artifact_prefix={failures}/{target}-", "-print_final_stats=1",
        *([f"-dict={dictionary}"] if dictionary.exists() else []),
    ]  # fmt: skip
    # New inputs go into the first folder; the others are read.
    command = [str(program), *options, str(found), str(CORPUS / target)]
    began = time.monotonic()
    # Settings of whoever runs this are no part of what is tried.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("INFERENCE_")}
    log = subprocess.run(
        command, cwd=CHECKOUT, env={**environment, "FUZZ_TARGET": target}, capture_output=True, text=True, errors="replace"
    )
    (BUILT / f"{target}.log").write_text(log.stderr)
    runs = re.findall(r"^stat::number_of_executed_units: +(\d+)", log.stderr, re.MULTILINE)
    places = re.findall(r" cov: (\d+) ft: (\d+) corp: (\d+)", log.stderr)
    if log.returncode != 0:
        return False, f"failed: see target/fuzz/{target}.log and target/fuzz/failures/{target}-*"
    if not runs or not places:
        return False, f"told nothing: see target/fuzz/{target}.log"
    rate = int(runs[-1]) / (time.monotonic() - began)
    covered, _, inputs = places[-1]
    return True, f"{int(runs[-1]):>10} runs, {rate:>7.0f} a second, {covered:>6} places, {inputs:>5} inputs"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default: all")
    arguments = parser.parse_args()
    known = sorted(folder.name for folder in CORPUS.iterdir())
    unknown = [target for target in arguments.targets if target not in known]
    if unknown or arguments.seconds < 1:
        parser.error(f"there is no target {unknown[0]}; there are {', '.join(known)}" if unknown else "--seconds is at least 1")
    program = build()
    well = True
    for target in arguments.targets or known:
        print(f"{target:<20}", end=" ", flush=True)
        passed, line = run(program, target, arguments.seconds)
        print(line, flush=True)
        well &= passed
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
