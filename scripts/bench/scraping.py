#!/usr/bin/env python3
"""What it costs to be scraped every 50 ms, as endpoint pickers do, and to send traces of every request.

    scraping.py [--model FOLDER] [--gateway FILE] [--pairs N] [--threads N]

Serves the model and measures one and sixteen streams in turn: left alone, scraped twenty times a second on the API address, and, by a
second gateway, with every request traced to a collector that takes spans and throws them away. Prints two tables for
BENCHMARKS.md, and how long a scrape takes.
"""

import argparse
import contextlib
import http.client
import http.server
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from engines import CHECKOUT, READY_SECONDS, free_port
from machine import cpu_seconds
from paired import Table, alternate, ratios, spread

STREAMS = (1, 16)
TOKENS = 128
INTERVAL_SECONDS = 0.05
IDLE_SECONDS = 20.0
NAME = "scraping"

SCRAPER = """
import socket, sys, time
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))

def scrape():
    connection.sendall(b"GET /metrics HTTP/1.1\\r\\nhost: localhost\\r\\n\\r\\n")
    answer = connection.recv(1 << 20)
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


class Gateway:
    """The gateway in a process of its own."""

    def __init__(self, arguments: argparse.Namespace, *more: str) -> None:
        self.port = free_port()
        self._process = subprocess.Popen(
            [
                arguments.gateway,
                f"--listen-address=127.0.0.1:{self.port}",
                f"--ops-address=127.0.0.1:{free_port()}",
                f"--admin-address=127.0.0.1:{free_port()}",
                f"--default-model-name={NAME}",
                f"--default-model-path={arguments.model}",
                f"--threads={arguments.threads}",
                "--context-length=2048",
                "--log-filter=warn",
                "--picker-metrics=true",
                *more,
            ],
            cwd=CHECKOUT,
        )
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self._ask("GET", "/readyz")[0] == 200:
                    return
            time.sleep(0.05)
        sys.exit("scraping.py: the gateway did not get ready")

    @property
    def process_id(self) -> int:
        """For /proc."""
        return self._process.pid

    def rate(self, streams: int) -> dict[str, float]:
        """Tokens a second of so many streams that begin at once."""
        # As text, and not as a stream: the client is to take as little of the processor as it can.
        request = {"text": "Once upon a time", "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
        begin = time.monotonic()
        with ThreadPoolExecutor(streams) as pool:
            answers = list(pool.map(lambda _: self._ask("POST", "/api/v1/inference", json.dumps(request)), range(streams)))
        seconds = time.monotonic() - begin
        tokens = sum(json.loads(body)["metadata"]["tokens_generated"] for _, body in answers)
        assert tokens == streams * TOKENS, "every answer has all its tokens"
        return {"rate": tokens / seconds}

    @contextlib.contextmanager
    def scraped(self, told: list[list[float]]) -> Iterator[None]:
        """Ask for the metrics twenty times a second meanwhile."""
        command = [sys.executable, "-c", SCRAPER, str(self.port), str(INTERVAL_SECONDS)]
        scraper = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert scraper.stdout is not None
        # Its start is no part of what it costs.
        scraper.stdout.readline()
        try:
            yield
        finally:
            scraper.send_signal(2)
            told.append([float(number) for number in scraper.communicate()[0].split()])

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(60)

    def _ask(self, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        with contextlib.closing(connection):
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()


def measure(plain: Gateway, traced: Gateway, pairs: int) -> Table:
    """One table."""
    table = Table(
        "Being scraped every 50 ms, and tracing every request",
        f"Through HTTP, {TOKENS} tokens out, the same prompt. Scraped: `GET /metrics` twenty times a second on the API address, by a "
        "process on the same cores. Traced: every request sampled, eight spans each, sent by HTTP to a collector on the same cores. "
        "Ratios pair by pair: median (smallest–largest).",
        ["streams", "tok/s alone", "tok/s scraped", "ratio", "tok/s traced", "ratio"],
    )
    told: list[list[float]] = []
    for streams in STREAMS:

        def scraped(streams: int = streams) -> dict[str, float]:
            with plain.scraped(told):
                return plain.rate(streams)

        runs = {
            "alone": lambda streams=streams: plain.rate(streams),
            "scraped": scraped,
            "traced": lambda streams=streams: traced.rate(streams),
        }
        found = {name: of["rate"] for name, of in alternate(pairs, lambda: None, runs).items()}
        table.add(
            str(streams),
            spread(found["alone"]),
            spread(found["scraped"]),
            spread(ratios(found["scraped"], found["alone"]), 3),
            spread(found["traced"]),
            spread(ratios(found["traced"], found["alone"]), 3),
        )
    median = statistics.median(one[1] for one in told)
    print(f"scrapes of {told[-1][2]:.0f} bytes, {median * 1e3:.2f} ms at the median under load")
    return table


def measure_idle(gateway: Gateway) -> None:
    """What a scrape costs a gateway that does nothing else: time of its processors, which others do not disturb."""
    told: list[list[float]] = []
    shares = {}
    for name, meanwhile in {"alone": contextlib.nullcontext(), "scraped": gateway.scraped(told)}.items():
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
    parser.add_argument("--pairs", type=int, default=9, help="rounds that count (default: 9)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    collector = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    endpoint = f"--otel-exporter-otlp-endpoint=http://127.0.0.1:{collector.server_port}"
    plain, traced = Gateway(arguments), Gateway(arguments, endpoint)
    try:
        measure_idle(plain)
        print(measure(plain, traced, arguments.pairs).markdown())
    finally:
        plain.close()
        traced.close()


if __name__ == "__main__":
    main()
