"""A gateway that a benchmark asks by its native API, each answer whole: the client has little to do beside it."""

import contextlib
import http.client
import json
import os
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from engines import CHECKOUT, READY_SECONDS, free_port


@dataclass
class Gateway:
    """The gateway in a process of its own; use as a context."""

    executable: Path
    model: Path
    threads: int
    flags: Collection[str] = ()
    """Beside those that every benchmark needs."""
    processors: Collection[int] | None = None
    """Where it may run; anywhere by default."""
    certificate: Path | None = None
    """What a gateway that was told to speak TLS shows to clients."""
    headers: dict[str, str] = field(default_factory=dict)
    """Of every request."""

    def __post_init__(self) -> None:
        self.port = free_port()
        self._tls = self.certificate and ssl.create_default_context(cafile=self.certificate)
        self._kept: list[http.client.HTTPConnection] = []

    def __enter__(self) -> Self:
        self._state = tempfile.TemporaryDirectory()
        command = [
            self.executable,
            f"--listen-address=127.0.0.1:{self.port}",
            f"--ops-address=127.0.0.1:{free_port()}",
            f"--admin-address=127.0.0.1:{free_port()}",
            "--default-model-name=bench",
            f"--default-model-path={self.model}",
            f"--threads={self.threads}",
            "--context-length=2048",
            # Several at once are not to share what they note of their models.
            f"--state-dir={self._state.name}",
            *self.flags,
        ]
        pin = (lambda: os.sched_setaffinity(0, self.processors)) if self.processors else None
        # Nobody reads it meanwhile: the processor belongs to what is measured.
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            command, cwd=CHECKOUT, preexec_fn=pin, stdout=self._log, stderr=subprocess.STDOUT
        )
        self._wait_ready()
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._kept:
            connection.close()
        self._process.terminate()
        self._process.wait(60)
        self._show_warnings()
        self._state.cleanup()

    def _show_warnings(self) -> None:
        self._log.seek(0)
        # Lines are JSON, but for what is said before the settings are known.
        for line in self._log.read().decode(errors="replace").splitlines():
            if '"level":"INFO"' not in line:
                print(f"gateway: {line}", file=sys.stderr)
        self._log.close()

    @property
    def process_id(self) -> int:
        """For /proc."""
        return self._process.pid

    def answer(self, request: dict) -> dict:
        """The answer to a request, or the error, on a connection that is kept for the next one."""
        # Taking from a list and adding to it is safe among threads.
        try:
            connection = self._kept.pop()
        except IndexError:
            connection = self._connection()
        answer = self._ask(connection, "POST", "/api/v1/inference", json.dumps(request))[1]
        self._kept.append(connection)
        return json.loads(answer)

    def _connection(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        return http.client.HTTPSConnection("localhost", self.port, timeout=600, context=self._tls)

    def _ask(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: str | None = None
    ) -> tuple[int, bytes]:
        connection.request(method, path, body, self.headers)
        response = connection.getresponse()
        return response.status, response.read()

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                with contextlib.closing(self._connection()) as connection:
                    if self._ask(connection, "GET", "/readyz")[0] == 200:
                        return
            time.sleep(0.05)
        self._process.kill()
        self._process.wait()
        self._show_warnings()
        sys.exit(f"did not get ready: {self.executable}")
