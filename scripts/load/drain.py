"""The end by SIGTERM while 64 streams run or wait: each ends whole. By SIGKILL they are torn, and that is seen."""

import math
import signal
import time
from dataclasses import dataclass, field

from load.answers import Answer, read_answer
from load.attack import Pace
from load.gateway import QUEUE, ROWS, Gateway
from load.marks import Marks
from load.run import Run
from load.targets import in_both_dialects

STREAMS = 64
# Enough for all to be there before the first has ended.
TOKENS = 64
# The gateway's own default, which is what Kubernetes grants.
GRACE_SECONDS = 30.0
READINESS_SECONDS = 1.0
PATIENCE_SECONDS = 60.0

assert ROWS < STREAMS <= QUEUE, "some wait while others run"


@dataclass
class End:
    """How a process ended, and what became of its streams."""

    before: tuple[int, int] = (0, 0)
    """Running and waiting when the signal was sent."""
    exit_code: int = 0
    seconds: float = 0.0
    readiness: list[tuple[float, int]] = field(default_factory=list)
    """Seconds after the signal, and what `/readyz` said."""
    answers: list[Answer] = field(default_factory=list)

    @property
    def torn(self) -> list[Answer]:
        """Those that are not whole."""
        return [answer for answer in self.answers if answer.lacks]


def measure(run: Run, marks: Marks) -> None:
    """Both ends."""
    ended = _end(run, "drain", signal.SIGTERM)
    marks.note(f"running and waiting at SIGTERM: {ended.before[0]} and {ended.before[1]}")
    marks.mark(sum(ended.before) >= STREAMS, f"{STREAMS} streams are in at SIGTERM", f"{sum(ended.before)}")
    marks.mark(
        not ended.torn and len(ended.answers) >= STREAMS,
        "SIGTERM tears no stream (end mark, finish_reason, tokens)",
        f"{len(ended.torn)} of {len(ended.answers)} torn {_first(ended)}",
    )
    marks.mark(ended.exit_code == 0, "the exit code is 0", str(ended.exit_code))
    marks.mark(
        ended.seconds < GRACE_SECONDS, f"it ends within {GRACE_SECONDS:.0f} s", f"{ended.seconds:.1f} s"
    )
    told = [status for _, status in ended.readiness]
    first = next((after for after, status in ended.readiness if status == 503), math.inf)
    marks.mark(
        first < READINESS_SECONDS and set(told[told.index(503) :]) == {503},
        f"readiness is 503 after at most {READINESS_SECONDS:.0f} s, and stays so",
        f"after {1e3 * first:.0f} ms; 503 in {told.count(503)} of {len(told)} looks",
    )

    killed = _end(run, "kill", signal.SIGKILL)
    in_flight = sum(killed.before)
    marks.mark(
        in_flight > 0 and len(killed.torn) >= in_flight,
        "a SIGKILL is seen: every stream in flight is torn",
        f"{len(killed.torn)} torn of {in_flight} in flight {_first(killed)}",
    )


def _first(end: End) -> str:
    return f"({end.torn[0].lacks})" if end.torn else ""


def _end(run: Run, name: str, number: signal.Signals) -> End:
    end = End()
    with run.gateway(name) as gateway:
        targets = in_both_dialects(STREAMS, words=24, tokens=[TOKENS])
        with run.vegeta.post(name, gateway.address, targets, Pace.at_once(STREAMS)) as attack:
            end.before = _wait_for_all(gateway)
            gateway.signal(number)
            sent = time.monotonic()
            while gateway.exit_code() is None and time.monotonic() < sent + PATIENCE_SECONDS:
                status = gateway.ready_status()
                # Nobody answers any more between the last answer and the end of the process.
                end.readiness += [(time.monotonic() - sent, status)] if status else []
                time.sleep(0.05)
            end.exit_code, end.seconds = gateway.wait(), time.monotonic() - sent
            end.answers = [
                read_answer(result.target, result.body, result.error) for result in attack.results()
            ]
    return end


def _wait_for_all(gateway: Gateway) -> tuple[int, int]:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        metrics = gateway.metrics()
        counts = (int(metrics.total("requests_running")), int(metrics.total("requests_waiting")))
        if sum(counts) >= STREAMS and counts[0] == ROWS:
            return counts
        if time.monotonic() > deadline:
            raise RuntimeError(f"{STREAMS} streams were never in at once: {counts} running and waiting")
        time.sleep(0.01)
