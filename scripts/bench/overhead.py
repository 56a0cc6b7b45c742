#!/usr/bin/env python3
"""What it costs to be watched and guarded: scrapes every 50 ms, traces of every request, and all that there is.

    overhead.py [--model FOLDER] [--gateway FILE] [--pairs N] [--together]

Serves the model and measures one and sixteen streams in turn: with everything off; scraped twenty times a second on the API
address, as endpoint pickers do; by a second gateway with every request traced to a collector that takes spans and throws them
away; and by a third with everything on at once: TLS, keys with quotas, traces, the log, endpoint pickers' metrics, scrapes.

The gateway computes on all processors but the last. Clients, collector and scraper, which belong to other machines, have that one;
with --together all have all. Prints a table for BENCHMARKS.md, and how long a scrape takes. Exits with 1 where everything on
has less than 0.98 of the tokens a second.
"""

import argparse
import contextlib
import http.client
import http.server
import json
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from engines import CHECKOUT, READY_SECONDS, free_port
from machine import cpu_seconds
from paired import Table, alternate, at_least, ratios, spread

STREAMS = (1, 16)
TOKENS = 128
INTERVAL_SECONDS = 0.05
LIMIT = 0.98
IDLE_SECONDS = 20.0
NAME = "overhead"

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
    def settings(self) -> list[str]:
        """Flags of the gateway."""
        return [
            f"--tls-cert-file={self.certificate}",
            f"--tls-key-file={self.private_key}",
            "--auth-mode=apiKeys",
            f"--auth-keys-file={self.keys}",
            # One caller is to have all places.
            "--caller-share=100",
        ]


class Gateway:
    """The gateway in a process of its own."""

    def __init__(self, arguments: argparse.Namespace, *more: str, guards: Guards | None = None) -> None:
        self.port = free_port()
        self._guards = guards
        self._tls = None if guards is None else ssl.create_default_context(cafile=guards.certificate)
        processors = arguments.processors
        self._process = subprocess.Popen(
            [
                arguments.gateway,
                f"--listen-address=127.0.0.1:{self.port}",
                f"--ops-address=127.0.0.1:{free_port()}",
                f"--admin-address=127.0.0.1:{free_port()}",
                f"--default-model-name={NAME}",
                f"--default-model-path={arguments.model}",
                f"--threads={len(processors)}",
                "--context-length=2048",
                *(guards.settings if guards else []),
                *more,
            ],
            cwd=CHECKOUT,
            # The log goes where nobody reads it.
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, processors),
        )
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self._ask("GET", "/readyz")[0] == 200:
                    return
            time.sleep(0.05)
        sys.exit("overhead.py: the gateway did not get ready")

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
        certificate = str(self._guards.certificate) if self._guards else ""
        command = [sys.executable, "-c", SCRAPER, str(self.port), str(INTERVAL_SECONDS), certificate]
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
        if self._guards is None:
            connection, headers = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600), {}
        else:
            connection = http.client.HTTPSConnection("localhost", self.port, timeout=600, context=self._tls)
            headers = {"authorization": f"Bearer {self._guards.key}"}
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()


def measure(plain: Gateway, traced: Gateway, guarded: Gateway, arguments: argparse.Namespace) -> tuple[Table, bool]:
    """One table, and whether everything on is within its limit."""
    where = "on the same processors" if arguments.together else "on a processor of their own"
    table = Table(
        "Watched and guarded",
        f"Through HTTP, {TOKENS} tokens out, the same prompt; client, scraper and collector {where}. Scraped: `GET /metrics` twenty times "
        "a second on the API address. Traced: every request sampled and sent by HTTP. All on: both, over TLS, with 100 keys and quotas, the "
        "log, endpoint pickers' metrics. Ratios pair by pair: median (smallest–largest).",
        ["streams", "tok/s with all off", "scraped", "traced", "all on", "limit"],
    )
    told: list[list[float]] = []
    held = True
    for streams in STREAMS:

        def scraped(gateway: Gateway, streams: int = streams) -> dict[str, float]:
            with gateway.scraped(told):
                return gateway.rate(streams)

        runs = {
            "off": lambda streams=streams: plain.rate(streams),
            "scraped": lambda run=scraped: run(plain),
            "traced": lambda streams=streams: traced.rate(streams),
            "all": lambda run=scraped: run(guarded),
        }
        found = {name: of["rate"] for name, of in alternate(arguments.pairs, lambda: None, runs).items()}
        all_on = ratios(found["all"], found["off"])
        held = held and statistics.median(all_on) >= LIMIT
        table.add(
            str(streams),
            spread(found["off"]),
            *(spread(ratios(found[name], found["off"]), 3) for name in ("scraped", "traced", "all")),
            at_least(all_on, LIMIT),
        )
    median = statistics.median(one[1] for one in told)
    print(f"scrapes of {told[-1][2]:.0f} bytes, {median * 1e3:.2f} ms at the median under load")
    return table, held


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
        plain = Gateway(arguments, "--log-filter=error")
        traced = Gateway(arguments, "--log-filter=error", traces)
        guarded = Gateway(arguments, "--picker-metrics=true", traces, guards=Guards(Path(folder)))
        try:
            measure_idle(plain)
            table, held = measure(plain, traced, guarded, arguments)
        finally:
            for gateway in (plain, traced, guarded):
                gateway.close()
    print(table.markdown())
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
