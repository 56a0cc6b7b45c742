"""Five times as many requests as can be served: what is taken is served as fast as ever, the rest refused at once.

Capacity is measured first, in the same process: as many clients as rows, each sending its next request when it has its
answer. A request's tokens count at the moment at which its answer is whole, and only if it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from load.answers import read_answer
from load.attack import Attack, Pace, Result
from load.gateway import ROWS, Gateway
from load.marks import Marks, quantile, spread_ms
from load.run import Run
from load.targets import in_both_dialects
from load.watch import Sample, Watch

TIMES_CAPACITY = 5
CAPACITY_SECONDS = 40.0
# Until the rows are full and their ends spread over time; of the overload until its queue is full too.
WARM_SECONDS, OVERLOAD_WARM_SECONDS = 8.0, 20.0
WORDS, TOKENS = 24, (16, 24, 32, 40, 48)
TARGETS = 2000
LEAST_GOODPUT = 0.9
# A refusal is read, answered and logged like anything else, on cores that the model keeps busy: the probe's answer that
# is measured beside it has the same wait for a core.
REFUSED_P50_SECONDS, REFUSED_P99_SECONDS = 0.020, 0.100
PROBE_RATE, PROBE_SECONDS = 20.0, 5.0
GROWTH_BYTES = 32 * 2**20
INTERVAL_SECONDS = 0.5
TAKEN, REFUSED = 200, (429, 503)


@dataclass(frozen=True)
class Goodput:
    """Whole answers in a window of time."""

    tokens_per_second: float
    requests_per_second: float


def measure(run: Run, marks: Marks) -> None:
    """Capacity, then too much."""
    with run.gateway("overload") as gateway:
        unloaded = _probes(run, gateway, "unloaded", PROBE_SECONDS).results()
        _closed_loop(run, gateway, "warm-up", WARM_SECONDS)
        results, probes = _capacity(run, gateway, marks, "capacity")
        capacity = goodput(results, WARM_SECONDS, CAPACITY_SECONDS)
        marks.note(f"/healthz unloaded: {spread_ms(latencies(unloaded))}")
        marks.note(f"/healthz at capacity: {spread_ms(latencies(probes))}")
        with Watch(gateway, INTERVAL_SECONDS) as watch:
            rate = TIMES_CAPACITY * capacity.requests_per_second
            before, pace = gateway.cpu_seconds(), Pace(run.overload_seconds, rate=rate)
            results, probes, attack = _attack(run, gateway, "overload", pace)
        marks.note(
            f"{len(results)} requests at {rate:.0f}/s, {_cpu(results, gateway.cpu_seconds() - before)}; the load "
            f"generator took {attack.cpu_seconds:.1f} s of CPU"
        )
        # Where this is far from what it was before, the machine was not this test's alone.
        _capacity(run, gateway, marks, "capacity afterwards")
    _judge(marks, results, capacity, run.overload_seconds)
    _judge_refusals(marks, results, unloaded, probes)
    warm = min(result.began for result in results) + min(OVERLOAD_WARM_SECONDS, run.overload_seconds / 2)
    grown, resident = growth(watch.samples, warm)
    marks.mark(
        grown <= GROWTH_BYTES,
        f"memory grows by no more than {GROWTH_BYTES >> 20} MiB after the first {OVERLOAD_WARM_SECONDS:.0f} s",
        f"{grown / 2**20:+.1f} MiB from {resident / 2**20:.0f} MiB",
    )


def _capacity(run: Run, gateway: Gateway, marks: Marks, name: str) -> tuple[list[Result], list[Result]]:
    before = gateway.cpu_seconds()
    results, probes, _ = _closed_loop(run, gateway, name.replace(" ", "-"), CAPACITY_SECONDS)
    found = goodput(results, WARM_SECONDS, CAPACITY_SECONDS)
    marks.note(
        f"{name}: {found.tokens_per_second:.0f} tokens/s, {found.requests_per_second:.1f} requests/s, "
        f"{_cpu(results, gateway.cpu_seconds() - before)}"
    )
    return results, probes


def _cpu(results: Sequence[Result], cpu_seconds: float) -> str:
    """What refusing costs is in here too; idle compute threads that spin are as well."""
    tokens = sum(result.target.tokens for result in results if is_whole(result))
    return f"{1e3 * cpu_seconds / max(tokens, 1):.2f} ms of CPU a token"


def goodput(results: Sequence[Result], begin_seconds: float, end_seconds: float) -> Goodput:
    """Of a window, in seconds after the first request."""
    first = min(result.began for result in results)
    whole = [
        result.target.tokens
        for result in results
        if first + begin_seconds < result.ended <= first + end_seconds and is_whole(result)
    ]
    seconds = end_seconds - begin_seconds
    return Goodput(sum(whole) / seconds, len(whole) / seconds)


def is_whole(result: Result) -> bool:
    """Whether a request got all of its answer."""
    return (
        result.status == TAKEN
        and result.target is not None
        and not read_answer(result.target, result.body, result.error).lacks
    )


def latencies(results: Sequence[Result]) -> list[float]:
    """Of answers with status 200, in seconds."""
    return [result.latency for result in results if result.status == TAKEN]


def growth(samples: Sequence[Sample], warm: float) -> tuple[int, int]:
    """By how much the most memory after the moment `warm` is above the most until then, and that, in bytes."""
    until = max(sample.resident_bytes for sample in samples if sample.at <= warm)
    return max(sample.resident_bytes for sample in samples if sample.at > warm) - until, until


def _judge(marks: Marks, results: Sequence[Result], capacity: Goodput, seconds: float) -> None:
    begin = min(OVERLOAD_WARM_SECONDS, seconds / 2)
    found = goodput(results, begin, seconds)
    share = found.tokens_per_second / capacity.tokens_per_second
    marks.mark(
        share >= LEAST_GOODPUT,
        f"goodput stays above {LEAST_GOODPUT:.0%} of the capacity",
        f"{found.tokens_per_second:.0f} tokens/s, {found.requests_per_second:.1f} requests/s, {share:.1%}",
    )
    others = [result for result in results if result.status not in (TAKEN, *REFUSED)]
    marks.mark(
        not others,
        "every answer is 200, 429 or 503",
        f"{len(others)} others" + (f", {others[0].status} {others[0].error}" if others else ""),
    )
    taken = [result for result in results if result.status == TAKEN]
    torn = [result for result in taken if not is_whole(result)]
    marks.mark(not torn, "what is taken is answered whole", f"{len(torn)} of {len(taken)} torn")


def _judge_refusals(
    marks: Marks, results: Sequence[Result], unloaded: Sequence[Result], probes: Sequence[Result]
) -> None:
    refused = [result for result in results if result.status in REFUSED]
    marks.note(f"/healthz beside the overload: {spread_ms(latencies(probes))}")
    marks.mark(
        bool(refused) and all("retry-after" in result.headers for result in refused),
        "what is too much is refused with Retry-After",
        f"{len(refused)} of {len(results)}",
    )
    seconds = [result.latency for result in refused]
    bounds = [
        (0.5, quantile(latencies(unloaded), 0.5) + REFUSED_P50_SECONDS),
        (0.99, quantile(latencies(unloaded), 0.99) + REFUSED_P99_SECONDS),
    ]
    marks.mark(
        bool(seconds) and all(quantile(seconds, part) <= bound for part, bound in bounds),
        "refusals come at once ("
        + ", ".join(f"p{100 * part:.0f} below {1e3 * bound:.0f} ms" for part, bound in bounds)
        + ")",
        spread_ms(seconds),
    )


def _closed_loop(
    run: Run, gateway: Gateway, name: str, seconds: float
) -> tuple[list[Result], list[Result], Attack]:
    return _attack(run, gateway, name, Pace(seconds, clients=ROWS))


def _attack(run: Run, gateway: Gateway, name: str, pace: Pace) -> tuple[list[Result], list[Result], Attack]:
    """What became of the requests, and of the probes beside them."""
    targets = in_both_dialects(TARGETS, WORDS, TOKENS)
    with (
        run.vegeta.post(name, gateway.address, targets, pace) as attack,
        _probes(run, gateway, f"{name}-probes", pace.seconds) as probes,
    ):
        return attack.results(), probes.results(), attack


def _probes(run: Run, gateway: Gateway, name: str, seconds: float) -> Attack:
    return run.vegeta.get(name, f"http://{gateway.address}/healthz", Pace(seconds, rate=PROBE_RATE))
