"""What the user of `prepare.py` sees: steps with the time they took, errors of one line, and no Python
traceback.
"""

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path


class PrepareError(Exception):
    """Something that the user can put right; its text is one line that says what to do."""


def say(text: str) -> None:
    """Print one whole line at once: steps run in parallel and their lines must not mix."""
    sys.stdout.write(f"==> {text}\n")
    sys.stdout.flush()


@contextlib.contextmanager
def step(text: str) -> Iterator[None]:
    """Print `text` and how long the block took, when it is done."""
    started = time.monotonic()
    yield
    say(f"{text} ... {time.monotonic() - started:.1f} s")


def run_command(
    command: Sequence[str | Path],
    environment: dict[str, str] | None = None,
    keep_open: Sequence[int] = (),
    folder: Path | None = None,
) -> None:
    """Run a command silently; if it fails, raise `PrepareError` with the line of its output that matters.

    `keep_open` are file descriptors that the command inherits: it keeps the lock when this process is killed.
    It runs in `folder`, or else where this process does.
    """
    done = subprocess.run(
        [str(part) for part in command],
        env=environment,
        cwd=folder,
        pass_fds=keep_open,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise PrepareError(explain_failure([str(part) for part in command], done.returncode, done.stdout))


# In this order: a hash error also says "could not install", a network error also says "no matching
# distribution".
_EXPLANATIONS = (
    (
        "No space left on device",
        "no space left on the disk: free some and run again, finished parts are kept",
    ),
    (
        "DO NOT MATCH THE HASHES",
        "a download does not have the pinned sha256: it was changed on the way or on the "
        "index; see the pins in scripts/ and your pip index setting (pip config list)",
    ),
    ("Temporary failure in name resolution", "no network: the package index cannot be found by name"),
    ("dial tcp", "no network: the Go module proxy cannot be reached (go env GOPROXY)"),
    (
        "SECURITY ERROR",
        "a Go module does not have the hash in its go.sum below scripts/: it was changed on the way or on the "
        "proxy",
    ),
    ("Failed to establish a new connection", "no network: the package index cannot be reached"),
    ("Network is unreachable", "no network: the package index cannot be reached"),
    ("ProxyError", "no network: the proxy does not answer; see HTTPS_PROXY"),
    ("timed out", "no network: the package index does not answer in time"),
    ("CERTIFICATE_VERIFY_FAILED", "the package index's certificate is not trusted: see pip's setting 'cert'"),
    (
        "ensurepip is not available",
        "Python's venv module is incomplete: install it (Debian, Ubuntu: apt-get install python3-venv)",
    ),
    (
        "No module named venv",
        "Python's venv module is missing: install it (Debian, Ubuntu: apt-get install python3-venv)",
    ),
)


def explain_failure(command: list[str], exit_status: int, output: str) -> str:
    """One line for a failed command: a known cause, or else the last line of its output that names an error."""
    for sign, explanation in _EXPLANATIONS:
        if sign in output:
            return explanation
    if unknown := re.search(r"No matching distribution found for (\S+)", output):
        return (
            f"pip finds no {unknown[1]}: no network, or your package index (pip config list) does not have it "
            f"for Python {sys.version_info.major}.{sys.version_info.minor} on this machine"
        )
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    last = (errors or lines or ["no output"])[-1]
    return f"'{' '.join(command[:4])} ...' failed with status {exit_status}: {last}"
