"""Aggregate tokens a second at 1, 4, 8, 16, 32 streams: in process and through HTTP."""

from engines import Bench
from paired import Table, alternate, at_least, ratios, spread
from prompts import Prompts
from quantizations import find_fastest

STREAMS = (1, 4, 8, 16, 32)
PROMPT_TOKENS = 32
TOKENS = 128
SLOTS = 16
IN_PROCESS_SHARE, HTTP_SHARE = 0.97, 0.93
LLAMA_TARGETS = {1: 1.1, 16: 2.3}

EXPLANATION = (
    f"Prompts of {PROMPT_TOKENS} tokens, {TOKENS} tokens out, greedy, all streams begin at once; every round has new "
    "prompts. *Whole*: all tokens over the time from the first request to the last token, prompts included. "
    "*Together*: the rate while all streams decode, without the prompts. The bare loops and onnxruntime-genai feed "
    "all prompts in one run and decode in lockstep; a server takes prompts one after the other while it decodes for "
    "those that are ready, so that *whole* is not the same work. Targets against ONNX Runtime are judged by "
    "*together*, those against llama.cpp by *whole*. Ratios are taken pair by pair: median (smallest–largest)."
)


def measure(bench: Bench, rounds: int) -> list[Table]:
    """The table, what the client costs, and how llama-server's file was chosen."""
    prompts = Prompts(bench.model)
    fastest = find_fastest(bench, STREAMS, SLOTS)
    best = fastest.by_streams
    table = Table(
        "Tokens a second",
        EXPLANATION,
        ["streams", "who", "whole tok/s", "together tok/s", "compared with", "whole", "together", "target"],
    )
    clients = Table(
        "What the load client costs",
        "CPU time of the client as a share of one core while it loads the gateway, on the same cores.",
        ["streams", "client CPU"],
    )
    workers = {
        "bare loop": bench.bare(),
        "engine in process": bench.engine(),
        "onnxruntime-genai": bench.genai(),
        "engine, genai's folder": bench.engine(bench.peers.genai_model),
    }
    gateway = bench.gateway(rows=max(STREAMS))
    llamas = {name: bench.llama(name, SLOTS) for name in set(best.values())}
    for streams in STREAMS:
        inputs: list[dict] = []

        def prepare(streams: int = streams, inputs: list[dict] = inputs) -> None:
            inputs[:] = [{**prompts.make(PROMPT_TOKENS), "tokens": TOKENS} for _ in range(streams)]

        def in_process(worker, streams: int = streams, inputs: list[dict] = inputs):
            return lambda: _worker_rates(worker.ask(_prompts_of(inputs), TOKENS), streams)

        def over_http(server, streams: int = streams, inputs: list[dict] = inputs):
            return lambda: _server_rates(server.load(inputs, streams), streams)

        runs = {name: in_process(worker) for name, worker in workers.items()}
        runs["gateway, HTTP"] = over_http(gateway)
        llama = f"llama-server {best[streams]}, HTTP"
        runs[llama] = over_http(llamas[best[streams]])
        results = alternate(rounds, prepare, runs)
        _report(table, streams, results, llama)
        client = spread([100 * share for share in results["gateway, HTTP"]["client"]])
        clients.add(str(streams), f"{client} %")
    return [table, clients, fastest.table]


def _report(table: Table, streams: int, results: dict, llama: str) -> None:
    pairs = [
        ("engine in process", "bare loop", "together", IN_PROCESS_SHARE),
        ("engine, genai's folder", "onnxruntime-genai", "together", 1.0),
        ("gateway, HTTP", "bare loop", "together", HTTP_SHARE),
        ("gateway, HTTP", llama, "whole", LLAMA_TARGETS.get(streams)),
    ]
    compared = {ours for ours, *_ in pairs}
    for name in results:
        if name not in compared:
            rates = [spread(results[name][kind]) for kind in ("whole", "together")]
            table.add(str(streams), name, *rates, "", "", "", "")
    for ours, theirs, judged, target in pairs:
        quotients = {kind: ratios(results[ours][kind], results[theirs][kind]) for kind in ("whole", "together")}
        verdict = at_least(quotients[judged], target) if target else ""
        table.add(
            str(streams),
            ours,
            *(spread(results[ours][kind]) for kind in ("whole", "together")),
            theirs,
            *(spread(quotients[kind], 3) for kind in ("whole", "together")),
            verdict,
        )


def _prompts_of(requests: list[dict]) -> list[dict]:
    return [{"token_ids": request["token_ids"]} for request in requests]


def _worker_rates(answer: dict, streams: int) -> dict[str, float]:
    together = answer.get("together_tokens_per_second")
    if together is None:
        together = streams * (TOKENS - 1) / answer["decode_seconds"]
    return {"whole": streams * TOKENS / answer["wall_seconds"], "together": together}


def _server_rates(answer: dict, streams: int) -> dict[str, float]:
    whole = answer["tokens_per_second"]
    return {
        "whole": whole,
        # With more streams than slots there may be no moment in which all decode.
        "together": answer["together_tokens_per_second"] or whole,
        "client": answer["client_cpu_seconds"] / answer["wall_seconds"],
    }
