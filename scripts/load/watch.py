"""Looks at a gateway again and again while a test does something else."""

import threading
import time
from dataclasses import dataclass

from load.gateway import Gateway


@dataclass(frozen=True)
class Sample:
    """What was seen at one moment."""

    at: float
    """Seconds since the beginning of 1970, before the look."""
    running: float
    waiting: float
    resident_bytes: int


class Watch:
    """Samples in a thread; ends with its block."""

    def __init__(self, gateway: Gateway, interval_seconds: float) -> None:
        self.samples: list[Sample] = []
        self._gateway, self._interval_seconds = gateway, interval_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(self._interval_seconds):
            self.samples.append(look(self._gateway))


def look(gateway: Gateway) -> Sample:
    """One sample."""
    at, metrics = time.time(), gateway.metrics()
    return Sample(
        at, metrics.total("requests_running"), metrics.total("requests_waiting"), gateway.resident_bytes()
    )
