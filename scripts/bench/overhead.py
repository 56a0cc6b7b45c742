#!/usr/bin/env python3
"""What it costs to be watched and guarded: scrapes every 50 ms, traces of every request, and all that there is.

    overhead.py [--model FOLDER] [--gateway FILE] [--pairs N] [--turns N] [--streams N …] [--kinds KIND …] [--together]

Serves the model and measures one and sixteen streams in turn: with everything off, twice; scraped twenty times a second on the
API address, as endpoint pickers do; with every request traced to a collector that takes spans and throws them away; and with
everything on at once: TLS, keys with quotas, traces, the log, endpoint pickers' metrics, scrapes. Processes differ by some percent,
so the fewer kinds and streams are asked for, the more pairs there can be, and the more exact is what is said of them.

The gateway computes on all processors but the last. Clients, collector and scraper, which belong to other machines, have that one;
with --together all have all. Prints a table for BENCHMARKS.md, and how long a scrape takes. Exits with 1 where everything on
has less than 0.98 of the tokens a second.
"""

import argparse
import contextlib
import http.server
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from engines import CHECKOUT
from gateway import Gateway
from machine import cpu_seconds
from paired import Table, alternate, at_least, ratios, spread

STREAMS = {1: 2, 16: 1}
"""How many at once, and how often in a turn."""
TOKENS = 64
OFF, ALL_ON = "off", "all on"
SCRAPED = ("scraped", ALL_ON)
INTERVAL_SECONDS = 0.05
LIMIT = 0.98
IDLE_SECONDS = 20.0

SCRAPER = """
import socket, ssl, sys, time
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
if sys.argv[3]:
    connection = ssl.create_default_context(cafile=sys.argv[3]).wrap_socket(connection, server_hostname="localhost")

def scrape():
    connection.sendall(b"GET /metrics HTTP/1.1\\r\\nhost: localhost\\r\\n\\r\\n")
    answer = connection.recv(1 << 20)
    while b"\\r\\n\\r\\n" not in answer:
        answer += connection.recv(1 << 20)
    head, _, body = answer.partition(b"\\r\\n\\r\\n")
    size = int(head.lower().split(b"content-length: ")[1].split(b"\\r\\n")[0])
    left = size - len(body)
    while left:
        left -= len(connection.recv(1 << 20))
    return size

scrape()
print("scraping", flush=True)
due, times, size = time.monotonic(), [], 0
try:
    while True:
        begin = time.monotonic()
        size = scrape()
        times.append(time.monotonic() - begin)
        due = max(due + float(sys.argv[2]), time.monotonic())
        time.sleep(max(0, due - time.monotonic()))
except KeyboardInterrupt:
    times.sort()
    print(len(times), times[len(times) // 2], size)
"""
"""In a process of its own, and with as little work as it can: a picker is on another machine."""


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes traces and throws them away."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """A batch."""
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


class Guards:
    """What a gateway with everything on is given: a certificate, and a file of keys."""

    def __init__(self, folder: Path) -> None:
        self.certificate, self.private_key, self.keys = folder / "tls.crt", folder / "tls.key", folder / "keys.yaml"
        self.key = "key-of-the-benchmark"
        made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
        named = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        written = ["-keyout", str(self.private_key), "-out", str(self.certificate)]
        subprocess.run([*made, *named, *written], check=True, capture_output=True)
        limits = "requestsPerMinute: 1000000, tokensPerMinute: 1000000000, concurrentRequests: 1000"
        known = {"bench": self.key, **{f"other-{number}": f"key-of-somebody-else-{number}" for number in range(99)}}
        lines = [f'- {{name: {name}, key: {key}, models: ["*"], {limits}}}' for name, key in known.items()]
        self.keys.write_text("\n".join(["keys:", *lines, ""]))

    @property
    def flags(self) -> list[str]:
        """Of the gateway."""
        return [
            f"--tls-cert-file={self.certificate}",
            f"--tls-key-file={self.private_key}",
            "--auth-mode=apiKeys",
            f"--auth-keys-file={self.keys}",
            # One caller is to have all places.
            "--caller-share=100",
        ]

    @property
    def headers(self) -> dict[str, str]:
        """Of every request."""
        return {"authorization": f"Bearer {self.key}"}


def rate(gateway: Gateway, streams: int, tokens: int = TOKENS) -> float:
    """Tokens a second of so many streams that begin at once."""
    # As text, and not as a stream: the client is to take as little of the processor as it can.
    request = {"text": "Once upon a time", "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    begin = time.monotonic()
    with ThreadPoolExecutor(streams) as pool:
        answers = list(pool.map(lambda _: gateway.answer(request), range(streams)))
    seconds = time.monotonic() - begin
    told = sum(answer["metadata"]["tokens_generated"] for answer in answers)
    assert told == streams * tokens, "every answer has all its tokens"
    return told / seconds


@contextlib.contextmanager
def scraped(gateway: Gateway, told: list[list[float]]) -> Iterator[None]:
    """Ask for the metrics twenty times a second meanwhile."""
    command = [sys.executable, "-c", SCRAPER, str(gateway.port), str(INTERVAL_SECONDS), str(gateway.certificate or "")]
    scraper = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert scraper.stdout is not None
    # Its start is no part of what it costs.
    scraper.stdout.readline()
    try:
        yield
    finally:
        scraper.send_signal(2)
        told.append([float(number) for number in scraper.communicate()[0].split()])


def measure(kinds: dict[str, Callable[[], Gateway]], arguments: argparse.Namespace) -> tuple[Table, bool]:
    """One table, and whether everything on is within its limit. `kinds` are those of the table's columns."""
    told: list[list[float]] = []

    def run(name: str, gateway: Gateway) -> dict[str, float]:
        with scraped(gateway, told) if name in SCRAPED else contextlib.nullcontext():
            rates = {streams: [rate(gateway, streams) for _ in range(STREAMS[streams])] for streams in arguments.streams}
        return {str(streams): statistics.harmonic_mean(values) for streams, values in rates.items()}

    found: dict[str, dict[str, list[float]]] = {name: {str(streams): [] for streams in arguments.streams} for name in kinds}
    for pair in range(arguments.pairs):
        # New processes for each pair: how memory happens to lie makes as much difference as what is measured. For the same reason
        # each kind is the first to start in its turn. Within a pair they take many short turns, so that each gets as much of the
        # machine's better and worse times, which on a shared one follow each other within seconds.
        first = pair % len(kinds)
        order = [*list(kinds)[first:], *list(kinds)[:first]]
        with contextlib.ExitStack() as stack:
            gateways = {name: stack.enter_context(kinds[name]()) for name in order}
            turns = alternate(arguments.turns, lambda: None, {name: partial(run, name, of) for name, of in gateways.items()})
        for name, rates in turns.items():
            for streams, values in rates.items():
                found[name][streams].append(statistics.harmonic_mean(values))
    where = "on the same processors" if arguments.together else "on a processor of their own"
    table = Table(
        "Watched and guarded",
        f"Through HTTP, {TOKENS} tokens out, the same prompt, kept connections; new processes for each pair, which take {arguments.turns} turns; "
        f"client, scraper and collector {where}. Off again: the same as off, which tells how exact this is. Scraped: "
        "`GET /metrics` twenty times a second on the API address. Traced: every request sampled and sent by HTTP. All on: both, "
        "over TLS, with 100 keys and quotas, the log, endpoint pickers' metrics. Ratios pair by pair: median (smallest–largest).",
        ["streams", "tok/s with all off", *list(kinds)[1:], "limit"],
    )
    held = True
    for streams in map(str, arguments.streams):
        off = found[OFF][streams]
        all_on = ratios(found[ALL_ON][streams], off)
        held = held and statistics.median(all_on) >= LIMIT
        quotients = (spread(ratios(found[name][streams], off), 3) for name in kinds if name != OFF)
        table.add(streams, spread(off), *quotients, at_least(all_on, LIMIT))
    median = statistics.median(one[1] for one in told)
    print(f"scrapes of {told[-1][2]:.0f} bytes, {median * 1e3:.2f} ms at the median under load")
    return table, held


