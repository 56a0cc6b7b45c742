"""What is printed: each step with its time as it ends, and a summary of all of them at the end."""

import contextlib
import sys
import time
import traceback
from collections.abc import Iterator

BEGAN = time.monotonic()


class CheckFailed(Exception):
    """Something is not as it must be; the text says what was found."""


class Unusable(Exception):
    """The machine lacks something; the text is one line that says what to do."""


def check(holds: bool, otherwise: str) -> None:
    """Fail the step with this text unless it holds."""
    if not holds:
        raise CheckFailed(otherwise)


def say(text: str) -> None:
    """Print lines, the first one with the time since the start."""
    first, *others = text.rstrip().splitlines() or [""]
    sys.stdout.write(f"{time.monotonic() - BEGAN:7.1f} s  {first}\n")
    for line in others:
        sys.stdout.write(f"{'':11}{line}\n")
    sys.stdout.flush()


class Report:
    """The steps so far, and numbers worth a line in the summary."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, float, str | None]] = []
        self.numbers: list[tuple[str, str]] = []
        self._told: list[BaseException] = []

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        """A part that can fail: the failure is told, kept for the summary, and raised."""
        say(f"...  {text}")
        began = time.monotonic()
        try:
            yield
        except BaseException as error:
            self._told.append(error)
            self.steps.append((text, time.monotonic() - began, _reason(error)))
            say(f"FAIL {text}: {_reason(error)}")
            if not isinstance(error, CheckFailed | KeyboardInterrupt):
                traceback.print_exc()
            raise
        self.steps.append((text, time.monotonic() - began, None))
        say(f"ok   {text} ({time.monotonic() - began:.1f} s)")

    def number(self, what: str, value: str) -> None:
        """A result that the summary repeats."""
        self.numbers.append((what, value))
        say(f"     {what}: {value}")

    def was_told(self, error: BaseException) -> bool:
        """Whether a step has failed with it."""
        return error in self._told

    def failures(self) -> list[str]:
        """The steps that failed."""
        return [text for text, _, reason in self.steps if reason is not None]

    def summary(self) -> None:
        """Every step with its time, then the numbers."""
        say("summary")
        for text, seconds, reason in self.steps:
            print(f"  {'ok  ' if reason is None else 'FAIL'} {seconds:6.1f} s  {text}")
            if reason is not None:
                print(f"                 {reason}")
        for what, value in self.numbers:
            print(f"  {what}: {value}")
        failed = len(self.failures())
        total = f"{time.monotonic() - BEGAN:.0f} s"
        print(f"e2e: {len(self.steps)} steps, {failed} failed, {total}", flush=True)


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
