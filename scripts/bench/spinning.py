"""What it brings, and what it costs, that idle threads of the pool spin for a moment before they sleep."""

import statistics

from engines import Bench
from machine import cpu_seconds, idle_cpu_share
from paired import Table, alternate, ratios, spread
from prompts import Prompts

STREAMS = (1, 4, 16)
PROMPT_TOKENS, TOKENS = 32, 128
IDLE_SECONDS = 10.0


def measure(bench: Bench, rounds: int) -> list[Table]:
    """The gateway with and without, alternating."""
    table = Table(
        "Spinning of idle threads",
        f"The gateway through HTTP, {TOKENS} tokens out. CPU: seconds of all cores for 1,000 tokens. Idle: share of one "
        f"core over {IDLE_SECONDS:.0f} seconds after the load.",
        ["streams", "tok/s with", "tok/s without", "with ÷ without", "CPU with", "CPU without"],
    )
    gateways = {name: bench.gateway(rows=max(STREAMS), spinning=name == "with") for name in ("with", "without")}
    prompts = Prompts(bench.model, seed=8)
    for streams in STREAMS:
        inputs: list[dict] = []

        def prepare(streams: int = streams, inputs: list[dict] = inputs) -> None:
            inputs[:] = [{**prompts.make(PROMPT_TOKENS), "tokens": TOKENS} for _ in range(streams)]

        def run(gateway, streams: int = streams, inputs: list[dict] = inputs):
            def once() -> dict[str, float]:
                before = cpu_seconds(gateway.process_id)
                rate = gateway.load(inputs, streams)["tokens_per_second"]
                spent = cpu_seconds(gateway.process_id) - before
                return {"rate": rate, "cpu": 1000 * spent / (streams * TOKENS)}

            return once

        found = alternate(rounds, prepare, {name: run(gateway) for name, gateway in gateways.items()})
        table.add(
            str(streams),
            *(spread(found[name]["rate"]) for name in gateways),
            spread(ratios(found["with"]["rate"], found["without"]["rate"]), 3),
            *(f"{statistics.median(found[name]['cpu']):.2f} s" for name in gateways),
        )
    shares = []
    for gateway in gateways.values():
        with gateway.turn():
            shares.append(f"{idle_cpu_share(gateway.process_id, IDLE_SECONDS):.2%}")
    table.add("idle", "", "", "", *shares)
    return [table]
