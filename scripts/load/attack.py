"""vegeta, which sends the requests: so many a second, or as fast as so many clients get answers."""

import base64
import datetime
import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from load.targets import Target, vegeta_lines

NO_TIMEOUT_SECONDS = 600.0
# By which a busy machine may be late with targets that are sent once.
LATE_SECONDS = 60.0


@dataclass(frozen=True)
class Pace:
    """How requests are sent."""

    seconds: float
    """After this no new request begins."""
    rate: float = 0.0
    """Requests a second, whatever becomes of them (open loop); 0 for as many as `clients` get answered (closed)."""
    clients: int = 0
    """In a closed loop."""
    timeout_seconds: float = NO_TIMEOUT_SECONDS
    """After which a client leaves."""
    once: bool = False
    """Whether each target is sent once and then no more; otherwise they come round until the time is over."""

    @classmethod
    def of_count(cls, count: int, rate: float, timeout_seconds: float = NO_TIMEOUT_SECONDS) -> "Pace":
        """Each of so many targets once, so many a second."""
        return cls(count / rate + LATE_SECONDS, rate, timeout_seconds=timeout_seconds, once=True)

    @classmethod
    def at_once(cls, clients: int, timeout_seconds: float = NO_TIMEOUT_SECONDS) -> "Pace":
        """Each of so many targets once, now."""
        return cls(LATE_SECONDS, clients=clients, timeout_seconds=timeout_seconds, once=True)


@dataclass(frozen=True)
class Result:
    """What became of one request."""

    target: Target | None
    began: float
    """Seconds since the beginning of 1970."""
    latency: float
    """Seconds until the answer was whole, or the client left."""
    status: int
    """0 where no whole answer came."""
    error: str
    body: bytes
    headers: dict[str, list[str]]

    @property
    def ended(self) -> float:
        """Seconds since the beginning of 1970."""
        return self.began + self.latency


class Vegeta:
    """The program, and the folder that takes its files."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.program, self.folder = program, folder
        folder.mkdir(parents=True, exist_ok=True)

    def post(self, name: str, address: str, targets: Sequence[Target], pace: Pace) -> "Attack":
        """Begin to send; `name` also makes the prompts those of this attack."""
        return Attack(self, name, vegeta_lines(targets, address, seed=name), targets, pace)

    def get(self, name: str, url: str, pace: Pace) -> "Attack":
        """Begin to ask a path."""
        return Attack(self, name, json.dumps({"method": "GET", "url": f"{url}#0"}) + "\n", [None], pace)


class Attack:
    """Requests that are being sent; ends with its block."""

    def __init__(self, vegeta: Vegeta, name: str, lines: str, targets: Sequence, pace: Pace) -> None:
        self.cpu_seconds = 0.0
        """What it took from the gateway on the same cores; known once there are results."""
        self._targets = targets
        self._vegeta, self._results = vegeta, vegeta.folder / f"{name}.results"
        to_send = vegeta.folder / f"{name}.targets"
        to_send.write_text(lines)
        if pace.rate:
            # vegeta takes whole numbers: a tenth of a percent is close enough.
            options = [f"-rate={round(1000 * pace.rate)}/1000s"]
        else:
            options = ["-rate=0", f"-workers={pace.clients}", f"-max-workers={pace.clients}"]
        # Read one by one, targets come to an end.
        options += ["-lazy"] if pace.once else []
        options += [
            f"-duration={pace.seconds:.3f}s",
            f"-timeout={pace.timeout_seconds}s",
            "-format=json",
            f"-targets={to_send}",
        ]
        self._process = subprocess.Popen([vegeta.program, "attack", *options, f"-output={self._results}"])

    def results(self) -> list[Result]:
        """Wait for the end; in the order in which requests began."""
        self._finish()
        encoded = subprocess.run(
            [self._vegeta.program, "encode", "-to=json", self._results], stdout=subprocess.PIPE, check=True
        )
        found = sorted((json.loads(line) for line in encoded.stdout.splitlines()), key=lambda one: one["seq"])
        # One without an address is vegeta's word for targets that have come to an end.
        return [_result(one, self._targets[int(one["url"].partition("#")[2])]) for one in found if one["url"]]

    def __enter__(self) -> "Attack":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait()

    def _finish(self) -> None:
        if self._process.returncode is None:
            _, status, usage = os.wait4(self._process.pid, 0)
            self._process.returncode = os.waitstatus_to_exitcode(status)
            self.cpu_seconds = usage.ru_utime + usage.ru_stime
        if self._process.returncode != 0:
            raise RuntimeError(f"vegeta has failed: {' '.join(map(str, self._process.args))}")


def _result(one: dict, target: Target | None) -> Result:
    return Result(
        target=target,
        began=datetime.datetime.fromisoformat(one["timestamp"]).timestamp(),
        latency=one["latency"] / 1e9,
        status=one["code"],
        error=one["error"],
        body=base64.b64decode(one["body"] or ""),
        headers={name.lower(): values for name, values in (one["headers"] or {}).items()},
    )
