"""Alternating runs, and what is told of them: medians of pairs, with the smallest and the largest."""

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Run = Callable[[], dict[str, float]]
"""One measurement: some numbers by name."""


def alternate(rounds: int, prepare: Callable[[], None], runs: dict[str, Run]) -> dict[str, dict[str, list]]:
    """Each of `runs` once in every round, in turning order; one more round before is thrown away.

    Returns `[run][number]`, a list with one value a round. `prepare` makes the inputs of a round, which are
    the same for all runs.
    """
    results: dict[str, dict[str, list]] = {name: {} for name in runs}
    for number in range(-1, rounds):
        prepare()
        # The order turns, so that nobody always runs on the warmer machine.
        for name in list(runs) if number % 2 else reversed(runs):
            values = runs[name]()
            if number >= 0:
                for key, value in values.items():
                    results[name].setdefault(key, []).append(value)
        sys.stderr.write("." if number >= 0 else ":")
        sys.stderr.flush()
    sys.stderr.write("\n")
    return results


def spread(values: Sequence[float], digits: int = 1) -> str:
    """`median (smallest–largest)`."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Pair by pair."""
    return [our / their for our, their in zip(ours, theirs, strict=True)]


@dataclass
class Table:
    """A part of the report."""

    title: str
    explanation: str
    head: list[str]
    rows: list[list[str]] = field(default_factory=list)

    def add(self, *cells: str) -> None:
        """One more row; it is also printed at once."""
        self.rows.append(list(cells))
        print("  " + " | ".join(cells), flush=True)

    def markdown(self) -> str:
        """As text of BENCHMARKS.md."""
        lines = [f"## {self.title}", "", self.explanation, ""]
        lines += [_line(self.head), _line(["---"] * len(self.head)), *map(_line, self.rows)]
        return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def at_least(values: Sequence[float], limit: float) -> str:
    """The median of ratios beside what it must reach."""
    return f"≥ {limit:g}: {'reached' if statistics.median(values) >= limit else 'missed'}"


def at_most(values: Sequence[float], limit: float, unit: str = "") -> str:
    """The median beside what it must not pass."""
    return f"≤ {limit:.4g}{unit}: {'kept' if statistics.median(values) <= limit else 'missed'}"
