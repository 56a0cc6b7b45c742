"""Clients in the background that must never notice anything.

Each keeps its connection, asks once and never again, reads streams and whole answers in turn, and compares
every answer with the text that its revision gives. A connection that the server has closed between two
requests is made anew before the next one is sent: nothing was sent on it, so that is no second try.
"""

import http.client
import json
import select
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from e2e.cluster import eventually
from e2e.console import check

PORT = 3000
ANSWER_SECONDS = 60
# Between two requests of a client: some are always under way, and the processors have time for the cluster.
PAUSE_SECONDS = 0.02
PROMPT = "Once upon a time"
REASONS_SHOWN = 5


class Refused(Exception):
    """An answer that is none; the text says why."""


@dataclass(frozen=True)
class Answer:
    """A complete answer."""

    revision: str
    text: str


@dataclass
class Phase:
    """What was seen of the requests that ended in one phase."""

    answers: Counter = field(default_factory=Counter)
    """By revision and whether streamed."""
    failures: list[str] = field(default_factory=list)
    connections: int = 0

    @property
    def requests(self) -> int:
        """All of them."""
        return self.answers.total() + len(self.failures)

    @property
    def streams(self) -> int:
        """Those that were answered in a stream."""
        return sum(count for (_, stream), count in self.answers.items() if stream)

    def revisions(self) -> Counter:
        """Answers by revision."""
        found: Counter = Counter()
        for (revision, _), count in self.answers.items():
            found[revision] += count
        return found

    def line(self) -> str:
        """For people."""
        revisions = ", ".join(f"{revision[:10]} {count}" for revision, count in self.revisions().items())
        return (
            f"{self.requests} requests ({self.streams} streams), {len(self.failures)} failed, "
            f"{self.connections} new connections; by revision: {revisions or 'none'}"
        )


def question(model: str, stream: bool, tokens: int, prompt: str = PROMPT) -> dict:
    """A greedy request."""
    return {
        "model": model,
        "text": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "return_full_text": False,
        "stream": stream,
    }


def ask(connection: http.client.HTTPConnection, body: dict) -> Answer:
    """One request and its whole answer."""
    connection.request("POST", "/api/v1/inference", json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    revision = response.getheader("x-model-revision")
    content = response.read().decode()
    if response.status != 200 or revision is None:
        raise Refused(f"status {response.status}: {content[:200]}")
    return Answer(revision, _streamed(content) if body["stream"] else _whole(content))


def ask_once(address: str, body: dict, port: int = PORT) -> Answer:
    """One request over a connection of its own."""
    connection = http.client.HTTPConnection(address, port, timeout=ANSWER_SECONDS)
    try:
        return ask(connection, body)
    finally:
        connection.close()


def _whole(content: str) -> str:
    answer = json.loads(content)
    _require_end(answer)
    return answer["generated_text"]


def _streamed(content: str) -> str:
    events = [event for event in content.split("\n\n") if event and not event.startswith(":")]
    if not events:
        raise Refused("a stream without events")
    if not all(event.startswith("data: ") for event in events):
        raise Refused(f"a stream that ends in {events[-1][-100:]!r}")
    *pieces, end = [json.loads(event.removeprefix("data: ")) for event in events]
    _require_end(end)
    return "".join(piece["text"] for piece in pieces)


def _require_end(event: dict) -> None:
    # With ignore_eos an answer is whole when it has the length that was asked for.
    if event.get("metadata", {}).get("finish_reason") != "length":
        raise Refused(f"an answer that is not complete: {event}")


class Traffic:
    """Clients that ask one model at an address until they are stopped.

    Texts are kept by the revision that gave them, and judged at the end: while an update begins nobody knows
    its revision.
    """

    def __init__(
        self, address: str, model: str, clients: int, tokens: int, streams_only: bool = False
    ) -> None:
        self._address, self._model, self._tokens, self._streams_only = address, model, tokens, streams_only
        self._lock = threading.Lock()
        self._phases: dict[str, Phase] = {}
        self._texts: dict[str, Counter] = {}
        self._phase = Phase()
        self._stop = threading.Event()
        self._clients = [
            threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(clients)
        ]

    def start(self, phase: str) -> "Traffic":
        """Begin to ask."""
        self.phase(phase)
        for client in self._clients:
            client.start()
        return self

    def phase(self, name: str) -> Phase:
        """From now on what ends is counted under this name."""
        with self._lock:
            self._phase = self._phases[name] = Phase()
            return self._phase

    def at_least(self, requests: int) -> None:
        """Wait until the present phase has had so many requests."""
        phase = self._phase
        eventually(f"{requests} requests", lambda: phase.requests >= requests, seconds=120)

    def stop(self) -> dict[str, Phase]:
        """Let everything under way come to its end."""
        self._stop.set()
        for client in self._clients:
            client.join()
        return self._phases

    def texts_seen(self) -> set[str]:
        """Of all revisions."""
        return {text for texts in self._texts.values() for text in texts}

    def require_texts(self, expected: Mapping[str, str]) -> None:
        """Each revision that answered is one of these and gave its text, always."""
        for revision, texts in self._texts.items():
            check(revision in expected, f"answers of revision {revision}, which was never asked for")
            wrong = [text for text in texts if text != expected[revision]]
            check(
                not wrong,
                f"{len(wrong)} other texts of revision {revision}: {wrong[:1]} in place of "
                f"{expected[revision]!r}",
            )

    def _run(self, number: int) -> None:
        connection = http.client.HTTPConnection(self._address, PORT, timeout=ANSWER_SECONDS)
        turn = number
        while not self._stop.is_set():
            turn += 1
            stream = self._streams_only or turn % 2 == 0
            if connection.sock is not None and select.select([connection.sock], [], [], 0)[0]:
                connection.close()
            is_new = connection.sock is None
            began = time.monotonic()
            try:
                answer = ask(connection, question(self._model, stream, self._tokens))
                reason = None
            except (Refused, OSError, http.client.HTTPException, ValueError, KeyError) as error:
                answer, reason = None, f"{type(error).__name__}: {error}"
                connection.close()
            with self._lock:
                self._phase.connections += is_new
                if answer is None:
                    kind = "stream" if stream else "whole answer"
                    self._phase.failures.append(
                        f"{kind}, {time.monotonic() - began:.2f} s, new={is_new}: {reason}"
                    )
                else:
                    self._phase.answers[answer.revision, stream] += 1
                    self._texts.setdefault(answer.revision, Counter())[answer.text] += 1
            time.sleep(PAUSE_SECONDS if reason is None else 10 * PAUSE_SECONDS)


def require_unnoticed(phase: Phase, requests: int, streams: int) -> None:
    """No failure, and so many requests that one would have been seen."""
    check(not phase.failures, f"{len(phase.failures)} failed: {phase.failures[:REASONS_SHOWN]}")
    check(phase.requests >= requests, f"only {phase.requests} requests of {requests}")
    check(phase.streams >= streams, f"only {phase.streams} streams of {streams}")
