#!/usr/bin/env python3
"""One stream through the gateway, next to the same loop written directly against ONNX Runtime.

    compare.py [--model FOLDER] [--pairs N] [--tokens N] [--threads N]

Starts the release build of the gateway and the bare loop (`bare_loop.py`) on the same model, lets them answer the
same request in turn, and prints tokens a second of each and their ratio, pair by pair and as medians. The gateway is
measured at the client: streamed over HTTP, from the request to the last token, prompt included; the bare loop in
process, prompt included. Both answers must be the same tokens.
"""

import argparse
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PROMPT = "Photosynthesis is the process by which"
READY_SECONDS = 60.0


@dataclass
class Answer:
    """What one request took."""

    seconds: float
    token_ids: list[int]

    @property
    def tokens_per_second(self) -> float:
        """Tokens of the answer over the time of the whole request."""
        return len(self.token_ids) / self.seconds


class Gateway:
    """The gateway in a process of its own."""

    def __init__(self, model: Path, threads: int) -> None:
        self._port = _free_port()
        self._process = subprocess.Popen(
            [
                _executable(),
                f"--listen-address=127.0.0.1:{self._port}",
                f"--ops-address=127.0.0.1:{_free_port()}",
                "--default-model-name=bench",
                f"--default-model-path={model}",
                f"--threads={threads}",
                "--log-filter=warn",
            ],
            cwd=PROJECT,
        )
        self._wait_ready()

    def generate(self, tokens: int) -> Answer:
        """Stream one greedy answer."""
        request = {
            "text": PROMPT,
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
            "stream": True,
        }
        body = json.dumps(request).encode()
        head = (
            "POST /api/v1/inference HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        # A bare socket: Python's HTTP client takes apart every chunk, on the cores that the gateway computes on.
        pieces = []
        started = time.perf_counter()
        with socket.create_connection(("127.0.0.1", self._port)) as connection:
            connection.sendall(head.encode() + body)
            while piece := connection.recv(65536):
                pieces.append(piece)
        seconds = time.perf_counter() - started
        last = b"".join(pieces).decode().split("\ndata: ")[-1].splitlines()[0]
        return Answer(seconds, json.loads(last)["metadata"]["token_ids"])

    def prompt_tokens(self) -> list[int]:
        """The prompt as the gateway's tokenizer sees it."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        request = {"text": PROMPT, "max_tokens": 1, "return_token_ids": True}
        connection.request("POST", "/api/v1/inference", json.dumps(request))
        answer = json.load(connection.getresponse())
        connection.close()
        return answer["metadata"]["prompt_token_ids"]

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait()

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self._port)
                connection.request("GET", "/readyz")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.05)
        sys.exit("compare.py: the gateway did not get ready")


class BareLoop:
    """The bare loop in a process of its own."""

    def __init__(self, model: Path, threads: int, prompt: list[int]) -> None:
        self._prompt = prompt
        script = PROJECT / "scripts/bench/bare_loop.py"
        self._process = subprocess.Popen(
            [sys.executable, str(script), str(model), "--threads", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()  # {"ready": true, …}

    def generate(self, tokens: int) -> Answer:
        """One greedy answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"prompt_token_ids": self._prompt, "tokens": tokens}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return Answer(answer["prefill_seconds"] + answer["decode_seconds"], answer["token_ids"])

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _executable() -> str:
    target = Path(os.environ.get("CARGO_TARGET_DIR", PROJECT / "target"))
    return str(target / "release/inference-gateway")


def main() -> None:
    """Measure pairs and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=PROJECT / "prepared/models/smollm2-135m-instruct-w8a8")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()

    gateway = Gateway(options.model, options.threads)
    bare = BareLoop(options.model, options.threads, gateway.prompt_tokens())
    if gateway.generate(options.tokens).token_ids != bare.generate(options.tokens).token_ids:
        sys.exit("compare.py: the two answers differ, so their times cannot be compared")

    print(f"{options.model.name}, 1 stream, {options.tokens} tokens, {options.threads} threads")
    print("pair  gateway over HTTP  bare loop in Python  ratio")
    gateway_rates, bare_rates, ratios = [], [], []
    for pair in range(options.pairs):
        # The order alternates, so that neither always runs on the warmer machine.
        runs = [gateway, bare] if pair % 2 == 0 else [bare, gateway]
        answers = {id(run): run.generate(options.tokens) for run in runs}
        ours = answers[id(gateway)].tokens_per_second
        theirs = answers[id(bare)].tokens_per_second
        gateway_rates.append(ours)
        bare_rates.append(theirs)
        ratios.append(ours / theirs)
        print(f"{pair + 1:4}  {ours:11.1f} tok/s  {theirs:13.1f} tok/s  {ratios[-1]:5.3f}")
    ours, theirs, ratio = (statistics.median(values) for values in (gateway_rates, bare_rates, ratios))
    print(f"median {ours:10.1f} tok/s  {theirs:13.1f} tok/s  {ratio:5.3f}  (from {min(ratios):.3f} to {max(ratios):.3f})")
    gateway.close()
    bare.close()


if __name__ == "__main__":
    main()
