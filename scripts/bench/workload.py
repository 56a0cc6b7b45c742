"""Prompts and outputs of mixed lengths, arriving at random at 80 % of what the gateway can do."""

import math
import random

from engines import Bench
from paired import Table, alternate, ratios, spread
from prompts import Prompts
from quantizations import fastest_file

REQUESTS = 40
PROMPT_TOKENS = (16, 1024)
OUTPUT_TOKENS = (1, 256)
SLOTS = 16
LOAD = 0.8


def measure(bench: Bench, rounds: int) -> list[Table]:
    """One table."""
    prompts, chance = Prompts(bench.model, seed=5), random.Random(5)
    gateway = bench.gateway(SLOTS)
    file = fastest_file(bench, SLOTS)
    llama, their_name = bench.llama(file, SLOTS), f"llama-server {file}"
    capacity = _capacity(gateway, prompts, chance)
    print(f"  capacity of the gateway: {capacity:.2f} requests/s", flush=True)
    inputs: list[dict] = []

    def prepare() -> None:
        inputs[:] = _requests(prompts, chance)
        at = 0.0
        for request in inputs:
            request["at_seconds"] = round(at, 4)
            at += chance.expovariate(LOAD * capacity)

    def run(server) -> dict[str, float]:
        answer = server.load(inputs)
        return {
            "rate": answer["tokens_per_second"],
            "wall": answer["wall_seconds"],
            "client": answer["client_cpu_seconds"] / answer["wall_seconds"],
            **{
                f"{kind} {quantile}": answer[f"{kind}_ms"][quantile] / 1e3
                for kind in ("first_token", "gap", "latency")
                for quantile in ("p50", "p90", "p99")
            },
        }

    results = alternate(
        rounds, prepare, {"gateway": lambda: run(gateway), their_name: lambda: run(llama)}
    )
    ours, theirs = results["gateway"], results[their_name]
    table = Table(
        "Mixed requests, arriving at random",
        f"{REQUESTS} requests a round with prompts of {PROMPT_TOKENS[0]} to {PROMPT_TOKENS[1]} tokens (log-uniform) and "
        f"outputs of {OUTPUT_TOKENS[0]} to {OUTPUT_TOKENS[1]} (uniform); Poisson arrivals at {LOAD:.0%} of the "
        f"{capacity:.2f} requests/s that the gateway finishes when {SLOTS} streams never pause. Both servers have "
        f"{SLOTS} slots and get the same requests at the same times. Percentiles are those of a round.",
        ["what", "gateway", their_name, "gateway ÷ llama-server"],
    )
    names = {"rate": "tokens/s", "wall": "seconds from first request to last token", "client": "client CPU, cores"}
    for key in ours:
        kind, _, quantile = key.partition(" ")
        name = names.get(key) or f"{kind.replace('_', ' ')}, {quantile}, s"
        table.add(name, spread(ours[key], 3), spread(theirs[key], 3), spread(ratios(ours[key], theirs[key]), 2))
    return [table]


def _capacity(gateway, prompts: Prompts, chance: random.Random) -> float:
    requests = _requests(prompts, chance) + _requests(prompts, chance)
    return len(requests) / gateway.load(requests, SLOTS)["wall_seconds"]


def _requests(prompts: Prompts, chance: random.Random) -> list[dict]:
    shortest, longest = (math.log(tokens) for tokens in PROMPT_TOKENS)
    return [
        {
            **prompts.make(round(math.exp(chance.uniform(shortest, longest)))),
            "tokens": chance.randint(*OUTPUT_TOKENS),
        }
        for _ in range(REQUESTS)
    ]
