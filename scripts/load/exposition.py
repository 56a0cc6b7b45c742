"""The gateway's metrics, as its text exposition has them."""

import math
import re

_SAMPLE = re.compile(r"^([a-z_]+)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'([a-z_]+)="([^"]*)"')
PREFIX = "inference_gateway_"


class Exposition:
    """The samples of one scrape. Names are without `inference_gateway_`."""

    def __init__(self, text: str) -> None:
        found = (_SAMPLE.match(line) for line in text.splitlines())
        self._samples = [
            (match[1].removeprefix(PREFIX), dict(_LABEL.findall(match[2] or "")), float(match[3]))
            for match in found
            if match
        ]

    def total(self, name: str, **labels: str) -> float:
        """Of all samples with these labels; 0 when there is none, as a family begins with its first value."""
        return sum(
            value
            for found, its_labels, value in self._samples
            if found == name and labels.items() <= its_labels.items()
        )

    def longest(self, histogram: str, before: "Exposition") -> float:
        """Upper bound of the highest bucket that got an observation since `before`; 0 when none did."""
        grown = {}
        for name, labels, value in self._samples:
            if name == f"{histogram}_bucket":
                grown[float(labels["le"])] = value - before.total(name, **labels)
        below, longest = 0.0, 0.0
        for bound in sorted(grown):
            if grown[bound] > below:
                longest = bound
            below = grown[bound]
        return longest if math.isfinite(longest) else math.inf
