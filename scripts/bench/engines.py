"""The engines under measurement, each a process that stays loaded and is stopped while others run.

Worker      answers JSON lines: the engine in process, the bare loop, onnxruntime-genai
Server      answers HTTP: the gateway, llama-server

A process that is not measured gets SIGSTOP: it cannot spin, whatever its idle threads like to do.
"""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
READY_SECONDS = 120.0


class Engine:
    """A process that can be paused."""

    def __init__(self, command: Sequence[str | Path], pipes: bool) -> None:
        pipe = subprocess.PIPE if pipes else subprocess.DEVNULL
        self._process = subprocess.Popen(
            [str(part) for part in command],
            # Where the gateway and the engine look for ONNX Runtime.
            cwd=CHECKOUT,
            stdin=pipe,
            stdout=pipe,
            stderr=subprocess.DEVNULL if not pipes else None,
            text=True,
        )
        self.command = " ".join(str(part) for part in command)

    @property
    def process_id(self) -> int:
        """For /proc."""
        return self._process.pid

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Let it run; outside of its turns it is stopped."""
        self._process.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGSTOP)

    def close(self) -> None:
        """End the process."""
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Worker(Engine):
    """Answers one JSON line with one JSON line."""

    def __init__(self, command: Sequence[str | Path]) -> None:
        super().__init__(command, pipes=True)
        self._read()  # {"ready": true}
        self._process.send_signal(signal.SIGSTOP)

    def ask(self, prompts: list[dict], tokens: int) -> dict:
        """Generate `tokens` tokens after each prompt, all at once."""
        with self.turn():
            request = {"prompts": [prompt["token_ids"] for prompt in prompts], "tokens": tokens}
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return self._read()

    def _read(self) -> dict:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": "it has ended"}
        if "error" in answer:
            sys.exit(f"{self.command}: {answer['error']}")
        return answer


class Server(Engine):
    """Answers HTTP on a port of the loopback; `{port}` and `{other_port}` in the command are replaced."""

    def __init__(self, command: Sequence[str | Path], dialect: str, ready_path: str, client: Path) -> None:
        ports = {"port": free_port(), "other_port": free_port()}
        super().__init__([str(part).format(**ports) for part in command], pipes=False)
        self._port, self._dialect, self._client = ports["port"], dialect, client
        self._wait_ready(ready_path)
        self._process.send_signal(signal.SIGSTOP)

    def load(self, requests: list[dict], streams: int | None = None, times: bool = False) -> dict:
        """Send requests with the load client: `streams` at once, or each at its `at_seconds`."""
        command = [self._client, "--address", f"127.0.0.1:{self._port}", "--dialect", self._dialect]
        command += ["--streams", str(streams)] if streams else []
        command += ["--times"] if times else []
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file, self.turn():
            json.dump(requests, file)
            file.flush()
            done = subprocess.run(
                [*command, "--requests", file.name], stdout=subprocess.PIPE, text=True, check=True
            )
        answer = json.loads(done.stdout)
        if answer["errors"]:
            sys.exit(f"{self.command}: {answer['errors']} requests failed: {answer['first_error']}")
        return answer

    def _wait_ready(self, path: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
                connection.request("GET", path)
                if connection.getresponse().status == 200:
                    return
            time.sleep(0.05)
        sys.exit(f"did not get ready: {self.command}")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Bench:
    """Starts engines, all with the same number of threads, and ends them."""

    def __init__(self, programs: dict[str, Path], peers, model: Path, threads: int) -> None:
        self.programs, self.peers, self.model, self.threads = programs, peers, model, threads
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def engine(self, model: Path | None = None) -> Worker:
        """The gateway's engine in process."""
        options = ["--model", model or self.model, "--threads", self.threads]
        return self._keep(Worker([self.programs["engine"], *options]))

    def bare(self) -> Worker:
        """The bare loop over ONNX Runtime."""
        script = Path(__file__).with_name("bare_batch.py")
        return self._keep(Worker([self.peers.python, script, self.model, "--threads", self.threads]))

    def genai(self) -> Worker:
        """onnxruntime-genai."""
        script = Path(__file__).with_name("genai_loop.py")
        command = [self.peers.python, script, self.peers.genai_model, "--threads", self.threads]
        return self._keep(Worker(command))

    def gateway(
        self, rows: int, context_tokens: int = 2048, draft_tokens: int = 0, spinning: bool = True
    ) -> Server:
        """The gateway."""
        command = [
            self.programs["gateway"],
            "--listen-address=127.0.0.1:{port}",
            "--ops-address=127.0.0.1:{other_port}",
            "--default-model-name=bench",
            f"--default-model-path={self.model}",
            f"--threads={self.threads}",
            f"--max-batch-size={rows}",
            f"--context-length={context_tokens}",
            f"--speculative-tokens={draft_tokens}",
            f"--spinning={str(spinning).lower()}",
            "--log-filter=warn",
        ]
        return self._keep(Server(command, "native", "/readyz", self.programs["load_client"]))

    def llama(self, quantization: str, slots: int, context_tokens: int = 2048) -> Server:
        """llama.cpp's server, with the logs off."""
        command = [self.peers.llama_server, "-m", self.peers.gguf(quantization), "-np", slots]
        command += ["-c", slots * context_tokens, "-t", self.threads, "-tb", self.threads]
        command += ["--host", "127.0.0.1", "--port", "{port}", "--log-disable", "--no-ui", "--offline"]
        return self._keep(Server(command, "llama", "/health", self.programs["load_client"]))

    def _keep(self, engine):
        self._stack.callback(engine.close)
        return engine


def threads_by_default() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
