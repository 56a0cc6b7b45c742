"""What was promised and whether it was kept: a line for each, and the exit code of all."""

import math
from collections.abc import Sequence


class Marks:
    """Prints each mark as it is set and remembers those that were missed."""

    def __init__(self) -> None:
        self.missed: list[str] = []
        self._count = 0

    def mark(self, kept: bool, promise: str, found: str) -> None:
        """One promise, with what was found."""
        self._count += 1
        if not kept:
            self.missed.append(promise)
        print(f"{'PASS' if kept else 'FAIL'}  {promise}: {found}", flush=True)

    def note(self, text: str) -> None:
        """A number that is worth knowing and promises nothing."""
        print(f"      {text}", flush=True)

    def conclude(self) -> int:
        """The last line, and the exit code."""
        print(f"{self._count - len(self.missed)} marks kept, {len(self.missed)} missed", flush=True)
        return 1 if self.missed or not self._count else 0


def quantile(numbers: Sequence[float], part: float) -> float:
    """The smallest of the numbers that at least this part of them does not exceed; nan of none."""
    if not numbers:
        return math.nan
    return sorted(numbers)[max(0, math.ceil(part * len(numbers)) - 1)]


def spread_ms(seconds: Sequence[float]) -> str:
    """Median, 99th percentile and largest, for people."""
    parts = (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
    return ", ".join(f"{name} {1e3 * quantile(seconds, part):.1f} ms" for name, part in parts)
