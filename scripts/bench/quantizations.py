"""Which file of the model llama-server runs fastest: measured first, so that it is compared at its best."""

import statistics
from dataclasses import dataclass

from engines import Bench
from paired import Table
from prompts import Prompts

QUANTIZATIONS = ("Q4_0", "Q4_1", "Q8_0")
ROUNDS = 3
PROMPT_TOKENS, TOKENS = 32, 128


@dataclass(frozen=True)
class Fastest:
    """The best file for each number of streams, and the numbers behind the choice."""

    by_streams: dict[int, str]
    table: Table


def find_fastest(bench: Bench, streams: tuple[int, ...], slots: int) -> Fastest:
    """Try all files, in turn, at each number of streams."""
    table = Table(
        "llama-server's files",
        "Q4_1 is the original of the model; Q4_0 is made from it and loses quality; Q8_0 is made from it and keeps "
        "it. The fastest is what the gateway is compared with, whatever its quality. Whole tokens a second, median of "
        f"{ROUNDS}.",
        ["streams", *QUANTIZATIONS],
    )
    prompts, best = Prompts(bench.model, seed=7), {}
    servers = {name: bench.llama(name, slots) for name in QUANTIZATIONS}
    for count in streams:
        rates: dict[str, list[float]] = {name: [] for name in servers}
        for _ in range(ROUNDS):
            inputs = [{**prompts.make(PROMPT_TOKENS), "tokens": TOKENS} for _ in range(count)]
            for name, server in servers.items():
                rates[name].append(server.load(inputs, count)["tokens_per_second"])
        medians = {name: statistics.median(values) for name, values in rates.items()}
        best[count] = max(medians, key=lambda name: medians[name])
        table.add(str(count), *(f"{medians[name]:.1f}" for name in QUANTIZATIONS))
    for server in servers.values():
        server.close()
    return Fastest(best, table)


def fastest_file(bench: Bench, slots: int) -> str:
    """The best file when all slots are busy."""
    return find_fastest(bench, (slots,), slots).by_streams[slots]
