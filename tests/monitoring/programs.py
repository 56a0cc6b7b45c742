"""Programs that run while a test does: the one under test, and others beside it."""

import re
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self, TypeVar

from monitored import ROOT, gateway

Answer = TypeVar("Answer")
PATIENCE_SECONDS = 60


def until(what: str, ask: Callable[[], Answer | None]) -> Answer:
    """Asks until there is an answer."""
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE_SECONDS:
        try:
            if answer := ask():
                return answer
        except OSError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"waited {PATIENCE_SECONDS} s in vain for {what}")


@dataclass
class Program:
    """A process that writes a log."""

    process: subprocess.Popen[bytes]
    log: Path

    def address(self, pattern: str) -> str:
        """What the log says, once it does."""

        def ask() -> str | None:
            text = self.log.read_text()
            assert self.process.poll() is None, f"it ended:\n{text}"
            found = re.search(pattern, text)
            return found and found[1]

        return until(f"{pattern} in {self.log}", ask)


class Programs:
    """All that run, in a folder of their own; use as a context."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.folder = Path(self._stack.enter_context(TemporaryDirectory()))

    def __enter__(self) -> Self:
        try:
            self._begin()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _begin(self) -> None:
        """What runs from the beginning."""

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, name: str, settings: dict[str, str], *arguments: str) -> Program:
        """Starts the program under test, on ports of the system's choice."""
        environment = {
            "INFERENCE_LISTEN_ADDRESS": "127.0.0.1:0",
            "INFERENCE_OPS_ADDRESS": "127.0.0.1:0",
            "INFERENCE_ADMIN_ADDRESS": "127.0.0.1:0",
            "INFERENCE_CACHE_DIR": str(self.folder / "cache"),
            "INFERENCE_LOG_FORMAT": "json",
            "INFERENCE_SPINNING": "false",
            "INFERENCE_MEMORY_LIMIT": "2Gi",
            "ORT_DYLIB_PATH": str(ROOT / "prepared" / "lib" / "libonnxruntime.so"),
            "HOME": str(self.folder),
        }
        return self.run(name, [str(gateway()), *arguments], environment | settings)

    def run(self, name: str, command: list[str], environment: dict[str, str]) -> Program:
        """Starts any program."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, cwd=self.folder)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return Program(process, log)
