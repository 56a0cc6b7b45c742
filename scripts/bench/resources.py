"""Memory of a full gateway, and what a loaded one costs when nobody asks it anything."""

import json

from engines import Bench
from machine import idle_cpu_share, resident_bytes
from paired import Table
from prompts import Prompts

SLOTS, CONTEXT_TOKENS, OUTPUT_TOKENS = 16, 1024, 64
IDLE_SECONDS = 10.0
IDLE_SHARE = 0.01
MEBI = 2**20


def measure(bench: Bench, _rounds: int) -> list[Table]:
    """One table; not paired, because nothing here is a race."""
    table = Table(
        "Memory and idle CPU",
        f"{SLOTS} slots of {CONTEXT_TOKENS} tokens, all filled once. The budget is the model's files and the cache of "
        "all slots. Idle CPU: share of one core over ten seconds.",
        ["what", "value", "target"],
    )
    gateway = bench.gateway(SLOTS, CONTEXT_TOKENS)
    prompts = Prompts(bench.model, seed=6)
    with gateway.turn():
        loaded = resident_bytes(gateway.process_id)
        idle_before = idle_cpu_share(gateway.process_id, IDLE_SECONDS)
    prompt_tokens = CONTEXT_TOKENS - OUTPUT_TOKENS
    requests = [{**prompts.make(prompt_tokens), "tokens": OUTPUT_TOKENS} for _ in range(SLOTS)]
    gateway.load(requests, SLOTS)
    with gateway.turn():
        full = resident_bytes(gateway.process_id)
        idle_after = idle_cpu_share(gateway.process_id, IDLE_SECONDS)
    model = sum(file.stat().st_size for file in bench.model.glob("model.onnx*"))
    cache = SLOTS * CONTEXT_TOKENS * _cache_bytes_per_token(bench)
    table.add("model's files", f"{model / MEBI:.0f} MiB", "")
    table.add("cache of all slots", f"{cache / MEBI:.0f} MiB", "")
    table.add("resident, loaded", f"{loaded / MEBI:.0f} MiB", "")
    table.add("resident, after all slots were full", f"{full / MEBI:.0f} MiB", "")
    table.add("resident ÷ (model + cache)", f"{full / (model + cache):.2f}", "")
    for when, share in (("loaded", idle_before), ("after the load", idle_after)):
        verdict = "kept" if share < IDLE_SHARE else "missed"
        table.add(f"idle CPU, {when}", f"{share:.2%}", f"< {IDLE_SHARE:.0%}: {verdict}")
    return [table]


def _cache_bytes_per_token(bench: Bench) -> int:
    config = json.loads((bench.model / "config.json").read_text())
    # Keys and values, four bytes a number.
    return 2 * 4 * config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"]