def measure_idle(gateway: Gateway) -> None:
    """What a scrape costs a gateway that does nothing else: time of its processors, which others do not disturb."""
    told: list[list[float]] = []
    shares = {}
    for name, meanwhile in {"alone": contextlib.nullcontext(), "scraped": scraped(gateway, told)}.items():
        before = cpu_seconds(gateway.process_id)
        with meanwhile:
            time.sleep(IDLE_SECONDS)
        shares[name] = (cpu_seconds(gateway.process_id) - before) / IDLE_SECONDS
    scrapes, median, size = told[0]
    milliseconds = 1e3 * (shares["scraped"] - shares["alone"]) * IDLE_SECONDS / scrapes
    print(
        f"idle: {shares['alone']:.2%} of a core alone, {shares['scraped']:.2%} scraped; {scrapes:.0f} scrapes of {size:.0f} "
        f"bytes, {milliseconds:.2f} ms of a core each, {median * 1e3:.2f} ms until the answer at the median"
    )


def main() -> None:
    """See the text at the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=CHECKOUT / "prepared/models/smollm2-135m-instruct-w8a8")
    parser.add_argument("--gateway", type=Path, default=CHECKOUT / "target/release/inference-gateway")
    parser.add_argument("--pairs", type=int, default=6, help="how often all of it (default: 6)")
    parser.add_argument("--turns", type=int, default=8, help="how often in a pair (default: 8)")
    parser.add_argument("--streams", type=int, nargs="+", choices=STREAMS, default=list(STREAMS))
    between = ["off again", "scraped", "traced"]
    parser.add_argument("--kinds", nargs="*", choices=between, default=between, help="beside off and all on")
    parser.add_argument("--together", action="store_true", help="everything on all processors")
    arguments = parser.parse_args()
    processors = sorted(os.sched_getaffinity(0))
    arguments.together = arguments.together or len(processors) == 1
    arguments.processors = set(processors if arguments.together else processors[:-1])
    if not arguments.together:
        os.sched_setaffinity(0, {processors[-1]})
    collector = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    traces = f"--otel-exporter-otlp-endpoint=http://127.0.0.1:{collector.server_port}"
    with tempfile.TemporaryDirectory() as folder:
        guards = Guards(Path(folder))

        def start(*flags: str, **guarded: Any) -> Gateway:
            threads = len(arguments.processors)
            return Gateway(arguments.gateway, arguments.model, threads, flags, arguments.processors, **guarded)

        def plain() -> Gateway:
            return start("--log-filter=error")

        def traced() -> Gateway:
            return start("--log-filter=error", traces)

        def guarded() -> Gateway:
            return start("--picker-metrics=true", traces, *guards.flags, certificate=guards.certificate, headers=guards.headers)

        with plain() as gateway:
            measure_idle(gateway)
        kinds = {OFF: plain, "off again": plain, "scraped": plain, "traced": traced, ALL_ON: guarded}
        kinds = {name: start for name, start in kinds.items() if name in (OFF, ALL_ON, *arguments.kinds)}
        table, held = measure(kinds, arguments)
    print(table.markdown())
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
