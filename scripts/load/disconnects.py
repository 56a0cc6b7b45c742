"""A thousand clients that leave: before their first token, in the middle of a stream, and while they wait for a row.

Before that the rows are used as far as any of these clients can come, and a tenth of it all is done: the memory is then
what a gateway in use has.
"""

import time
from collections.abc import Sequence

from load.answers import read_answer
from load.attack import Pace, Result
from load.gateway import ROWS, Gateway
from load.marks import Marks
from load.run import Run
from load.targets import NATIVE, Target, in_both_dialects
from load.watch import Watch

CLIENTS = 1000
# A prompt that takes longer than its client waits.
LONG_PROMPT_WORDS, BEFORE_FIRST_SECONDS = 800, 0.15
# Far more tokens than are waited for.
LONG_ANSWER_TOKENS, MID_STREAM_SECONDS = 800, 1.5
QUEUED_SECONDS, HOLD_ROWS_SECONDS = 0.3, 10.0
BEFORE, MIDDLE, QUEUED = "before the first text", "in the middle of a stream", "in the queue"
LEAST_OF_A_WAY = 0.25
INTERVAL_SECONDS = 0.02
IDLE_PATIENCE_SECONDS = 10.0
# The engine sees that a client has left before its next step; the looks at the gauges are this exact.
LOOKS_SECONDS = 3 * INTERVAL_SECONDS
GROWTH_BYTES = 32 * 2**20
PROBE = Target(NATIVE, words=8, tokens=1)


def measure(run: Run, marks: Marks) -> None:
    """All kinds of leaving, on one gateway."""
    with run.gateway("disconnects") as gateway:
        unloaded = _probe(run, gateway, "probe-before")
        _use_rows(run, gateway)
        leave(run, gateway, "warm-up", CLIENTS // 10)
        before, resident = gateway.metrics(), gateway.resident_bytes()
        with Watch(gateway, INTERVAL_SECONDS) as watch:
            ways = leave(run, gateway, "leave", CLIENTS)
            left = [result for results in ways.values() for result in results]
            last = max(result.ended for result in left)
            served = _probe(run, gateway, "probe-after")
            idle = _idle_after(watch, last)
        metrics, grown = gateway.metrics(), gateway.resident_bytes() - resident
        step = metrics.longest("step_duration_seconds", before)

    stayed = sum(result.status != 0 for result in left)
    marks.mark(
        len(left) == CLIENTS and not stayed, f"{CLIENTS} clients leave", f"{len(left)} came, {stayed} stayed"
    )
    found = {way: sum(_begun(result) == (way == MIDDLE) for result in ways[way]) for way in ways}
    marks.mark(
        min(found.values()) >= CLIENTS * LEAST_OF_A_WAY,
        "they leave in all three ways",
        ", ".join(f"{count} {way}" for way, count in found.items()),
    )
    cancelled = metrics.total("generations_total", finish_reason="cancelled") - before.total(
        "generations_total", finish_reason="cancelled"
    )
    marks.mark(
        cancelled == len(left), "each is counted as cancelled", f"{cancelled:.0f} counted of {len(left)}"
    )
    marks.mark(
        idle <= step + LOOKS_SECONDS,
        "running and waiting are 0 within one step",
        f"seen {1e3 * idle:.0f} ms after the last client left; the longest step took at most {1e3 * step:.0f} ms, "
        f"a look {1e3 * LOOKS_SECONDS:.0f} ms",
    )
    reserved = metrics.total("cache_reserved_tokens")
    marks.mark(reserved == 0, "no cache is held any more", f"{reserved:.0f} tokens reserved")
    marks.mark(
        served <= 3 * unloaded + step,
        "a new request is served at once",
        f"{1e3 * served:.0f} ms (unloaded before: {1e3 * unloaded:.0f} ms)",
    )
    marks.mark(
        grown <= GROWTH_BYTES,
        f"memory grows by no more than {GROWTH_BYTES >> 20} MiB after the warm-up",
        f"{grown / 2**20:+.1f} MiB from {resident / 2**20:.0f} MiB",
    )


def leave(run: Run, gateway: Gateway, name: str, clients: int) -> dict[str, list[Result]]:
    """So many clients come and leave, in three ways. Those that hold the rows while others wait leave too."""
    third, left = clients // 3, {}
    long_prompts = in_both_dialects(third, LONG_PROMPT_WORDS, [8], whole=True)
    pace = Pace.of_count(third, 20, BEFORE_FIRST_SECONDS)
    left[BEFORE] = _attack(run, gateway, f"{name}-before", long_prompts, pace)
    long_answers = in_both_dialects(third, 16, [LONG_ANSWER_TOKENS])
    pace = Pace.of_count(third, 8, MID_STREAM_SECONDS)
    left[MIDDLE] = _attack(run, gateway, f"{name}-middle", long_answers, pace)
    holders = in_both_dialects(ROWS, 16, [LONG_ANSWER_TOKENS])
    pace = Pace.at_once(ROWS, HOLD_ROWS_SECONDS)
    with run.vegeta.post(f"{name}-holders", gateway.address, holders, pace) as holding:
        _wait_for_full_rows(gateway)
        waiting = in_both_dialects(clients - 2 * third - ROWS, 16, [LONG_ANSWER_TOKENS], whole=True)
        pace = Pace.of_count(len(waiting), 60, QUEUED_SECONDS)
        left[QUEUED] = _attack(run, gateway, f"{name}-queued", waiting, pace)
        left[MIDDLE] += holding.results()
    return left


def _attack(run: Run, gateway: Gateway, name: str, targets: Sequence[Target], pace: Pace) -> list[Result]:
    with run.vegeta.post(name, gateway.address, targets, pace) as attack:
        return attack.results()


def _use_rows(run: Run, gateway: Gateway) -> None:
    """Each row to the length of the long prompts, which no long answer comes to in its time."""
    targets = in_both_dialects(ROWS, LONG_PROMPT_WORDS, [64])
    for result in _attack(run, gateway, "rows", targets, Pace.at_once(ROWS)):
        if lacks := read_answer(result.target, result.body, result.error).lacks:
            raise RuntimeError(f"a long prompt is not answered: {lacks}")


def _probe(run: Run, gateway: Gateway, name: str) -> float:
    """Seconds that one request for one token takes."""
    (result,) = _attack(run, gateway, name, [PROBE], Pace(0.5, rate=1))
    if result.status != 200 or read_answer(PROBE, result.body, result.error).lacks:
        raise RuntimeError(f"a request alone is not answered: {result.status} {result.error}")
    return result.latency


def _wait_for_full_rows(gateway: Gateway) -> None:
    deadline = time.monotonic() + HOLD_ROWS_SECONDS
    while gateway.metrics().total("requests_running") < ROWS:
        if time.monotonic() > deadline:
            raise RuntimeError("the rows were never full")
        time.sleep(INTERVAL_SECONDS)


def _idle_after(watch: Watch, last: float) -> float:
    """Seconds from the moment at which the last client left to the first look that found nobody running or waiting."""
    idle = [
        sample.at for sample in watch.samples if sample.at >= last and not sample.running + sample.waiting
    ]
    return min(idle, default=float("inf")) - last


def _begun(result: Result) -> bool:
    """Whether the client saw text before it left."""
    return result.target.streams and read_answer(result.target, result.body, result.error).begun
