"""A gateway that serves a real model, and a browser that looks at it."""

import json
import os
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "prepared" / "models" / "smollm2-135m-instruct-w8a8"
MODEL_NAME = "smollm2-135m-instruct"
PATIENCE_SECONDS = 60
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def chromium() -> str:
    """The browser: what CHROMIUM names, or what is on the path."""
    wanted = os.environ.get("CHROMIUM")
    found = shutil.which(wanted) if wanted else next(filter(None, map(shutil.which, NAMES)), None)
    if not found:
        raise RuntimeError(
            f"there is no browser {wanted}: CHROMIUM names the program"
            if wanted
            else "there is no Chromium: `apt-get install chromium`, or set CHROMIUM to the program of one"
        )
    return found


@contextmanager
def gateway(*flags: str) -> Iterator[str]:
    """The address of a gateway that answers, on ports of the system's choice."""
    with listeners(*flags) as addresses:
        yield addresses["api"]


@contextmanager
def listeners(*flags: str) -> Iterator[dict[str, str]]:
    """The addresses of such a gateway: `api`, `ops`, `admin`."""
    executable = Path(
        os.environ.get("INFERENCE_GATEWAY_EXECUTABLE", ROOT / "target" / "debug" / "inference-gateway")
    ).resolve()
    for path in (executable, MODEL):
        if not path.exists():
            raise RuntimeError(f"{path} is missing: run `make browser-test`")
    addresses = [f"--{name}-address=127.0.0.1:0" for name in ("listen", "ops", "admin")]
    own = [f"--default-model-name={MODEL_NAME}", f"--default-model-path={MODEL}", "--log-format=json"]
    with TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as stderr:
            process = subprocess.Popen([executable, *addresses, *own, *flags], stderr=stderr, cwd=ROOT)
        try:
            yield _addresses(process, log)
        finally:
            process.terminate()
            process.wait(PATIENCE_SECONDS)


def _addresses(process: subprocess.Popen[bytes], log: Path) -> dict[str, str]:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        # The last one may not be whole yet.
        lines = [json.loads(line) for line in log.read_text().split("\n")[:-1]]
        listening = [line for line in lines if line["message"] == "listening"]
        if listening and any(line["message"] == "model ready" for line in lines):
            return {name: f"http://{listening[0][name]}" for name in ("api", "ops", "admin")}
        time.sleep(0.05)
    raise RuntimeError(f"the gateway did not get ready:\n{log.read_text()}")


@contextmanager
def browser() -> Iterator[Browser]:
    """A Chromium without a window."""
    with sync_playwright() as playwright:
        # A container's /dev/shm is small.
        arguments = ["--disable-dev-shm-usage"]
        launched = playwright.chromium.launch(executable_path=chromium(), args=arguments)
        try:
            yield launched
        finally:
            launched.close()


def sample(url: str, name_and_labels: str) -> float:
    """The value of a metric; 0 when it is not there yet."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        text = answer.read().decode()
    found = re.search(rf"^{re.escape(name_and_labels)} (\S+)", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def ask(url: str, path: str, body: dict) -> dict:
    """An answer of the API."""
    request = urllib.request.Request(f"{url}{path}", json.dumps(body).encode())
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)
