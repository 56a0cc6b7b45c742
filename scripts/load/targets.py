"""Requests to send, in two dialects, each with the number of tokens that its answer has to have.

End-of-text tokens end nothing, so that an answer has exactly as many tokens as were asked for, and no two prompts begin
alike, so that none is answered from what was kept of another.
"""

import base64
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

NATIVE, CHAT = "native", "chat"
PATHS = {NATIVE: "/api/v1/inference", CHAT: "/v1/chat/completions"}
# About a token each, with any tokenizer of English.
WORDS = (
    "time year people way day man thing woman life child world school state family student group country problem hand "
    "part place case week company system program question work government number night point home water room mother "
    "area money story fact month lot right study book eye job word business issue side kind head house service friend"
).split()


@dataclass(frozen=True)
class Target:
    """A request, and what its answer has to be."""

    dialect: str
    words: int
    """Of the prompt."""
    tokens: int
    """That the answer has."""
    streams: bool = True

    @property
    def path(self) -> str:
        """Where it is sent."""
        return PATHS[self.dialect]

    def body(self, prompt: str) -> dict:
        """What is sent."""
        common = {"max_tokens": self.tokens, "ignore_eos": True, "stream": self.streams}
        if self.dialect == NATIVE:
            return {"text": prompt, **common}
        usage = {"stream_options": {"include_usage": True}} if self.streams else {}
        return {"messages": [{"role": "user", "content": prompt}], **common, **usage}


def in_both_dialects(count: int, words: int, tokens: Sequence[int], whole: bool = False) -> list[Target]:
    """So many, by turns native and chat; lengths come round too. With `whole`, each second pair is not streamed."""
    return [
        Target((NATIVE, CHAT)[index % 2], words, tokens[index % len(tokens)], not (whole and index // 2 % 2))
        for index in range(count)
    ]


def vegeta_lines(targets: Sequence[Target], address: str, seed: str) -> str:
    """The targets as vegeta reads them: JSON, one a line. The fragment of an address, which is not sent, numbers it."""
    chance = random.Random(seed)
    return "".join(
        json.dumps(
            {
                "method": "POST",
                "url": f"http://{address}{target.path}#{index}",
                "header": {"Content-Type": ["application/json"]},
                "body": base64.b64encode(
                    json.dumps(target.body(_prompt(target.words, chance))).encode()
                ).decode(),
            }
        )
        + "\n"
        for index, target in enumerate(targets)
    )


def _prompt(words: int, chance: random.Random) -> str:
    return " ".join(chance.choices(WORDS, k=words))
