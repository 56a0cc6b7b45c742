"""What an answer is: whole, or what it lacks. A stream that merely stops looks well to most clients; not here."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from load.targets import CHAT, Target

DONE = "[DONE]"


@dataclass(frozen=True)
class Answer:
    """What a body turned out to be."""

    lacks: str
    """What is missing or wrong; empty when the answer is whole."""
    tokens: int
    """That it says it has."""
    begun: bool
    """Whether a text has begun to come."""


def read_answer(target: Target, body: bytes, failure: str) -> Answer:
    """Look at the body of an answer with status 200; `failure` is what the client says went wrong, if anything."""
    if not target.streams:
        return _whole(target, body, failure)
    events, mended = list(_events(body)), not body or body.endswith(b"\n\n")
    failed = next((event["error"] for event in events if isinstance(event, dict) and "error" in event), None)
    reason, tokens, begun, ended = (_chat if target.dialect == CHAT else _native)(events)
    wants = [
        (not failure, f"the connection failed: {failure}"),
        (failed is None, f"an event tells of an error: {failed}"),
        (mended, "the last event is torn"),
        (ended, "there is no end mark"),
        (reason == "length", f"the finish_reason is {reason}"),
        (tokens == target.tokens, f"there are {tokens} tokens and not {target.tokens}"),
    ]
    return Answer(next((lack for kept, lack in wants if not kept), ""), tokens, begun)


def _whole(target: Target, body: bytes, failure: str) -> Answer:
    if failure:
        return Answer(f"the connection failed: {failure}", 0, False)
    answer = json.loads(body)
    if target.dialect == CHAT:
        reason, tokens = answer["choices"][0]["finish_reason"], answer["usage"]["completion_tokens"]
    else:
        reason, tokens = answer["metadata"]["finish_reason"], answer["metadata"]["tokens_generated"]
    kept = (reason, tokens) == ("length", target.tokens)
    return Answer("" if kept else f"{tokens} tokens, finish_reason {reason}", tokens, True)


def _events(body: bytes) -> Iterator[dict | str]:
    """The data of each event that is whole."""
    for event in body.decode(errors="replace").split("\n\n")[:-1]:
        if event.startswith("data: "):
            data = event.removeprefix("data: ")
            yield data if data == DONE else json.loads(data)


def _native(events: list) -> tuple[str | None, int, bool, bool]:
    """Finish reason, tokens, whether a text has begun, whether the end mark is there and last."""
    last = next((event["metadata"] for event in events if "metadata" in event), None)
    begun = any("text" in event for event in events)
    if last is None:
        return None, 0, begun, False
    return last["finish_reason"], last["tokens_generated"], begun, "metadata" in events[-1]


def _chat(events: list) -> tuple[str | None, int, bool, bool]:
    chunks = [event for event in events if event != DONE]
    choices = [choice for chunk in chunks for choice in chunk.get("choices", ())]
    reason = next((choice["finish_reason"] for choice in choices if choice["finish_reason"]), None)
    usage = next((chunk["usage"] for chunk in chunks if chunk.get("usage")), {})
    begun = any(choice["delta"].get("content") for choice in choices)
    return reason, usage.get("completion_tokens", 0), begun, bool(events) and events[-1] == DONE
