"""The gateway that the clients talk to: `tests/integration/clients.rs` serves it and says where it is.

By hand, with a gateway that serves a chat model as `chat`, the same with the template of `tests/clients/tools.jinja` as `tools`,
and one of `prepared/tiny` as `tiny`, and one that serves the chat model alone, as `chat` and `dummy`:

    GATEWAY_URL=http://localhost:3000 TGI_URL=http://localhost:4000 \\
        prepared/venv/bin/python -m unittest discover --start-directory tests/clients
"""

import os
import re
import time
import unittest
import urllib.request

URL = os.environ.get("GATEWAY_URL", "")
TGI_URL = os.environ.get("TGI_URL", "")
CHAT_MODEL, TINY_MODEL, TOOL_MODEL = "chat", "tiny", "tools"
PATIENCE_SECONDS = 60
LONG_PROMPT = "The quick brown fox"
CANCELLED = 'inference_gateway_generations_total{finish_reason="cancelled",model="tiny"}'
RUNNING = 'inference_gateway_requests_running{model="tiny"}'
WAITING = 'inference_gateway_requests_waiting{model="tiny"}'


def setUpModule() -> None:
    """Fail at once, rather than once for each test, when nobody says where the gateway is."""
    if not (URL and TGI_URL):
        raise RuntimeError(
            "GATEWAY_URL and TGI_URL are not set: run `cargo test --features failpoints --test integration clients::`"
        )


def sample(name_and_labels: str) -> float:
    """The value of a metric; 0 when it is not there yet."""
    with urllib.request.urlopen(f"{URL}/metrics") as answer:
        text = answer.read().decode()
    found = re.search(rf"^{re.escape(name_and_labels)} (\S+)", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def wait_for_sample(test: unittest.TestCase, name_and_labels: str, value: float) -> None:
    """Wait until a metric has a value."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (found := sample(name_and_labels)) != value:
        test.assertLess(time.monotonic(), deadline, f"{name_and_labels} is {found}, not {value}")
        time.sleep(0.01)
