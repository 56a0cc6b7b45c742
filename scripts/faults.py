#!/usr/bin/env python3
"""Runs the tests that docs/reliability.md names, and prints for each row its tests and how they went.

    faults.py [ROWS]          ROWS: 36-49, or 19,24; all of them by default

Exits with 1 where a test failed, was not found, or a row has none. Tests that are left out of `make test`, because they take
hours, are told as such and not run.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
PAGE = CHECKOUT / "docs/reliability.md"
TARGETS = (("--lib",), ("--test", "integration"), ("--test", "cluster"))
"""Programs with tests: those of parts, of a gateway, and of a cluster."""
CARGO = [os.environ.get("CARGO", "cargo"), "test", "--locked", "--quiet", "--features", "failpoints"]
THREADS = {"cluster": 6}
"""Tests of a cluster wait most of the time."""


@dataclass
class Row:
    """A row of the page."""

    number: int
    fault: str
    tests: list[str]


def rows(page: str) -> list[Row]:
    """The rows that have a number."""
    found = []
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 4 and cells[0].isdecimal():
            # Names of tests are sentences; what else stands in quotes there are commands.
            tests = [name for name in re.findall(r"`(\w+)`", cells[3]) if name.count("_") > 3]
            found.append(Row(int(cells[0]), cells[1], tests))
    return found


def wanted(text: str) -> set[int]:
    """`36-49,3` as numbers.

    Raises `ValueError` where it is nothing of the kind.
    """
    numbers: set[int] = set()
    for part in text.split(","):
        ends = [int(end) for end in part.split("-")]
        numbers.update(range(ends[0], ends[-1] + 1))
    return numbers


def outcomes(lines: Iterator[str]) -> dict[str, str]:
    """`ok`, `FAILED` or `ignored` by the name of a test without its module, from what a program with tests prints."""
    found = {}
    for line in lines:
        told = re.match(r"test (?:\S+::)?(\w+) \.\.\. (ok|FAILED|ignored)", line)
        if told:
            found[told[1]] = told[2]
    return found


def paths(listed: str) -> dict[str, str]:
    """Names with their modules, by the names alone, from `--list`."""
    full = re.findall(r"^(\S+): test$", listed, re.MULTILINE)
    return {path.rpartition("::")[2]: path for path in full}


def run(tests: set[str]) -> dict[str, str]:
    """How each of these tests went; those that no program has are left out."""
    found: dict[str, str] = {}
    for target in TARGETS:
        listed = subprocess.run([*CARGO, *target, "--", "--list"], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, check=True).stdout
        here = paths(listed)
        chosen = sorted(here[test] for test in tests & here.keys())
        if not chosen:
            continue
        threads = THREADS.get(target[-1])
        flags = [f"--test-threads={threads}"] if threads else []
        command = [*CARGO, *target, "--", "--exact", *flags, "--format=pretty", *chosen]
        with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = list(process.stdout)
        found |= outcomes(iter(lines))
        if process.returncode:
            print("".join(lines), file=sys.stderr)
    return found


def report(chosen: list[Row], found: dict[str, str]) -> bool:
    """Prints the table; whether all is well."""
    words = {"ok": "passed", "FAILED": "FAILED", "ignored": "left out: takes hours", "": "NOT FOUND"}
    well = True
    for row in chosen:
        for test in row.tests or [""]:
            outcome = found.get(test, "")
            well = well and outcome in ("ok", "ignored")
            print(f"{row.number:>3}  {test or 'no test':<100}  {words[outcome]}")
    return well


def main() -> None:
    """See the text at the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="?", type=wanted, default=None, metavar="ROWS")
    arguments = parser.parse_args()
    all_rows = rows(PAGE.read_text())
    chosen = [row for row in all_rows if arguments.rows is None or row.number in arguments.rows]
    missing = (arguments.rows or set()) - {row.number for row in chosen}
    if missing:
        sys.exit(f"faults.py: there is no row {', '.join(map(str, sorted(missing)))} in {PAGE.relative_to(CHECKOUT)}")
    found = run({test for row in chosen for test in row.tests})
    sys.exit(0 if report(chosen, found) else 1)


if __name__ == "__main__":
    main()
