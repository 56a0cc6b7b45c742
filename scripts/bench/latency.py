"""Time to the first token on an idle engine, gaps between tokens when a prompt joins, and kept prefixes."""

import statistics

from engines import Bench, Server
from paired import Table, alternate, at_most, ratios, spread
from prompts import Prompts
from quantizations import fastest_file

PROMPT_TOKENS = 256
CHUNK_TOKENS = 64
FIRST_TOKEN_RATIO = 1.1
STREAMS, STREAM_TOKENS = 16, 256
LATE_SECONDS = (2.5, 3.25, 4.0)
"""When prompts join: after all streams have begun, before the first has ended."""
PREFIX_TOKENS, PREFIXED_TOKENS, PREFIX_RATIO = 512, 544, 0.2


def measure_first_token(bench: Bench, rounds: int) -> list[Table]:
    """One prompt on an idle engine."""
    table = Table(
        "First token of a long prompt, idle engine",
        f"A prompt of {PROMPT_TOKENS} tokens, milliseconds to its first token. The bare prefill is one run over the "
        "whole prompt.",
        ["who", "ms", "ratio to the bare prefill", "target"],
    )
    prompts, inputs = Prompts(bench.model, seed=2), []

    def prepare() -> None:
        inputs[:] = [{**prompts.make(PROMPT_TOKENS), "tokens": 1}]

    workers = {"bare prefill": bench.bare(), "engine in process": bench.engine()}
    file = fastest_file(bench, STREAMS)
    servers = {"gateway, HTTP": bench.gateway(rows=16), f"llama-server {file}, HTTP": bench.llama(file, 16)}
    runs = {name: lambda w=worker: {"ms": 1e3 * w.ask(inputs, 1)["wall_seconds"]} for name, worker in workers.items()}
    for name, server in servers.items():
        runs[name] = lambda s=server: {"ms": s.load(inputs, 1)["first_token_ms"]["p50"]}
    results = alternate(rounds, prepare, runs)
    for name, values in results.items():
        quotients = ratios(values["ms"], results["bare prefill"]["ms"])
        ours = name in ("engine in process", "gateway, HTTP")
        verdict = at_most(quotients, FIRST_TOKEN_RATIO) if ours else ""
        table.add(name, spread(values["ms"]), spread(quotients, 3), verdict)
    return [table]


def measure_gaps(bench: Bench, rounds: int) -> list[Table]:
    """Sixteen streams, without and with prompts that join."""
    table = Table(
        "Gaps between tokens when a prompt joins",
        f"{STREAMS} streams through HTTP; {len(LATE_SECONDS)} prompts of {PROMPT_TOKENS} tokens join one after the "
        "other. 99th percentile of the streams' gaps while all of them decode, in milliseconds; the growth is allowed "
        f"the time of one chunk of {CHUNK_TOKENS} prompt tokens, measured in the bare loop.",
        ["who", "alone", "with prompts joining", "growth", "first token of those that join", "target"],
    )
    prompts, inputs = Prompts(bench.model, seed=3), []

    def prepare() -> None:
        inputs[:] = [
            {**prompts.make(32), "tokens": STREAM_TOKENS, "group": "streams"} for _ in range(STREAMS)
        ]

    def alone(server: Server) -> dict[str, float]:
        return {"p99": _late_gap_ms(server.load(inputs, times=True))}

    def joined(server: Server) -> dict[str, float]:
        late = [
            {**prompts.make(PROMPT_TOKENS), "tokens": 2, "at_seconds": at, "group": "late"} for at in LATE_SECONDS
        ]
        answer = server.load(inputs + late, times=True)
        return {"p99": _late_gap_ms(answer), "first": answer["groups"]["late"]["first_token_ms"]["p50"]}

    bare = bench.bare()
    file = fastest_file(bench, STREAMS)
    servers = {"gateway": bench.gateway(rows=32), f"llama-server {file}": bench.llama(file, 32)}
    runs = {"chunk": lambda: {"ms": 1e3 * bare.ask([prompts.make(CHUNK_TOKENS)], 1)["wall_seconds"]}}
    for name, server in servers.items():
        runs[name] = lambda s=server: alone(s)
        runs[f"{name} joined"] = lambda s=server: joined(s)
    results = alternate(rounds, prepare, runs)
    chunk_ms = statistics.median(results["chunk"]["ms"])
    for name in servers:
        before, after = results[name]["p99"], results[f"{name} joined"]["p99"]
        growth = [late - early for early, late in zip(before, after, strict=True)]
        verdict = at_most(growth, chunk_ms, " ms") if name == "gateway" else ""
        first = spread(results[f"{name} joined"]["first"])
        table.add(name, spread(before), spread(after), spread(growth), first, verdict)
    return [table]


def _late_gap_ms(answer: dict) -> float:
    """99th percentile of the gaps from the moment when all streams have begun until the first ends."""
    streams = [each["events"] for each in answer["each"] if each["report"]["group"] == "streams"]
    begin, end = max(times[0] for times in streams), min(times[-1] for times in streams)
    gaps = [
        later - earlier
        for times in streams
        for earlier, later in zip(times, times[1:])
        if earlier >= begin and later <= end
    ]
    return 1e3 * statistics.quantiles(gaps, n=100)[98]


def measure_prefix(bench: Bench, rounds: int) -> list[Table]:
    """A prompt whose beginning has been seen, against one that has not."""
    table = Table(
        "A prompt with a known beginning",
        f"Through HTTP, a prompt of {PREFIXED_TOKENS} tokens: new, and then another with the same first "
        f"{PREFIX_TOKENS}. Milliseconds to the first token.",
        ["new", "known beginning", "ratio", "target"],
    )
    prompts, inputs = Prompts(bench.model, seed=4), []

    def prepare() -> None:
        beginning = prompts.make(PREFIX_TOKENS)["text"]
        inputs[:] = [{**prompts.make(PREFIXED_TOKENS, beginning), "tokens": 1} for _ in range(2)]

    gateway = bench.gateway(rows=16)

    def both() -> dict[str, float]:
        new, known = (gateway.load([request], 1)["first_token_ms"]["p50"] for request in inputs)
        return {"new": new, "known": known}

    values = alternate(rounds, prepare, {"gateway": both})["gateway"]
    quotients = ratios(values["known"], values["new"])
    table.add(
        spread(values["new"]), spread(values["known"]), spread(quotients, 3), at_most(quotients, PREFIX_RATIO)
    )
    return [table]
