"""A gateway to load: a process of the release build with the real model, seen through its metrics and probes."""

import contextlib
import http.client
import os
import signal
import subprocess
import time
from pathlib import Path

from bench.engines import free_port
from bench.machine import cpu_seconds, resident_bytes
from load.exposition import Exposition

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS, END_SECONDS = 120.0, 120.0
ROWS, QUEUE = 16, 256
MODEL = "load"
# What is kept of prompts would otherwise grow for as long as a test runs, up to a gibibyte.
PREFIX_MEBIBYTES = 32


class Gateway:
    """The process; ends with its block."""

    def __init__(self, program: Path, model: Path, log: Path) -> None:
        ports = [free_port() for _ in range(3)]
        self.address, self.ops_address, admin_address = (f"127.0.0.1:{port}" for port in ports)
        command = [
            program,
            f"--listen-address={self.address}",
            f"--ops-address={self.ops_address}",
            f"--admin-address={admin_address}",
            f"--default-model-name={MODEL}",
            f"--default-model-path={model}",
            f"--max-batch-size={ROWS}",
            f"--queue-limit={QUEUE}",
            f"--prefix-memory={PREFIX_MEBIBYTES}Mi",
            f"--state-dir={log.with_suffix('.state')}",
        ]
        # Its log as in service: a line for each request and one for each answer.
        variables = {name: value for name, value in os.environ.items() if name != "RUST_LOG"}
        with log.open("w") as output:
            self._process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=output, stderr=output)
        self.log = log

    def __enter__(self) -> "Gateway":
        try:
            self._wait_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def exit_code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def wait(self) -> int:
        """Wait for its end and return the exit code."""
        return self._process.wait(END_SECONDS)

    def ready_status(self) -> int | None:
        """What `/readyz` says; None when nobody answers."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self._get("/readyz")[0]
        return None

    def metrics(self) -> Exposition:
        """A scrape, of the address that load on the API cannot fail."""
        return Exposition(self._get("/metrics")[1].decode())

    def resident_bytes(self) -> int:
        """Its memory."""
        return resident_bytes(self._process.pid)

    def cpu_seconds(self) -> float:
        """What it has computed so far."""
        return cpu_seconds(self._process.pid)

    def _get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.ops_address, timeout=30)
        try:
            connection.request("GET", path, headers={"Accept": "text/plain"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while self.ready_status() != 200:
            if self.exit_code() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the gateway did not get ready; its log is {self.log}")
            time.sleep(0.05)
